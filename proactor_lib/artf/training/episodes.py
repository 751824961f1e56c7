"""Which dialogue, and which of its turns, a training step visits: a function of the seed and a running number alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from proactor_lib.schema import Catalog, Dialogue, DialogueReferences, ReferenceAction


@dataclass(frozen=True)
class Episode:
    """One dialogue in one step; its number is its position in the data, from 0."""

    number: int
    dialogue: Dialogue
    catalog: Catalog
    references: tuple[ReferenceAction, ...]
    turns: tuple[int, ...]  # increasing

    @property
    def session(self) -> str:
        """What keeps all requests of the visit on one server."""
        return f"{self.dialogue.id}-{self.number}"


class DialogueSampler:
    """Endless: epoch after epoch in a shuffled order, each visit with a fresh sample of the dialogue's turns.

    Most turns ask for silence, and a sample of all would teach little else. So of `turns_per_dialogue` turns a share of
    `open_share` has an open reference, where there are as many; None: all that have one, and as many others; 0: all
    turns [ours].
    """

    def __init__(self, dialogues: Sequence[Dialogue], references: Sequence[DialogueReferences], catalog: Catalog,
                 turns_per_dialogue: int | None, seed: int, open_share: float = 0.5):  # fmt: skip
        self._dialogues, self._catalog, self._seed = dialogues, catalog, seed
        self._turns_per_dialogue, self._open_share = turns_per_dialogue, open_share
        self._references = {r.dialogue_id: r.references for r in references}

    def __getitem__(self, number: int) -> Episode:
        epoch, place = divmod(number, len(self._dialogues))
        order = list(range(len(self._dialogues)))
        random.Random(f"{self._seed}/{epoch}").shuffle(order)
        dialogue = self._dialogues[order[place]]
        references = self._references.get(dialogue.id, ())
        turns = range(1, len(dialogue.turns) + 1)
        covered = [t for t in turns if any(r.window.covers(t) for r in references)]
        wanted = max(1, 2 * len(covered)) if self._turns_per_dialogue is None else self._turns_per_dialogue
        if 0 < wanted < len(turns):
            draw = random.Random(f"{self._seed}/{number}/turns")
            silent = [t for t in turns if t not in covered]
            share = 0.5 if self._turns_per_dialogue is None else self._open_share
            few = max(int(wanted * share), wanted - len(silent))
            chosen = draw.sample(covered, min(len(covered), few))
            turns = sorted(chosen + draw.sample(silent, wanted - len(chosen)))
        return Episode(number, dialogue, self._catalog, references, tuple(turns))
