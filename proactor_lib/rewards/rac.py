"""RAC: the alignment coverage of one output at its turn [paper]."""

from proactor_lib.metrics import TurnScores
from proactor_lib.rewards.metric import MetricReward


class Rac(MetricReward):
    """AC: the mean over the predictions of their best alignment. It says nothing of timing."""

    name = "rac"
    timed = False

    def combine(self, scores: TurnScores, due: float, progress: float) -> tuple[float, dict[str, float]]:
        """AC itself."""
        return scores.ac, {}
