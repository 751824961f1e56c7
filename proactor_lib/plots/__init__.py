"""Every figure takes data and returns a matplotlib Figure in one style; none reads a file."""

from proactor_lib.plots.performance import busy_shares, grouped_bars, split_curves, step_parts
from proactor_lib.plots.style import COLOURS, STYLE, colours, markers
from proactor_lib.plots.timelines import gallery, timeline, worst, worst_dialogues
from proactor_lib.plots.timing import (
    ac_against_timing,
    breakdown_dots,
    survival,
    trade_off,
    trigger_times,
    utility_curve,
)
from proactor_lib.plots.training import reward_curves, training_curves

__all__ = [
    "COLOURS",
    "STYLE",
    "ac_against_timing",
    "breakdown_dots",
    "busy_shares",
    "colours",
    "gallery",
    "grouped_bars",
    "markers",
    "reward_curves",
    "split_curves",
    "step_parts",
    "survival",
    "timeline",
    "trade_off",
    "training_curves",
    "trigger_times",
    "utility_curve",
    "worst",
    "worst_dialogues",
]
