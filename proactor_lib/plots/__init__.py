"""Every figure takes data and returns a matplotlib Figure in one style; none reads a file."""

from proactor_lib.plots.style import COLOURS, NAMES, STYLE, colours, markers
from proactor_lib.plots.timelines import gallery, timeline, worst
from proactor_lib.plots.timing import ac_against_timing, breakdown_dots, survival, trade_off, trigger_times
from proactor_lib.plots.training import reward_curves, training_curves

__all__ = [
    "COLOURS",
    "NAMES",
    "STYLE",
    "ac_against_timing",
    "breakdown_dots",
    "colours",
    "gallery",
    "markers",
    "reward_curves",
    "survival",
    "timeline",
    "trade_off",
    "training_curves",
    "trigger_times",
    "worst",
]
