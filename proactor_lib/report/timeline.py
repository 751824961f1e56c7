"""A dialogue as a timeline: one row per turn, one lane per window, and who triggered what where."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from proactor_lib.metrics import alignment, matches
from proactor_lib.schema import Dialogue, ReferenceAction, TurnPrediction


@dataclass
class Cell:
    """One lane at one turn: the part of the window that it shows, and the marks in it."""

    part: str = ""  # "", "open" (anticipated) or "ready" (executable)
    label: str = ""  # the reference's number, at its first turn
    marks: list[str] = field(default_factory=list)  # policies whose first trigger of the reference is here


@dataclass
class Row:
    """One turn."""

    index: int
    speaker: str
    text: str
    cells: list[Cell]
    observed: list[str]  # logged actions
    faults: dict[str, list[str]]  # by policy, actions: ready predictions that fit no reference covering the turn


@dataclass(frozen=True)
class Timeline:
    """What the report draws of a dialogue."""

    dialogue_id: str
    rows: list[Row]
    references: list[ReferenceAction]  # numbered from 1 in this order
    lanes: int


def median_dialogue(references: pd.DataFrame) -> str:
    """The id of the dialogue whose mean opportunity timing is the median (of two the lower).

    `references`: one row per reference with dialogue_id and timing, at least one.
    """
    means = references.groupby("dialogue_id").timing.mean().sort_values(kind="stable")
    return str(means.index[(len(means) - 1) // 2])


def draw(
    dialogue: Dialogue,
    references: tuple[ReferenceAction, ...],
    triggered: Mapping[str, Mapping[str, int]],
    predictions: Mapping[str, list[TurnPrediction]],
    theta: float,
) -> Timeline:
    """The timeline; `triggered`: policy -> reference id -> turn of its first ready match; `predictions`: by policy."""
    ordered = sorted(references, key=lambda r: (r.window.open, r.window.close))
    lane_of = _lanes(ordered)
    lanes = max(lane_of, default=-1) + 1
    rows = [
        Row(i, t.speaker, t.text, [Cell() for _ in range(lanes)], [], {}) for i, t in enumerate(dialogue.turns, start=1)
    ]
    for number, (r, lane) in enumerate(zip(ordered, lane_of, strict=True), start=1):
        for turn in range(r.window.open, r.window.close + 1):
            rows[turn - 1].cells[lane].part = "ready" if turn >= r.window.ready else "open"
        rows[r.window.open - 1].cells[lane].label = str(number)
        for policy, turns in triggered.items():
            turn = turns.get(r.id)
            if turn is not None and r.window.covers(turn):
                rows[turn - 1].cells[lane].marks.append(policy)
    for o in dialogue.observed or ():
        rows[o.turn - 1].observed.append(o.name)
    for policy, lines in predictions.items():
        for line in lines:
            if names := _faults(line, ordered, theta):
                rows[line.turn - 1].faults[policy] = names
    return Timeline(dialogue.id, rows, ordered, lanes)


def _lanes(references: list[ReferenceAction]) -> list[int]:
    """A lane for each reference, so that windows in one lane do not overlap; references in order of their opening."""
    ends, lanes = [], []
    for r in references:
        free = next((i for i, end in enumerate(ends) if end < r.window.open), len(ends))
        ends[free : free + 1] = [r.window.close]
        lanes.append(free)
    return lanes


def _faults(line: TurnPrediction, references: list[ReferenceAction], theta: float) -> list[str]:
    covering = [r for r in references if r.window.covers(line.turn)]
    return [
        p.name
        for p in line.actions
        if p.status == "ready" and not any(matches(alignment(p, r, line.turn), theta) for r in covering)
    ]
