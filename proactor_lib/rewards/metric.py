"""Rewards made of the metrics of one turn, without a judge [SPEC 5]."""

from abc import abstractmethod

from proactor_lib.agent import Parsed
from proactor_lib.metrics import TurnScores, turn_scores
from proactor_lib.rewards.base import Group, Reward, Score


class MetricReward(Reward):
    """What metric rewards share.

    Where no reference is open silence scores 1 and any prediction 0; unreadable output scores 0 everywhere [ours].
    """

    async def score(self, group: Group) -> list[Score]:
        """K scores; none is ever None. An output that several samples share is scored once."""
        known: dict[str, Score] = {}
        for text, output in zip(group.texts, group.outputs, strict=True):
            if text not in known:
                known[text] = self._one(output, group)
        return [known[text] for text in group.texts]

    def _one(self, output: Parsed, group: Group) -> Score:
        if output.unreadable:
            return Score(0.0, {"unreadable": 1.0})
        references = group.open
        if not references:
            return Score(0.0 if output.actions else 1.0, {"open": 0.0})
        scores = turn_scores(output.actions, references, group.turn, self.params.reward_theta)
        due = sum(r.window.ready <= group.turn for r in references) / len(references)
        value, weights = self.combine(scores, due, group.progress)
        return Score(value, components(scores) | {"due": due} | {f"weight_{k}": w for k, w in weights.items()})

    @abstractmethod
    def combine(self, scores: TurnScores, due: float, progress: float) -> tuple[float, dict[str, float]]:
        """The reward in [0, 1] at a turn with open references, and the weights that made it.

        `due`: the share of the open references that are executable, ready <= t <= close; in [0, 1].
        """


def components(scores: TurnScores) -> dict[str, float]:
    """The metrics by their names in rewards. RAR and FTR of no predictions are 0 here, not undefined [SPEC 5]."""
    return {
        "open": float(scores.open),
        "rac": scores.ac or 0.0,
        "max_rac": scores.max_ac or 0.0,
        "pt": scores.pt or 0.0,
        "rar": scores.rar or 0.0,
        "ftr": scores.ftr or 0.0,
    }
