"""Where time goes: the parts of a measured step, a cluster's splits as simulated, and benchmarks as bars."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from proactor_lib.plots.style import COLOURS, WIDTH, colours, dashes, figure, legend_above, markers

PARTS = {
    "rollout_wait_s": "waiting for rollouts", "train_s": "training", "sync_s": "sync of the policy", "rest_s": "rest",
}  # fmt: skip
HATCHES = ("", "///", "...", "xxx")


def step_parts(steps: pd.DataFrame) -> Figure:
    """Each step's seconds as a stacked bar; `steps`: step and the columns of PARTS, those that are there."""
    with figure(size=(WIDTH, 2.9)) as (made, ax):
        below = np.zeros(len(steps))
        for (column, label), colour, hatch in zip(PARTS.items(), COLOURS, HATCHES, strict=False):
            if column in steps:
                seconds = steps[column].fillna(0.0).to_numpy(float)
                ax.bar(steps.step, seconds, bottom=below, width=0.9, color=colour, hatch=hatch, ec="white", lw=0.3,
                       label=label)  # fmt: skip
                below += seconds
        ax.set(xlabel="optimiser step", ylabel="seconds")
        legend_above(made, ax.get_legend_handles_labels()[0])
    return made


def split_curves(curves: Mapping[str, pd.DataFrame], levels: Mapping[str, float], title: str = "") -> Figure:
    """Seconds a step over the number of GPUs that serve, on a log scale; the fastest split of each curve is ringed.

    `curves`: name -> frame with servers and step_s. `levels`: what does not depend on a split, as horizontal lines.
    """
    paint, shape, dash = colours([*curves, *levels]), markers(curves), dashes([*curves, *levels])
    with figure(size=(WIDTH, 3.2)) as (made, ax):
        for name, table in curves.items():
            ax.plot(table.servers, table.step_s, f"{shape[name]}-", color=paint[name], ms=4, label=name)
            best = table.loc[table.step_s.idxmin()]
            ax.plot(best.servers, best.step_s, "o", ms=11, mfc="none", mec=paint[name], mew=1.5)
        for name, seconds in levels.items():
            ax.axhline(seconds, color=paint[name], ls=dash[name] if dash[name] != "-" else "--", lw=1.2, label=name)
        ax.set(xlabel="GPUs that serve; the others train", ylabel="seconds a step", yscale="log", title=title)
        ax.xaxis.get_major_locator().set_params(integer=True)
        legend_above(made, ax.get_legend_handles_labels()[0], columns=3)
    return made


def busy_shares(table: pd.DataFrame) -> Figure:
    """How many times faster each plan's step is than the first's, and how busy servers and trainers are.

    `table`: name, speedup, server_busy, trainer_busy (capacity.compare).
    """
    y = np.arange(len(table))
    with figure(1, 2, (WIDTH, 0.9 + 0.34 * len(table)), width_ratios=(3, 2)) as (made, (left, right)):
        left.barh(y, table.speedup, color=COLOURS[0], height=0.6)
        for at, value in zip(y, table.speedup, strict=True):
            left.annotate(f"{value:.1f}x", (value, at), (3, 0), textcoords="offset points", va="center", fontsize=8)
        left.set(xlabel="speed, times the first", xlim=(0, 1.15 * table.speedup.max()), ylim=(len(table) - 0.5, -0.5))
        left.set_yticks(y, table.name)
        right.plot(table.server_busy, y, "o", color=COLOURS[1], label="servers")
        right.plot(table.trainer_busy, y, "s", color=COLOURS[2], label="trainers")
        right.set(xlabel="busy, share of the time", xlim=(-0.03, 1.03), ylim=(len(table) - 0.5, -0.5), yticks=[])
        legend_above(made, right.get_legend_handles_labels()[0])
    return made


def grouped_bars(values: Mapping[str, Mapping[str, float]], label: str) -> Figure:
    """One bar per value, one group per key: values[group][bar], each with its number. A value that is None is left out.

    Lengths begin at 0, so that they say what the numbers say.
    """
    names = list(dict.fromkeys(name for group in values.values() for name in group))
    paint = colours(names)
    rows = [(g, n, v) for g, group in values.items() for n, v in group.items() if v is not None]
    with figure(size=(WIDTH, 0.9 + 0.3 * len(rows))) as (made, ax):
        y = np.arange(len(rows))
        ax.barh(y, [v for *_, v in rows], color=[paint[n] for _, n, _ in rows], height=0.7)
        for at, (*_, v) in zip(y, rows, strict=True):
            ax.annotate(f"{v:,.4g}" if v < 1e4 else f"{v:,.0f}", (v, at), (3, 0), textcoords="offset points",
                        va="center", fontsize=8)  # fmt: skip
        ax.set_yticks(y, [f"{g}: {n}" if len(values) > 1 else n for g, n, _ in rows])
        ax.set(xlabel=label, ylim=(len(rows) - 0.5, -0.5))
        ax.margins(x=0.15)
    return made
