"""How training went, from the metrics file of a run."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from proactor_lib.plots.style import COLOURS, WIDTH, colours, dashes, figure, legend_above


def smoothed(values: pd.Series, window: int) -> pd.Series:
    """A centred moving average over `window` steps, shorter at the ends."""
    return values.rolling(window, center=True, min_periods=1).mean()


def reward_curves(runs: Mapping[str, pd.DataFrame], window: int = 0) -> Figure:
    """Mean group reward by optimiser step: smoothed, with a 95% band of the smoothed mean, and each step faint.

    `runs`: frames with `step` and `reward_mean`. `window`: steps that are averaged; 0: a tenth of the run. The band is
    the mean +- 1.96 standard errors over the window's steps [ours]; one step has none.
    """
    paint, dash = colours(runs), dashes(runs)
    with figure(size=(WIDTH, 3.0)) as (made, ax):
        for name, steps in runs.items():
            width = window or max(len(steps) // 10, 1)
            mean, error = smoothed(steps.reward_mean, width), _standard_error(steps.reward_mean, width)
            ax.plot(steps.step, steps.reward_mean, color=paint[name], lw=0.6, alpha=0.3)
            ax.fill_between(steps.step, mean - 1.96 * error, mean + 1.96 * error, color=paint[name], alpha=0.18, lw=0)
            ax.plot(steps.step, mean, color=paint[name], ls=dash[name], lw=1.7, label=name)
        ax.set(xlabel="optimiser step", ylabel="mean group reward")
        if len(runs) > 1:
            legend_above(made, ax.get_legend_handles_labels()[0])
    return made


def _standard_error(values: pd.Series, window: int) -> pd.Series:
    rolling = values.rolling(window, center=True, min_periods=1)
    return rolling.std(ddof=1) / np.sqrt(rolling.count())


def training_curves(
    steps: pd.DataFrame, columns: Mapping[str, str], limits: Mapping[str, float] | None = None, across: int = 3
) -> Figure | None:
    """Small panels, one a column of the metrics file, over optimiser steps.

    `columns`: column -> title; a column that the file lacks, or that is empty, is left out. `limits`: a bound to draw.
    None when none is left.
    """
    kept = {c: title for c, title in columns.items() if c in steps and steps[c].notna().any()}
    if not kept:
        return None
    across = 2 if len(kept) == 4 else min(across, len(kept))
    down = -(-len(kept) // across)
    with figure(down, across, (WIDTH, 0.4 + 1.55 * down), squeeze=False) as (made, axes):
        for ax, (column, title) in zip(axes.flat, kept.items(), strict=False):
            seen = steps[["step", column]].dropna()
            ax.plot(seen.step, seen[column], color=COLOURS[0], lw=1.1)
            ax.set_title(title)
            if column in (limits or {}):
                ax.axhline(limits[column], color=COLOURS[1], lw=1, ls="--")
        for ax in axes.flat[len(kept) :]:
            ax.remove()
        made.supxlabel("optimiser step", fontsize=9)
    return made
