"""When methods act, and what that costs: figures over all references of a test set [ours]."""

from collections.abc import Mapping
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from proactor_lib.metrics import statistics
from proactor_lib.metrics.glossary import NAMES
from proactor_lib.plots.style import (
    ANTICIPATED,
    EXECUTABLE,
    FAULT,
    WIDTH,
    colours,
    dashes,
    figure,
    legend_above,
    markers,
)

GRID = np.linspace(0, 2, 201)  # open 0, ready 1, past close 2


def trigger_times(methods: Mapping[str, pd.DataFrame], rows: int = 60) -> Figure:
    """When each reference was first triggered, against its window: one row per reference, one panel per method.

    `methods`: the `references` frame of each method's `Scores`, on the same references. Turns count from `ready`. Of
    more references than `rows`, evenly spaced ones are drawn, in order of their turns from ready to close. Triggers
    beyond the panel sit at its edge, missed ones in the margin. Raises ValueError without references.
    """
    _need_references(methods)
    frames = {name: f.assign(before=f.open - f.ready, after=f.close - f.ready) for name, f in methods.items()}
    keys = ["dialogue_id", "id"]
    first = next(iter(frames.values())).sort_values(["after", "before", *keys], ignore_index=True)
    shown = first.loc[np.linspace(0, len(first) - 1, min(rows, len(first))).round().astype(int)].reset_index(drop=True)
    span = float(max(np.percentile(-shown.before, 90), np.percentile(shown.after, 90), 3)) + 2
    across, down = min(3, len(frames)), -(-len(frames) // 3)
    size = (WIDTH, 0.7 + down * (0.6 + 0.055 * len(shown)))
    with figure(down, across, size, sharey=True, squeeze=False) as (made, axes):
        for ax, (name, frame) in zip(axes.flat, frames.items(), strict=False):
            _windows(ax, shown)
            _triggers(ax, shown[keys].merge(frame, on=keys, how="left"), span)
            ax.set(title=fill(name, 90 // across), yticks=[], xlim=(-span - 0.8, span + 2.8), ylim=(len(shown), -1))
            ax.grid(axis="y", visible=False)
        for ax in axes.flat[len(frames) :]:
            ax.remove()
        made.supylabel(f"{len(shown)} of {len(first)} references", fontsize=9)
        made.supxlabel("turns from ready", fontsize=9)
        legend_above(made, _trigger_legend(), 5)
    return made


def _need_references(methods: Mapping[str, pd.DataFrame]) -> None:
    if not methods or any(f.empty for f in methods.values()):
        raise ValueError("there are no references to draw")


def _windows(ax, shown: pd.DataFrame) -> None:
    y = np.arange(len(shown))
    ax.barh(y, -shown.before, left=shown.before - 0.5, height=1, color=ANTICIPATED)
    ax.barh(y, shown.after + 1, left=-0.5, height=1, color=EXECUTABLE)


def _triggers(ax, found: pd.DataFrame, span: float) -> None:
    y, x = np.arange(len(found)), (found.triggered - found.ready).clip(-span, span)
    inside = (found.outcome == "in window").to_numpy()
    outside = found.outcome.isin(["late", "premature"]).to_numpy()
    missed = (found.outcome == "missed").to_numpy()
    ax.plot(x[inside], y[inside], "o", color="black", ms=2.6)
    ax.plot(x[outside], y[outside], "D", color=FAULT, ms=2.8)
    ax.plot(np.full(missed.sum(), span + 1.8), y[missed], "x", color=FAULT, ms=3.2, mew=0.9)


def _trigger_legend() -> list:
    return [
        Patch(color=ANTICIPATED, label="open to ready"),
        Patch(color=EXECUTABLE, label="ready to close"),
        Line2D([], [], marker="o", ls="", color="black", ms=4, label="in window"),
        Line2D([], [], marker="D", ls="", color=FAULT, ms=4, label="outside"),
        Line2D([], [], marker="x", ls="", color=FAULT, ms=4, label="missed"),
    ]


def survival(methods: Mapping[str, pd.DataFrame], bootstrap: int = 500, seed: int = 0) -> Figure:
    """The share of references not yet triggered, from `open` through `ready` to past `close`, with 95% bands.

    `methods`: as for `trigger_times`. Windows are of different lengths, so each is stretched: open to ready is the
    first half of the axis, ready to past close the second. What a curve lacks at the left edge was triggered
    before open or at it; what remains at the right edge never was, or too late. Bands are from a bootstrap over
    dialogues. Raises ValueError without references.
    """
    _need_references(methods)
    paint, dash = colours(methods), dashes(methods)
    with figure(size=(WIDTH, 3.2)) as (made, ax):
        for name, frame in methods.items():
            value, low, high = _waiting(frame, bootstrap, seed)
            ax.fill_between(GRID, low, high, step="post", color=paint[name], alpha=0.15, lw=0)
            ax.step(GRID, value, where="post", color=paint[name], ls=dash[name], lw=1.6, label=name)
        ax.axvline(1, color="#666666", lw=0.8)
        ax.set(ylabel="share not yet triggered", xlim=(0, 2), ylim=(0, 1.03))
        ax.set_xticks([0, 1, 2], ["open", "ready", "past close"])
        legend_above(made, ax.get_legend_handles_labels()[0])
    return made


def stage(frame: pd.DataFrame) -> np.ndarray:
    """Where in its window each reference was first triggered: open 0, ready 1, past close 2; -inf before, inf never."""
    f = frame
    early = (f.triggered - f.open) / (f.ready - f.open).clip(lower=1)
    late = 1 + (f.triggered - f.ready) / (f.close + 1 - f.ready)
    place = np.where(f.triggered < f.ready, early, late)
    return np.select([f.outcome == "premature", f.outcome.isin(["missed", "late"])], [-np.inf, np.inf], place)


def _waiting(frame: pd.DataFrame, bootstrap: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The share not yet triggered at each point of GRID, with the bounds of its 95% interval."""
    waiting = pd.DataFrame(stage(frame)[:, None] > GRID).assign(count=1.0)
    sums = waiting.groupby(frame.dialogue_id.to_numpy()).sum().to_numpy(float)

    def share(weights: np.ndarray) -> np.ndarray:
        drawn = weights @ sums
        return np.divide(drawn[:, :-1], drawn[:, -1:], out=np.full_like(drawn[:, :-1], np.nan), where=drawn[:, -1:] > 0)

    return tuple(np.clip(x, 0, 1) for x in statistics.bootstrap(share, len(sums), bootstrap, seed)[:3])


def utility_curve(curve: pd.DataFrame) -> Figure:
    """Utility by the price of a false execution, a line for each method with its 95% band.

    `curve`: `metrics.utility.curve`. A line falls by the false executions per reference; the higher, the better.
    """
    methods = list(dict.fromkeys(curve.method))
    paint, dash = colours(methods), dashes(methods)
    with figure(size=(WIDTH, 3.0)) as (made, ax):
        for name in methods:
            own = curve[curve.method == name]
            ax.fill_between(own.price, own.low, own.high, color=paint[name], alpha=0.15, lw=0)
            ax.plot(own.price, own.utility, color=paint[name], ls=dash[name], lw=1.6, label=name)
        ax.axhline(0, color="#666666", lw=0.8)  # silence
        ax.set(
            xlabel="price of a false execution, in missed opportunities", ylabel="utility", xlim=(0, curve.price.max())
        )
        ax.set_ylim(max(np.nanmin([0.0, *curve.utility, *curve.low]), -1.05), 1.03)
        legend_above(made, ax.get_legend_handles_labels()[0])
    return made


def trade_off(curves: Mapping[str, pd.DataFrame], chosen: Mapping[str, float] | None = None) -> Figure:
    """Opportunity timing against FTR as each method's readiness threshold moves, with 95% intervals.

    `curves`: `metrics.thresholds.trade_off` of each method. `chosen`: the threshold that was tuned, ringed. Up and to
    the left is better. Thresholds at which nothing fires have no FTR and are left out.
    """
    paint, shape = colours(curves), markers(curves)
    with figure(size=(WIDTH, 3.6)) as (made, ax):
        for name, curve in curves.items():
            x, y = (_by_threshold(curve, m) for m in ("ftr", "opportunity_timing"))
            both = x.index[x.value.notna() & y.value.notna()]
            x, y = x.loc[both], y.loc[both]
            ax.errorbar(x.value, y.value, _arms(y), _arms(x), fmt="none", ecolor=paint[name], elinewidth=0.7, alpha=0.4)
            ax.plot(x.value, y.value, "-", marker=shape[name], color=paint[name], ms=4, lw=1.2, label=name)
            for end in {both[0], both[-1]} if len(both) else ():
                ax.annotate(f"{end:g}", (x.value[end], y.value[end]), (4, 4), textcoords="offset points", fontsize=7.5)
            if (ring := (chosen or {}).get(name)) in both:
                ax.plot(x.value[ring], y.value[ring], "o", mfc="none", mec="black", ms=10, mew=1.2)
        ax.set(xlabel="FTR (numbers: the threshold at a curve's ends)", ylabel="opportunity timing")
        legend_above(made, ax.get_legend_handles_labels()[0])
    return made


def _by_threshold(curve: pd.DataFrame, metric: str) -> pd.DataFrame:
    return curve[curve.metric == metric].set_index("threshold").sort_index()


def _arms(rows: pd.DataFrame) -> np.ndarray:
    """Interval ends as distances from the value, shape (2, rows): what errorbar takes."""
    return np.clip([rows.value - rows.low, rows.high - rows.value], 0, None)


def ac_against_timing(table: pd.DataFrame, timing: str = "opportunity_timing") -> Figure:
    """AC against timing for all methods, with 95% intervals. `table`: from `metrics.table`; up and right is better."""
    x, y = (table[table.metric == m].set_index("method") for m in ("ac", timing))
    methods = [m for m in x.index if not (np.isnan(x.value[m]) or np.isnan(y.value[m]))]
    paint, shape = colours(x.index), markers(x.index)
    with figure(size=(WIDTH, 3.6)) as (made, ax):
        for m in methods:
            ax.errorbar(
                x.value[m], y.value[m], _arms(y.loc[[m]]), _arms(x.loc[[m]]), color=paint[m], marker=shape[m], ms=6,
                elinewidth=1.1, ls="", label=m,
            )  # fmt: skip
        ax.set(xlabel=NAMES["ac"], ylabel=NAMES.get(timing, timing))
        ax.margins(0.08)
        handles, labels = ax.get_legend_handles_labels()
        legend_above(made, [Line2D([], [], marker=shape[m], color=paint[m], ls="", label=m) for m in labels])
    return made


def breakdown_dots(found: pd.DataFrame, metric: str = "opportunity_timing", groups: int = 20) -> Figure:
    """One metric by group, one row per group and one mark per method, with 95% intervals.

    `found`: from `metrics.breakdowns.breakdown`. Of more than `groups`, those with the most references are drawn.
    """
    rows = found[(found.metric == metric)].dropna(subset="value")
    sizes = rows.groupby("group", sort=False).references.max()
    kept = [g for g in sizes.index if g in set(sizes.nlargest(groups).index)]
    methods = list(dict.fromkeys(found.method))
    paint, shape = colours(methods), markers(methods)
    height = 1.0 + len(kept) * (0.12 + 0.1 * len(methods))
    with figure(size=(WIDTH, height)) as (made, ax):
        for i, m in enumerate(methods):
            mine = rows[rows.method == m].set_index("group").reindex(kept)
            y = np.arange(len(kept)) + (i - (len(methods) - 1) / 2) / (len(methods) + 1)
            ax.hlines(y, mine.low, mine.high, color=paint[m], lw=1.4, alpha=0.6)
            ax.plot(mine.value, y, shape[m], color=paint[m], ms=4, label=m)
        ax.set_yticks(range(len(kept)), [f"{g} ({sizes[g]:,})" for g in kept])
        ax.set(ylim=(len(kept) - 0.5, -0.5), xlabel=f"{NAMES.get(metric, metric)} (in brackets: references)")
        legend_above(made, ax.get_legend_handles_labels()[0])
    return made
