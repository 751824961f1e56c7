"""Weighted Metric: a fixed weighting of RAC, PT, RAR and negative FTR [paper; ours: how it is mapped into [0, 1]]."""

from collections.abc import Mapping

from proactor_lib.metrics import TurnScores
from proactor_lib.rewards.metric import MetricReward, components


class WeightedMetric(MetricReward):
    """Alignment, timing and restraint with the weights of `reward_weights`."""

    name = "weighted_metric"

    def combine(self, scores: TurnScores, due: float, progress: float) -> tuple[float, dict[str, float]]:
        """`mix` with fixed weights."""
        return mix(self.params.reward_weights, scores, due), dict(self.params.reward_weights)


def mix(weights: Mapping[str, float], scores: TurnScores, due: float) -> float:
    """What the output earned of what it could have earned, in [0, 1] [ours].

        earned   = w_rac RAC + w_pt min(1, PT / due) + w_rar min(1, RAR / due) - w_ftr FTR, not below 0
        possible = w_rac + w_pt + w_rar

    `due` is the share of the open references that can be executed now: a perfect output's PT and RAR. Where it is 0,
    both terms are left out of both sums: before `ready` a candidate loses nothing for not being ready, and
    an early trigger gains nothing by it. So a perfect output scores 1 at every turn, and silence scores 0 where a
    reference is open.
    """
    m = components(scores)
    earned, possible = weights.get("rac", 0.0) * m["rac"], weights.get("rac", 0.0)
    for term in ("pt", "rar") if due else ():
        earned += weights.get(term, 0.0) * min(1.0, m[term] / due)
        possible += weights.get(term, 0.0)
    earned -= weights.get("ftr", 0.0) * m["ftr"]
    return max(0.0, earned) / possible if possible else 0.0
