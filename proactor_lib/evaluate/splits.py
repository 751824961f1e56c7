"""A split of a run as policies are asked about it: its dialogues, and the turns of each."""

from functools import cached_property

from proactor_lib import provenance
from proactor_lib.evaluate.agents import EvalCase
from proactor_lib.evaluate.predictions import TEST
from proactor_lib.policies import FIXED_POLICIES
from proactor_lib.run_folder import RunFolder


class EvalSplit:
    """A split of a run, as policies are asked about it."""

    def __init__(self, run: RunFolder, split: str = TEST):
        self.run, self.split = run, split

    @cached_property
    def cases(self) -> list[EvalCase]:
        """The dialogues with the turns that are asked."""
        count = self.run.params.evaluation_turns
        return [
            EvalCase(c.dialogue, c.references, c.catalog, spread(len(c.dialogue.turns), count))
            for c in self.run.split(self.split)
        ]

    @property
    def evaluated_turns(self) -> dict[str, tuple[int, ...]]:
        """The turns that are asked, by dialogue."""
        return {c.dialogue.id: c.turns for c in self.cases}

    def made_from(self, policy: str) -> dict:
        """What the policy's predictions depend on in the data: JSON values.

        Only fixed policies see the references; what a model says of a dialogue does not depend on the others.
        """
        run = self.run
        files = run.sources(self.split) if policy in FIXED_POLICIES else [run.data / f"{self.split}.jsonl"]
        return {
            "files": [provenance.fingerprint(f) for f in files],
            "catalog": run.catalog.digest,
            "turns": run.params.evaluation_turns,
        }


def spread(turns: int, count: int) -> tuple[int, ...]:
    """`count` evenly spaced turns of 1 to `turns`, the middles of equal parts; all for 0 or where there are no more."""
    if count == 0 or count >= turns:
        return tuple(range(1, turns + 1))
    return tuple(int((i + 0.5) * turns / count) + 1 for i in range(count))
