"""Weighted Metric: a fixed weighting of RAC, PT, RAR and negative FTR [paper; ours: its mapping to 0..1]."""

from collections.abc import Mapping

from proactor_lib.rewards.metric import MetricReward


class WeightedMetric(MetricReward):
    """Alignment, timing and restraint with the weights of `reward_weights`."""

    name = "weighted_metric"

    def combine(self, metrics: Mapping[str, float], progress: float) -> tuple[float, dict[str, float]]:
        """`mix` with fixed weights."""
        return mix(self.params.reward_weights, metrics), dict(self.params.reward_weights)


def mix(weights: Mapping[str, float], metrics: Mapping[str, float]) -> float:
    """What the output earned of what it could have earned, in [0, 1] [ours].

        value    = served max(0, earned) / possible
        earned   = w_rac RAC + w_pt min(1, PT / due) + w_rar min(1, RAR / due) - w_ftr FTR
        possible = w_rac + w_pt + w_rar

    `due` is the share of the open references that can be executed now, and PT counts triggers of those only: a perfect
    output has PT = RAR = due. `served` is the share of what is due that is matched one to one. Where nothing is due it
    is 1, and both terms are left out of both sums: before `ready` a candidate loses nothing for not being ready, and an
    early trigger gains nothing by it. So a perfect output scores 1 at every turn, and silence scores 0 where a
    reference is open. (Less than 1 where a parameter is not known before `ready`.)
    """
    w = {term: weights.get(term, 0.0) for term in ("rac", "pt", "rar", "ftr")}
    earned, possible, due = w["rac"] * metrics["rac"], w["rac"], metrics["due"]
    if due:
        earned += w["pt"] * min(1.0, metrics["pt_due"] / due) + w["rar"] * min(1.0, metrics["rar"] / due)
        possible += w["pt"] + w["rar"]
    earned -= w["ftr"] * metrics["ftr"]
    return metrics["served"] * max(0.0, earned) / possible if possible else 0.0
