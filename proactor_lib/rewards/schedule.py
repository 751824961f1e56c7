"""How a stage-aware reward moves with training progress [paper: stages; ours: the curves and the stages' weights]."""

import math
from collections.abc import Callable

STAGES = {"explore": 0.0, "balance": 0.5, "conserve": 1.0}  # the eased progress at which each stage is pure

SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda u: u,
    "cosine": lambda u: (1 - math.cos(math.pi * u)) / 2,
    "step": lambda u: min(int(3 * u), 2) / 2,  # a third of the training in each stage
}


def eased(progress: float, schedule: str) -> float:
    """Progress u in [0, 1] along the curve `schedule`: 0 at 0, one half in the middle, 1 at 1."""
    return SCHEDULES[schedule](min(max(progress, 0.0), 1.0))


def blend(stages: dict[str, dict[str, float]], at: float) -> dict[str, float]:
    """The weights at eased progress `at`: explore's at 0, balance's at 0.5, conserve's at 1, straight lines between.

    A weight that a stage does not name is 0 there.
    """
    first, last = ("explore", "balance") if at <= 0.5 else ("balance", "conserve")
    share = (at - STAGES[first]) / 0.5
    names = dict.fromkeys(k for weights in stages.values() for k in weights)
    return {k: (1 - share) * stages[first].get(k, 0.0) + share * stages[last].get(k, 0.0) for k in names}
