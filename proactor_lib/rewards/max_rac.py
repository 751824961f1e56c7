"""Max RAC: the best alignment of one output at its turn [paper]."""

from collections.abc import Mapping

from proactor_lib.rewards.metric import MetricReward


class MaxRac(MetricReward):
    """Max AC: one right prediction is enough, however many wrong ones stand beside it. It says nothing of timing."""

    name = "max_rac"
    timed = False

    def combine(self, metrics: Mapping[str, float], progress: float) -> tuple[float, dict[str, float]]:
        """Max AC itself."""
        return metrics["max_rac"], {}
