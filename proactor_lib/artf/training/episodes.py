"""Which dialogue, and which of its turns, a training step visits: a function of the seed and a running number alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from proactor_lib.schema import Case


@dataclass(frozen=True)
class Episode(Case):
    """One case in one step; its number is its position in the data, from 0."""

    number: int
    turns: tuple[int, ...]  # increasing

    @property
    def session(self) -> str:
        """What keeps all requests of the visit on one server."""
        return f"{self.dialogue.id}-{self.number}"


class DialogueSampler:
    """Endless: epoch after epoch in a shuffled order, each visit with a fresh sample of the dialogue's turns.

    Most turns ask for silence, and a sample of all would teach little else. So of `turns_per_dialogue` turns a share of
    `open_share` has an open reference, where there are as many; None: all that have one, and as many others; 0: all
    turns [ours]. `first`: how many visits another training has made before.
    """

    def __init__(self, cases: Sequence[Case], turns_per_dialogue: int | None, seed: int, open_share: float = 0.5,
                 first: int = 0):  # fmt: skip
        self._cases, self._seed, self._first = cases, seed, first
        self._turns_per_dialogue, self._open_share = turns_per_dialogue, open_share

    def __getitem__(self, number: int) -> Episode:
        number += self._first
        epoch, place = divmod(number, len(self._cases))
        order = list(range(len(self._cases)))
        random.Random(f"{self._seed}/{epoch}").shuffle(order)
        case = self._cases[order[place]]
        turns = range(1, len(case.dialogue.turns) + 1)
        covered = [t for t in turns if any(r.window.covers(t) for r in case.references)]
        wanted = max(1, 2 * len(covered)) if self._turns_per_dialogue is None else self._turns_per_dialogue
        if 0 < wanted < len(turns):
            draw = random.Random(f"{self._seed}/{number}/turns")
            silent = [t for t in turns if t not in covered]
            share = 0.5 if self._turns_per_dialogue is None else self._open_share
            up = random.Random(f"{self._seed}/{number}/share").random()  # so that small samples have their share, too
            few = max(int(wanted * share + up), wanted - len(silent))
            chosen = draw.sample(covered, min(len(covered), few))
            turns = sorted(chosen + draw.sample(silent, wanted - len(chosen)))
        return Episode(case.dialogue, case.references, case.catalog, number, tuple(turns))
