"""Adaptive Metric: Weighted Metric whose weights move with training progress [paper; ours: weights and curves]."""

from collections.abc import Mapping

from proactor_lib.rewards.metric import MetricReward
from proactor_lib.rewards.schedule import blend, eased
from proactor_lib.rewards.weighted_metric import mix


class AdaptiveMetric(MetricReward):
    """Explore (timing first), balance (`reward_weights`), conserve (restraint and alignment first)."""

    name = "adaptive_metric"
    staged = True

    def combine(self, metrics: Mapping[str, float], progress: float) -> tuple[float, dict[str, float]]:
        """`mix` with the weights of this progress."""
        weights = self.weights(progress)
        return mix(weights, metrics), weights

    def weights(self, progress: float) -> dict[str, float]:
        """The weights of RAC, PT, RAR and FTR at `progress` in [0, 1]."""
        p = self.params
        stages = {"explore": p.explore_weights, "balance": p.reward_weights, "conserve": p.conserve_weights}
        return blend(stages, eased(progress, p.reward_schedule))
