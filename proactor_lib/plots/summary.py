"""The report's own figures, in the style of proactor_lib.plots."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from proactor_lib.metrics.glossary import NAMES
from proactor_lib.metrics.statistics import t_interval
from proactor_lib.plots.style import COLOURS, WIDTH, colours, figure, legend_above, markers

LIMITS = {"kl": 0.01, "clipped_share": 0.05}  # what a run without stale samples should keep
MISMATCH = {"kl": "KL, nats a token", "clipped_share": "clipped tokens, share"}


def reward_curve(steps: pd.DataFrame, gain: str) -> Figure:
    """Each step's groups as points, their mean as a line, and the means of `gain`'s column in the first and last fifth.

    Where whole dialogues are sampled, the utility of what was sampled too, as the mean over five steps.
    """
    lowest, highest = 0.0, 1.0
    with figure(size=(WIDTH, 2.9)) as (made, ax):
        if "reward_groups" in steps:
            groups = steps[["step", "reward_groups"]].explode("reward_groups").dropna()
            ax.plot(groups.step, groups.reward_groups.astype(float), ".", color="#999999", ms=3, label="a group")
            lowest = min(lowest, float(groups.reward_groups.min()))
            highest = max(highest, float(groups.reward_groups.max()))  # two triggers that are due earn twice
        if "utility" in steps and steps.utility.notna().any():
            smooth = steps.utility.rolling(5, min_periods=1).mean()
            ax.plot(steps.step, smooth, color=COLOURS[2], lw=1.5, ls="--", label="utility of what is sampled")
            lowest = min(lowest, float(smooth.min()))
        ax.plot(steps.step, steps.reward_mean, color=COLOURS[0], lw=1.5, label="mean of a step")
        fifth = round(len(steps) / 5)
        for part in (steps.head(fifth), steps.tail(fifth)) if len(steps) >= 10 else ():
            ends, mean = [part.step.min(), part.step.max()], part[gain].mean()
            ax.plot(ends, [mean, mean], color=COLOURS[1], lw=3, solid_capstyle="butt")
            ax.annotate(f"{mean:.3f}", (np.mean(ends), mean), (0, 7), textcoords="offset points", ha="center",
                        color=COLOURS[1], weight="bold", bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
        ax.set(xlabel="optimiser step", ylabel="reward", ylim=(lowest - 0.02, highest + 0.02))
        legend_above(made, ax.get_legend_handles_labels()[0])
    return made


def metric_dots(table: pd.DataFrame, metrics: list[str]) -> Figure:
    """One row per metric, one mark per method, 95% intervals, from 0 (or the least value) to 1.

    `table`: method, metric, value, low, high.
    """
    methods = list(dict.fromkeys(table.method))
    paint, shape = colours(methods), markers(methods)
    with figure(size=(WIDTH, 0.9 + 0.12 * len(metrics) * (len(methods) + 1))) as (made, ax):
        for i, method in enumerate(methods):
            rows = table[table.method == method].set_index("metric").loc[metrics]
            y = np.arange(len(metrics)) + (i - (len(methods) - 1) / 2) / (len(methods) + 1)
            ax.hlines(y, rows.low, rows.high, color=paint[method], lw=2, alpha=0.6)
            ax.plot(rows.value, y, shape[method], color=paint[method], ms=5, label=method)
        ax.set_yticks(range(len(metrics)), [NAMES[m] for m in metrics])
        drawn = table[table.metric.isin(metrics)]
        lowest = np.nanmin([0.0, *drawn.value, *drawn.low])  # utility may lie below
        ax.set(ylim=(len(metrics) - 0.5, -0.5), xlim=(lowest - 0.02, 1.02))
        legend_above(made, ax.get_legend_handles_labels()[0])
    return made


def effects(table: pd.DataFrame, factor: str, metric: str) -> Figure:
    """A factor's values (rows) against a metric: a dot a cell, and the mean with its 95% interval over cells."""
    done = table[table.state == "done"].dropna(subset=metric)
    values = list(dict.fromkeys(done[factor].astype(str)))
    with figure(size=(WIDTH, 0.8 + 0.32 * len(values))) as (made, ax):
        for y, value in enumerate(values):
            seen = done[done[factor].astype(str) == value][metric].to_numpy(float)
            ax.plot(seen, np.full(len(seen), y) + np.linspace(-0.15, 0.15, len(seen)), ".", color="#999999", ms=5)
            if len(seen) > 1:
                ax.hlines(y, *t_interval(seen), color=COLOURS[0], lw=3, alpha=0.6)
            ax.plot(seen.mean(), y, "D", color=COLOURS[0], ms=6)
        ax.set_yticks(range(len(values)), values)
        ax.set(ylim=(len(values) - 0.5, -0.5), xlabel=metric, title=factor)
    return made


def scatter(table: pd.DataFrame, factor: str, metric: str) -> Figure:
    """A factor of many values against a metric, a dot a cell."""
    done = table[table.state == "done"].dropna(subset=metric)
    with figure(size=(WIDTH, 2.6)) as (made, ax):
        ax.plot(done[factor], done[metric], "o", color=COLOURS[0], ms=4)
        spread = done[factor].max() / done[factor].min() if done[factor].min() > 0 else 1
        ax.set(xlabel=factor, ylabel=metric, xscale="log" if spread > 30 else "linear")
    return made


def over_seeds(seeds: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """What training gains over each opponent: a row a seed, with its interval over dialogues, and their mean.

    `seeds`, `means`: `by_seed` and `verdicts` of `report.study`, of one study on one dataset.
    """
    shown = sorted(seeds.seed.unique())
    across, down = min(2, len(means)), -(-len(means) // 2)
    size = (WIDTH, 0.5 + down * (0.7 + 0.22 * (len(shown) + 1)))
    with figure(down, across, size, sharex=True, sharey=True, squeeze=False) as (made, axes):
        for ax, mean in zip(axes.flat, means.itertuples(), strict=False):
            own = seeds[seeds.opponent == mean.opponent].set_index("seed").reindex(shown)
            ax.axvline(0, color="black", lw=0.8)
            ax.hlines(range(len(shown)), own.low, own.high, color=COLOURS[0], lw=3, alpha=0.5)
            ax.plot(own.difference, range(len(shown)), "o", color=COLOURS[0])
            ax.hlines(len(shown), mean.low, mean.high, color=COLOURS[1], lw=3, alpha=0.5)
            ax.plot(mean.difference, len(shown), "D", color=COLOURS[1])
            ax.set_title(f"less {mean.opponent}{', best on dev' if mean.best_on_dev else ''}")
        axes[0, 0].set_yticks(range(len(shown) + 1), [*(f"seed {s}" for s in shown), "mean"])
        axes[0, 0].set_ylim(len(shown) + 0.5, -0.5)
        for ax in axes.flat[len(means) :]:
            ax.remove()
        for ax in axes.flat[max(len(means) - across, 0) : len(means)]:  # the lowest of each column
            ax.tick_params(labelbottom=True)
        made.supxlabel("utility of the trained policy less the opponent's, 95% intervals", fontsize=9)
    return made
