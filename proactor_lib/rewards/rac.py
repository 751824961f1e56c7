"""RAC: the alignment coverage of one output at its turn [paper]."""

from collections.abc import Mapping

from proactor_lib.rewards.metric import MetricReward


class Rac(MetricReward):
    """AC: the mean over the predictions of their best alignment. It says nothing of timing."""

    name = "rac"
    timed = False

    def combine(self, metrics: Mapping[str, float], progress: float) -> tuple[float, dict[str, float]]:
        """AC itself."""
        return metrics["rac"], {}
