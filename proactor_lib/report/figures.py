"""The report's figures, from tables that a run wrote. Colour-blind safe (Okabe and Ito's palette), legible in print."""

import matplotlib

matplotlib.use("agg", force=False)
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "figure.constrained_layout.use": True, "axes.axisbelow": True,
}  # fmt: skip


def colours(names) -> dict[str, str]:
    """A colour for each name, the same whenever the names are."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def reward_curve(steps: pd.DataFrame) -> Figure:
    """Each step's groups as points, the mean group reward as a line, and the means of the first and last fifth."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.2, 2.9))
        if "reward_groups" in steps:
            groups = steps[["step", "reward_groups"]].explode("reward_groups").dropna()
            axes.plot(groups.step, groups.reward_groups.astype(float), ".", color="#999999", ms=3, label="a group")
        axes.plot(steps.step, steps.reward_mean, color=COLOURS[0], lw=1.5, label="mean of a step")
        fifth = round(len(steps) / 5)
        for part in (steps.head(fifth), steps.tail(fifth)) if len(steps) >= 10 else ():
            ends, mean = [part.step.min(), part.step.max()], part.reward_mean.mean()
            axes.plot(ends, [mean, mean], color=COLOURS[1], lw=3, solid_capstyle="butt")
            axes.annotate(f"{mean:.3f}", (np.mean(ends), mean), (0, 7), textcoords="offset points", ha="center",
                          color=COLOURS[1], weight="bold", bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
        axes.set(xlabel="optimiser step", ylabel="reward", ylim=(-0.02, 1.02))
        axes.legend(frameon=False, loc="lower right", ncols=2, markerscale=3)
    return figure


def mismatch_curve(steps: pd.DataFrame) -> Figure:
    """Trainer against server at each step: KL, and the share of tokens whose update was clipped."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(6.2, 2.0))
        for axes, column, name, limit in zip(
            panels, ("kl", "clipped_share"), ("KL, nats a token", "clipped tokens, share"), (0.01, 0.05), strict=True
        ):
            axes.plot(steps.step, steps[column], color=COLOURS[0], lw=1.5)
            axes.axhline(limit, color=COLOURS[1], lw=1, ls="--")
            axes.set(xlabel="optimiser step", title=name)
            axes.set_ylim(bottom=0)
            axes.title.set_fontsize(10)
    return figure


def metric_dots(table: pd.DataFrame, metrics: list[str], names: dict[str, str]) -> Figure:
    """A row a metric, a mark a method with its 95% interval, on [0, 1]; `table`: method, metric, value, low, high."""
    methods = list(dict.fromkeys(table.method))
    paint = colours(methods)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.2, 0.9 + 0.17 * len(metrics) * (len(methods) + 1)))
        for i, method in enumerate(methods):
            rows = table[table.method == method].set_index("metric").loc[metrics]
            y = np.arange(len(metrics)) + (i - (len(methods) - 1) / 2) / (len(methods) + 1)
            axes.hlines(y, rows.low, rows.high, color=paint[method], lw=2, alpha=0.6)
            axes.plot(rows.value, y, "os^Dv<>P"[i % 8], color=paint[method], ms=5, label=method)
        axes.set_yticks(range(len(metrics)), [names[m] for m in metrics])
        axes.set(ylim=(len(metrics) - 0.5, -0.5), xlim=(-0.02, 1.02))
        figure.legend(frameon=False, ncols=min(len(methods), 4), loc="outside upper center")
    return figure
