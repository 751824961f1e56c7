"""Utility: a turn's share of what a deployed agent would be worth, memoryless [ours]."""

from collections.abc import Sequence

from proactor_lib.agent import Parsed
from proactor_lib.metrics import as_set, is_early, pair
from proactor_lib.rewards.base import Group, Reward, Score
from proactor_lib.schema import PredictedAction, ReferenceAction

PREPARED = 0.05  # what a candidate earns where its action is early, and costs anywhere else


class Utility(Reward):
    """Right triggers less `reward_price` for each false one.

    Silence is worth 0 at every turn, unreadable output -`reward_price`: so it is not clipped to [0, 1]. It looks at one
    turn, and so pays a trigger before `ready` as well as one at it, and pays it again at the next turn.
    """

    name = "utility"

    async def score(self, group: Group) -> list[Score]:
        """K scores; none is ever None."""
        return [self._one(output, group) for output in group.outputs]

    def _one(self, output: Parsed, group: Group) -> Score:
        if output.unreadable:
            return Score(-self.params.reward_price, {"unreadable": 1.0})
        parts = utility_parts(output.actions, group.open, group.turn, self.params.reward_theta)
        value = parts["right"] - self.params.reward_price * parts["false"] + PREPARED * parts["prepared"]
        return Score(value, parts)


def utility_parts(
    actions: Sequence[PredictedAction], references: Sequence[ReferenceAction], turn: int, theta: float
) -> dict[str, float]:
    """What an output amounts to at a turn at which `references` are open.

    right: the sum of s over the `ready` predictions that pair, as an executor pairs them; false: the other `ready`
    ones; prepared: candidates that pair with early references that are left, less all other candidates.
    """
    said = as_set(actions)
    ready = [a for a in said if a.status == "ready"]
    candidates = [a for a in said if a.status == "candidate"]
    pairs = pair(ready, references, turn, theta)
    taken = {j for _, j, _ in pairs}
    early = [r for j, r in enumerate(references) if j not in taken and is_early(r, turn)]
    right = len(pair(candidates, early, turn, theta))
    return {
        "right": sum((s for _, _, s in pairs), 0.0),
        "false": float(len(ready) - len(pairs)),
        "prepared": float(2 * right - len(candidates)),
    }
