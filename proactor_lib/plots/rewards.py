"""The reward lab's figures, drawn from its tables in the style of proactor_lib.plots."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from proactor_lib.metrics.glossary import NAMES
from proactor_lib.params import Params
from proactor_lib.plots.style import COLOURS, WIDTH, colours, dashes, figure, legend_above
from proactor_lib.rewards.adaptive_metric import AdaptiveMetric
from proactor_lib.rewards.adaptive_ruler import AdaptiveRuler
from proactor_lib.rewards.rubric_judge import RubricJudge
from proactor_lib.rewards.schedule import SCHEDULES, eased


def schedules(params: Params) -> Figure:
    """Over training progress: the curves, Adaptive Metric's weights and Adaptive RULER's lambda."""
    u = np.linspace(0, 1, 301)
    metric, ruler = AdaptiveMetric(params), AdaptiveRuler(params, [RubricJudge()])
    weights = pd.DataFrame([metric.weights(x) for x in u], index=u)
    eases = pd.DataFrame({name: [eased(x, name) for x in u] for name in SCHEDULES}, index=u)
    with figure(1, 3, (1.5 * WIDTH, 2.6)) as (made, panels):
        for ax, lines in zip(panels, (eases, weights), strict=False):
            paint, dash = colours(lines), dashes(range(len(lines.columns)))
            for i, name in enumerate(lines):
                bold = 2.5 if name == params.reward_schedule else 1.3
                ax.plot(
                    u,
                    lines[name],
                    dash[i],
                    color=paint[name],
                    lw=bold,
                    label=NAMES.get(name, name.upper() if lines is weights else name),
                )
            ax.legend(fontsize=7)
        panels[2].plot(u, [ruler.weight(x) for x in u], color=COLOURS[0])
        panels[0].set(title="eased progress (bold: this run's schedule)")
        panels[1].set(title="Adaptive Metric's weights", ylim=(0, None))
        panels[2].set(title="Adaptive RULER's λ", ylim=(0, 1))
        for ax in panels:
            ax.set_xlabel("training progress u")
    return made


def heat(table: pd.DataFrame, title: str, low: float = 0.0, high: float = 1.0) -> Figure:
    """A table of numbers as coloured cells with the numbers in them; NaN is a dash."""
    values = table.to_numpy(float)
    size = 2.6 + 0.7 * table.shape[1], 1.3 + 0.27 * len(table)
    rows = [" · ".join(name) if isinstance(name, tuple) else name for name in table.index]
    with figure(size=size) as (made, ax):
        sns.heatmap(values, vmin=low, vmax=high, cmap="cividis", cbar=False, annot=True, fmt=".2f", ax=ax,
                    annot_kws={"fontsize": 8}, yticklabels=rows)  # fmt: skip
        for row, column in np.argwhere(np.isnan(values)):
            ax.text(column + 0.5, row + 0.5, "–", ha="center", va="center", fontsize=8)
        ax.set_xticks(np.arange(table.shape[1]) + 0.5, table.columns, rotation=30, ha="right")
        ax.tick_params("y", rotation=0)
        ax.grid(False)
        made.suptitle(title, x=0.01, ha="left", fontsize=9)
    return made


def tau_bars(taus: Mapping[str, float | None], judge: str) -> Figure:
    """Kendall's tau of each reward's order of the policies with opportunity timing; undefined ones are left out."""
    known = {name: tau for name, tau in taus.items() if tau is not None}
    with figure(size=(WIDTH, 0.9 + 0.25 * len(known))) as (made, ax):
        ax.barh(list(known), list(known.values()), color=COLOURS[0], height=0.6)
        ax.axvline(0, color="black", lw=0.8)
        ax.invert_yaxis()
        ax.set(xlim=(-1, 1), xlabel="Kendall's tau with opportunity timing")
        made.suptitle(f"RULER: {judge}", x=0.01, ha="left", fontsize=8)
    return made


def margin_dots(margins: Mapping[str, Mapping[str, float]], pairs: Mapping[str, tuple[str, str]], title: str) -> Figure:
    """How far a reward puts the better policy of each pair above the worse, with 95% intervals."""
    rows = pd.DataFrame(margins).T.astype(float)
    with figure(size=(WIDTH, 0.9 + 0.27 * len(rows))) as (made, ax):
        ax.hlines(range(len(rows)), rows.low, rows.high, color=COLOURS[0], lw=3, alpha=0.5)
        ax.plot(rows.value, range(len(rows)), "o", color=COLOURS[0])
        ax.axvline(0, color="black", lw=0.8)
        ax.set_yticks(range(len(rows)), [f"{name}: {' − '.join(pairs[name])}" for name in rows.index])
        ax.set(xlabel="difference in mean reward, 95% interval", ylim=(len(rows) - 0.5, -0.5))
        made.suptitle(title, x=0.01, ha="left", fontsize=8)
    return made


def spread_bars(spread: pd.DataFrame, title: str) -> Figure:
    """The share of groups that carry a gradient, and the mean deviation inside groups, by reward."""
    columns = {"groups_with_spread": "groups with spread, share", "deviation": "mean deviation inside groups"}
    with figure(1, 2, (1.2 * WIDTH, 0.9 + 0.25 * len(spread)), sharey=True) as (made, panels):
        for ax, (column, name) in zip(panels, columns.items(), strict=True):
            ax.barh(spread.reward, spread[column], color=COLOURS[2], height=0.6)
            ax.set(xlim=(0, 1 if column == "groups_with_spread" else None), xlabel=name)
        panels[0].invert_yaxis()
        made.suptitle(title, x=0.01, ha="left", fontsize=9)
    return made


def contrasts(answers: pd.DataFrame, over: str = "seeds") -> Figure:
    """The ablation's differences, paired `over` seeds or dialogues, with their 95% intervals, coloured by question."""
    rows = answers.dropna(subset="difference").reset_index(drop=True)
    paint = colours(answers.question.unique())
    with figure(size=(1.2 * WIDTH, 1.2 + 0.27 * max(len(rows), 1))) as (made, ax):
        for i, row in rows.iterrows():
            ax.hlines(i, row.low, row.high, color=paint[row.question], lw=3, alpha=0.5)
            ax.plot(row.difference, i, ">" if row.paper == "higher" else "<", color=paint[row.question])
        ax.axvline(0, color="black", lw=0.8)
        ax.set_yticks(range(len(rows)), [f"{r.a} − {r.b}: {NAMES[r.metric]}" for r in rows.itertuples()])
        ax.invert_yaxis()
        said = f"difference, paired over {over}, 95% interval; the arrow points where the paper's finding does"
        ax.set(xlabel=said)
        legend_above(made, [Line2D([], [], color=c, lw=3, label=question) for question, c in paint.items()], 1)
    return made
