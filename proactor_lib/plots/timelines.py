"""A dialogue as a timeline: turns across, one lane per action, windows as bars, what an agent said as marks [ours]."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from proactor_lib.metrics.alignment import alignment, matches
from proactor_lib.metrics.scores import Scores
from proactor_lib.plots.style import ANTICIPATED, EXECUTABLE, FAULT, WIDTH, figure, legend_above
from proactor_lib.schema import Case, Dialogue, PredictedAction, ReferenceAction, TurnPrediction

OTHER = "other actions"
Lanes = dict[str, int]


def timeline(
    dialogue: Dialogue,
    references: Sequence[ReferenceAction],
    predictions: Sequence[TurnPrediction],
    theta: float = 0.75,
    lanes: int = 14,
    title: str | None = None,
) -> Figure:
    """One dialogue and one agent: windows (open-ready-close), candidates, triggers, faults, observed triggers.

    Lanes are the references' actions, then those that the agent made up; from `lanes` on they share the last one.
    """
    named = _lanes(references, predictions, lanes)
    with figure(size=(WIDTH, 1.25 + 0.22 * len(named))) as (made, ax):
        draw(ax, dialogue, references, predictions, theta, named)
        ax.set(title=dialogue.id if title is None else title, xlabel="turn")
        legend_above(made, legend(), 4)
    return made


def gallery(
    cases: Sequence[tuple[Case, Sequence[TurnPrediction], str]],
    theta: float = 0.75,
    lanes: int = 10,
) -> Figure | None:
    """Timelines of several cases below one another, each with its predictions and caption; None without any.

    `worst` chooses them.
    """
    if not cases:
        return None
    named = [_lanes(case.references, predictions, lanes) for case, predictions, _ in cases]
    heights = [len(n) + 2.6 for n in named]
    size = (WIDTH, 0.6 + 0.21 * sum(heights))
    with figure(len(cases), 1, size, squeeze=False, height_ratios=heights) as (made, axes):
        for ax, (case, predictions, caption), n in zip(axes[:, 0], cases, named, strict=True):
            draw(ax, case.dialogue, case.references, predictions, theta, n)
            ax.set_title(caption)
        axes[-1, 0].set_xlabel("turn")
        legend_above(made, legend(), 4)
    return made


def worst_dialogues(
    cases: Iterable[Case],
    predictions: Iterable[TurnPrediction],
    scores: Scores,
    count: int = 3,
) -> Figure | None:
    """The `gallery` of an agent's `worst` dialogues by its `scores`, and by their theta; None without references."""
    by_id = {c.dialogue.id: c for c in cases}
    said = defaultdict(list)
    for p in predictions:
        said[p.dialogue_id].append(p)
    shown = [
        (by_id[i], said[i], f"{i}: timing {timing:.2f}, AC {ac:.2f}")
        for i, timing, ac in worst(scores.dialogues, count)[["dialogue_id", "mean_timing", "ac"]].itertuples(
            index=False
        )
    ]
    return gallery(shown, scores.theta)


def worst(table: pd.DataFrame, count: int = 4) -> pd.DataFrame:
    """The `count` rows of a `DialogueTable` with the least opportunity timing per reference; of several, the lowest AC.

    Dialogues without references are left out. `mean_timing` is added.
    """
    judged = table[table.references > 0]
    judged = judged.assign(mean_timing=judged.timing / judged.references)
    return judged.sort_values(["mean_timing", "ac", "dialogue_id"]).head(count)


def draw(ax, dialogue: Dialogue, references, predictions, theta: float, lanes: Lanes) -> None:
    """The timeline on given axes, one row for each of `lanes`, and the speakers below."""
    turns = len(dialogue.turns)
    _draw_windows(ax, references, lanes)
    _draw_said(ax, references, predictions, theta, lanes)
    _draw_speakers(ax, dialogue, len(lanes))
    ax.set(xlim=(0.3, turns + 0.7), ylim=(len(lanes) + 0.35, -0.6))
    ax.set_yticks(list(lanes.values()), list(lanes))
    every = 5 * -(-turns // 100)  # at most 20 of them, or so
    ax.set_xticks([1, *range(every, turns + 1, every)])
    ax.tick_params(length=0)
    ax.grid(axis="y", visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)


def _lanes(references: Sequence[ReferenceAction], predictions: Sequence[TurnPrediction], most: int) -> Lanes:
    wanted = [r.name for r in sorted(references, key=lambda r: (r.window.open, r.window.close))]
    said = [a.name for p in sorted(predictions, key=lambda p: p.turn) for a in p.actions]
    names = list(dict.fromkeys([*wanted, *said])) or ["no action"]
    shown = names if len(names) <= most else names[: most - 1]
    return {name: i for i, name in enumerate(shown)} | ({OTHER: most - 1} if len(names) > most else {})


def _lane(lanes: Lanes, name: str) -> int:
    return lanes.get(name, len(lanes) - 1)


def _draw_windows(ax, references: Sequence[ReferenceAction], lanes: Lanes) -> None:
    for r in references:
        w, y = r.window, _lane(lanes, r.name)
        ax.barh(y, w.ready - w.open, left=w.open - 0.5, height=0.72, color=ANTICIPATED)
        ax.barh(y, w.close - w.ready + 1, left=w.ready - 0.5, height=0.72, color=EXECUTABLE)
        box = dict(fill=False, edgecolor="#5B7C99", lw=0.6)
        ax.barh(y, w.close - w.open + 1, left=w.open - 0.5, height=0.72, **box)
        if r.observed_turn is not None:
            ax.plot([r.observed_turn + 0.5] * 2, [y - 0.45, y + 0.45], color="black", lw=1.8, solid_capstyle="butt")


def _draw_said(ax, references, predictions: Sequence[TurnPrediction], theta: float, lanes: Lanes) -> None:
    said = [(p.turn, a) for p in predictions for a in p.actions]
    kinds = [_kind(a, turn, references, theta) for turn, a in said]
    looks = {
        "candidate": dict(marker="o", mfc="white", mec="black", ms=4, mew=0.8),
        "trigger": dict(marker="o", color="black", ms=4.4),
        "fault": dict(marker="x", color=FAULT, ms=5, mew=1.5),
    }
    for kind, look in looks.items():
        at = [(turn, _lane(lanes, a.name)) for (turn, a), k in zip(said, kinds, strict=True) if k == kind]
        if at:
            ax.plot(*np.transpose(at), ls="", **look)


def _kind(action: PredictedAction, turn: int, references: Sequence[ReferenceAction], theta: float) -> str:
    if action.status == "candidate":
        return "candidate"
    covering = [r for r in references if r.window.covers(turn)]
    return "trigger" if any(matches(alignment(action, r, turn), theta) for r in covering) else "fault"


def _draw_speakers(ax, dialogue: Dialogue, y: int) -> None:
    speakers = list(dict.fromkeys(t.speaker for t in dialogue.turns))
    shades = {s: ("#444444", "#BBBBBB", "#888888", "#DDDDDD")[i % 4] for i, s in enumerate(speakers)}
    for i, turn in enumerate(dialogue.turns, start=1):
        ax.barh(y, 0.86, left=i - 0.43, height=0.3, color=shades[turn.speaker])


def legend() -> list:
    """Handles that say what the marks mean."""
    return [
        Patch(fc=ANTICIPATED, ec="#5B7C99", lw=0.6, label="open to ready"),
        Patch(fc=EXECUTABLE, ec="#5B7C99", lw=0.6, label="ready to close"),
        Line2D([], [], color="black", lw=1.8, ls="", marker="|", ms=9, mew=1.8, label="observed trigger"),
        Line2D([], [], ls="", marker="o", mfc="white", mec="black", ms=4, label="candidate"),
        Line2D([], [], ls="", marker="o", color="black", ms=4.4, label="ready, matches"),
        Line2D([], [], ls="", marker="x", color=FAULT, ms=5, mew=1.5, label="ready, at fault"),
        Patch(color="#444444", label="first speaker's turns"),
        Patch(color="#BBBBBB", label="second speaker's"),
    ]
