"""The `rubric` judge: no language model, but a programmatic stand-in computed from the reference windows [ours].

It answers what a judge with hindsight might, so that the RULER rewards run and can be tried where there is no endpoint.
Wherever its numbers are shown they are to be named as this stand-in's.
"""

from collections.abc import Sequence
from statistics import fmean

from proactor_lib.agent import Parsed
from proactor_lib.metrics import alignment, is_due, matches
from proactor_lib.rewards.base import Group
from proactor_lib.rewards.outputs import counted, needs, served
from proactor_lib.schema import PredictedAction, ReferenceAction

STAND_IN = "rubric judge (a programmatic stand-in computed from the reference windows, not a language model)"


class RubricJudge:
    """Marks outputs by rule; `theta` is the alignment from which a prediction serves a reference."""

    name = "rubric"

    def __init__(self, theta: float = 0.75):
        self.theta, self.repeat = theta, 0  # it says the same however often it is asked

    async def mark(
        self, group: Group, outputs: Sequence[Parsed], criteria: Sequence[str]
    ) -> list[dict[str, float] | None]:
        """Never None. `score`, for the general rubric, is the mean of alignment, restraint and completeness."""
        return [
            group.once(("rubric", self.theta, id(o)), lambda o=o: self._marks(o.actions, group.open, group.turn))
            for o in outputs
        ]

    def _marks(
        self, actions: Sequence[PredictedAction], references: Sequence[ReferenceAction], turn: int
    ) -> dict[str, float]:
        """All marks are 1 for silence where nothing is open; 0 for silence where something is, and for the reverse.

        All are multiplied by the share of the due references that the output serves.
        """
        actions = counted(actions, references, turn, self.theta)
        if not (actions and references):
            right = float(not actions and not references)
            return dict.fromkeys(("timing", "alignment", "restraint", "completeness", "score"), right)
        best = [max(alignment(a, r, turn) for r in references) for a in actions]
        needed = needs(references, turn)
        serving = [
            [a for a in actions if any(matches(alignment(a, r, turn), self.theta) for r in need)] for need in needed
        ]
        marks = {
            "timing": fmean(_timing(need, found, turn) for need, found in zip(needed, serving, strict=True)),
            "alignment": fmean(best),
            "restraint": fmean([matches(b, self.theta) for b in best]),
            "completeness": fmean(bool(found) for found in serving),
        }
        marks["score"] = fmean(marks[c] for c in ("alignment", "restraint", "completeness"))
        share = served(actions, references, turn, self.theta)
        return {criterion: share * mark for criterion, mark in marks.items()}

    @property
    def counters(self) -> dict[str, float]:
        """Nothing: it calls no one."""
        return {}

    async def close(self) -> None:
        """Nothing to let go of."""


def _timing(need: Sequence[ReferenceAction], serving: Sequence[PredictedAction], turn: int) -> float:
    """1 for the status that the window asks for, one half for the other one, 0 where nothing serves the need."""
    wanted = "ready" if is_due(need[0], turn) else "candidate"
    return max((1.0 if a.status == wanted else 0.5 for a in serving), default=0.0)
