"""Rewards made of the metrics of one turn, without a judge."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from proactor_lib.agent import Parsed
from proactor_lib.metrics import is_due, turn_scores
from proactor_lib.rewards.base import Group, Reward, Score
from proactor_lib.rewards.outputs import counted, needs, served
from proactor_lib.rewards.schedule import STAGES
from proactor_lib.schema import PredictedAction, ReferenceAction


class MetricReward(Reward):
    """What metric rewards share.

    Where no reference is open silence scores 1 and any prediction 0; unreadable output scores 0 everywhere [ours].
    """

    async def score(self, group: Group) -> list[Score]:
        """K scores; none is ever None. An output that several samples share is scored once."""
        known: dict[tuple[str, bool], Score] = {}
        keys = [(text, o.unreadable) for text, o in zip(group.texts, group.outputs, strict=True)]  # one may be cut off
        for key, output in zip(keys, group.outputs, strict=True):
            if key not in known:
                known[key] = self._one(output, group)
        return [known[key] for key in keys]

    def _one(self, output: Parsed, group: Group) -> Score:
        if output.unreadable:
            return self._settled(0.0, unreadable=1.0)
        references = group.open
        if not references:
            return self._settled(0.0 if output.actions else 1.0, open=0.0)
        theta = self.params.reward_theta
        key = "metrics", theta, id(output)
        metrics = group.once(key, lambda: measure(output.actions, references, group.turn, theta))
        value, weights = self.combine(metrics, group.progress)
        steady = self.combine(metrics, STAGES["balance"])[0] if self.staged else None
        return Score(value, metrics | {f"weight_{k}": w for k, w in weights.items()}, steady)

    def _settled(self, value: float, **components: float) -> Score:
        return Score(value, components, value if self.staged else None)

    @abstractmethod
    def combine(self, metrics: Mapping[str, float], progress: float) -> tuple[float, dict[str, float]]:
        """The reward in [0, 1] at a turn with open references, and its weights; for `metrics` see `measure`."""


def measure(
    actions: Sequence[PredictedAction], references: Sequence[ReferenceAction], turn: int, theta: float
) -> dict[str, float]:
    """The metrics of an output by their names in rewards, at a turn at which `references` (one or more) are open.

    The output is what `counted` makes of it. rac, max_rac, pt, rar, ftr as in metrics, where RAR and FTR of no
    predictions are 0; open: how many needs (`outputs.needs`) are; due: the share of them that can be executed now;
    pt_due: PT over those only; served: the share of them that is matched one to one.
    """
    actions = counted(actions, references, turn, theta)
    scores = turn_scores(actions, references, turn, theta)
    needed, due = needs(references, turn), [r for r in references if is_due(r, turn)]
    return {
        "rac": scores.ac or 0.0,
        "max_rac": scores.max_ac or 0.0,
        "pt": scores.pt or 0.0,
        "rar": scores.rar or 0.0,
        "ftr": scores.ftr or 0.0,
        "open": float(len(needed)),
        "due": sum(is_due(need[0], turn) for need in needed) / len(needed),
        "pt_due": (scores if len(due) == len(references) else turn_scores(actions, due, turn, theta)).pt or 0.0,
        "served": served(actions, due, turn, theta),
    }
