"""Max RAC: the best alignment of one output at its turn [paper]."""

from proactor_lib.metrics import TurnScores
from proactor_lib.rewards.metric import MetricReward


class MaxRac(MetricReward):
    """Max AC: one right prediction is enough, however many wrong ones stand beside it. It says nothing of timing."""

    name = "max_rac"
    timed = False

    def combine(self, scores: TurnScores, due: float, progress: float) -> tuple[float, dict[str, float]]:
        """Max AC itself."""
        return scores.max_ac, {}
