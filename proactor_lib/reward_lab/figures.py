"""The reward lab's figures, drawn from its tables. The same style as the report's."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from proactor_lib.params import Params
from proactor_lib.report.figures import COLOURS, STYLE, colours
from proactor_lib.rewards.adaptive_metric import AdaptiveMetric
from proactor_lib.rewards.adaptive_ruler import AdaptiveRuler
from proactor_lib.rewards.rubric_judge import RubricJudge
from proactor_lib.rewards.schedule import SCHEDULES, eased


def schedules(params: Params) -> Figure:
    """Over training progress: the curves, Adaptive Metric's weights and Adaptive RULER's lambda."""
    u = np.linspace(0, 1, 301)
    metric, ruler = AdaptiveMetric(params), AdaptiveRuler(params, [RubricJudge()])
    weights = pd.DataFrame([metric.weights(x) for x in u], index=u)
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 2.6))
        curves, moving, share = figure.subplots(1, 3)
        for name, paint in colours(SCHEDULES).items():
            chosen = name == params.reward_schedule
            curves.plot(u, [eased(x, name) for x in u], color=paint, lw=2.5 if chosen else 1, label=name)
        for name, paint in colours(weights).items():
            moving.plot(u, weights[name], color=paint, label=name)
        share.plot(u, [ruler.weight(x) for x in u], color=COLOURS[0])
        curves.set(title="eased progress", xlabel="training progress u")
        moving.set(title="Adaptive Metric's weights", xlabel="training progress u", ylim=(0, None))
        share.set(title="Adaptive RULER's $\\lambda_u$", xlabel="training progress u", ylim=(0, 1))
        for axes in (curves, moving):
            axes.legend(frameon=False, fontsize=8)
    return figure


def heat(table: pd.DataFrame, title: str, low: float = 0.0, high: float = 1.0) -> Figure:
    """A table of numbers as coloured cells with the numbers in them; NaN is a dash."""
    values = table.to_numpy(float)
    with rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(1.8 + 0.8 * table.shape[1], 1.2 + 0.32 * len(table)))
        axes = figure.subplots()
        axes.imshow(values, vmin=low, vmax=high, cmap="cividis", aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            bright = np.isnan(value) or value > (low + high) / 2
            text = "–" if np.isnan(value) else f"{value:.2f}"
            axes.text(column, row, text, ha="center", va="center", color="black" if bright else "white", fontsize=8)
        axes.set_xticks(range(table.shape[1]), table.columns, rotation=30, ha="right")
        axes.set_yticks(range(len(table)), table.index)
        axes.set_title(title, loc="left")
    return figure


def tau_bars(taus: Mapping[str, float | None], judge: str) -> Figure:
    """Kendall's tau of each reward's order of the policies with opportunity timing."""
    known = {name: tau for name, tau in taus.items() if tau is not None}
    with rc_context(STYLE):
        figure = Figure(figsize=(6.2, 0.9 + 0.28 * len(known)))
        axes = figure.subplots()
        axes.barh(list(known), list(known.values()), color=COLOURS[0], height=0.6)
        axes.axvline(0, color="black", lw=0.8)
        axes.invert_yaxis()
        axes.set(xlim=(-1, 1), xlabel="Kendall's tau with opportunity timing")
        axes.set_title(f"RULER: {judge}", loc="left", fontsize=8)
    return figure


def margin_dots(
    margins: Mapping[str, Mapping[str, float]], labels: Mapping[str, tuple[str, str]], reward: str
) -> Figure:
    """How far a reward puts the better policy of each pair above the worse, with 95% intervals."""
    names = list(margins)
    rows = pd.DataFrame(margins).T.astype(float)
    with rc_context(STYLE):
        figure = Figure(figsize=(6.2, 0.9 + 0.3 * len(names)))
        axes = figure.subplots()
        axes.hlines(range(len(names)), rows.low, rows.high, color=COLOURS[0], lw=3, alpha=0.5)
        axes.plot(rows.value, range(len(names)), "o", color=COLOURS[0])
        axes.axvline(0, color="black", lw=0.8)
        axes.set_yticks(range(len(names)), [f"{name}: {labels[name][0]} − {labels[name][1]}" for name in names])
        axes.invert_yaxis()
        axes.set(xlabel="difference in mean reward, 95% interval")
        axes.set_title(reward, loc="left")
    return figure


def spread_bars(spread: pd.DataFrame, title: str) -> Figure:
    """The share of groups that carry a gradient, and the mean deviation inside groups, by reward."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 0.9 + 0.28 * len(spread)))
        for axes, column, name in zip(
            figure.subplots(1, 2, sharey=True),
            ("groups_with_spread", "deviation"),
            ("groups with spread, share", "deviation inside groups, mean"),
            strict=True,
        ):
            axes.barh(spread.reward, spread[column], color=COLOURS[2], height=0.6)
            axes.set(xlim=(0, 1 if column == "groups_with_spread" else None), xlabel=name)
        figure.axes[0].invert_yaxis()
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure
