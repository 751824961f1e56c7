"""Which dialogue, and which of its turns, a training step visits: a function of the seed and a running number alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from proactor_lib.schema import Catalog, Dialogue, DialogueReferences, ReferenceAction


@dataclass(frozen=True)
class Visit:
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


class Visits:
    """Endless: epoch after epoch in a shuffled order, each visit with a fresh sample of the dialogue's turns.

    Half of a sample, where there are as many, are turns with an open reference: most turns ask for silence, and a small
    sample of all would teach little else [ours].
    """

    def __init__(self, dialogues: Sequence[Dialogue], references: Sequence[DialogueReferences], catalog: Catalog,
                 turns_per_dialogue: int, seed: int):  # fmt: skip
        self._dialogues, self._catalog, self._seed = dialogues, catalog, seed
        self._turns_per_dialogue = turns_per_dialogue
        self._references = {r.dialogue_id: r.references for r in references}

    def __getitem__(self, number: int) -> Visit:
        epoch, place = divmod(number, len(self._dialogues))
        order = list(range(len(self._dialogues)))
        random.Random(f"{self._seed}/{epoch}").shuffle(order)
        dialogue = self._dialogues[order[place]]
        references = self._references.get(dialogue.id, ())
        turns = range(1, len(dialogue.turns) + 1)
        if 0 < self._turns_per_dialogue < len(turns):
            turns = self._sample(turns, references, random.Random(f"{self._seed}/{number}/turns"))
        return Visit(number, dialogue, self._catalog, references, tuple(turns))

    def _sample(self, turns: range, references: Sequence[ReferenceAction], draw: random.Random) -> list[int]:
        covered = [t for t in turns if any(r.window.covers(t) for r in references)]
        chosen = draw.sample(covered, min(len(covered), self._turns_per_dialogue // 2))
        others = [t for t in turns if t not in chosen]
        return sorted(chosen + draw.sample(others, self._turns_per_dialogue - len(chosen)))
