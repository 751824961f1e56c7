"""A dialogue as HTML: one row per turn, one lane per reference, windows as bars down the turns, marks for triggers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from proactor_lib.plots.style import ANTICIPATED, EXECUTABLE
from proactor_lib.schema import Dialogue, ReferenceAction, TurnPrediction

OBSERVED, CANDIDATE, READY = "◆", "○", "●"


@dataclass
class Lane:
    """A column: a reference, or an action that has none here; `marks` are by turn."""

    name: str
    title: str = ""
    reference: ReferenceAction | None = None
    selected: bool = False
    marks: dict[int, str] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The name without the service before it."""
        return self.name.rsplit(".", 1)[-1]

    def part(self, turn: int) -> str:
        """What the window is at `turn`: "open", "ready", or "" outside."""
        if self.reference is None or not self.reference.window.covers(turn):
            return ""
        return "ready" if turn >= self.reference.window.ready else "open"


def described(reference: ReferenceAction) -> str:
    """An action with its parameters, as one reads it."""
    return f"{reference.name}({', '.join(f'{k}={v}' for k, v in reference.values().items())})"


def render(
    dialogue: Dialogue,
    references: Sequence[ReferenceAction],
    selected: str | None = None,
    predictions: Iterable[TurnPrediction] = (),
    policy: str = "",
) -> str:
    """The dialogue's HTML; `selected` is a reference id, `predictions` are those of `policy` for this dialogue."""
    lanes = [Lane(r.name, described(r), r, selected=r.id == selected) for r in references]
    for o in dialogue.observed or ():
        _mark(lanes, o.name, o.turn, OBSERVED)
    for p in predictions:
        for action in p.actions:
            _mark(lanes, action.name, p.turn, READY if action.status == "ready" else CANDIDATE)
    rows = [
        {
            "index": i,
            "speaker": turn.speaker,
            "text": turn.text,
            "cells": [{"part": n.part(i), "marks": n.marks.get(i, ""), "selected": n.selected} for n in lanes],
        }
        for i, turn in enumerate(dialogue.turns, 1)
    ]
    return _template().render(
        lanes=lanes, rows=rows, policy=policy, observed=bool(dialogue.observed),
        anticipated=ANTICIPATED, executable=EXECUTABLE,
    )  # fmt: skip


def _mark(lanes: list[Lane], name: str, turn: int, mark: str) -> None:
    """In the lane of the action whose window covers the turn, else the nearest; a new lane where it has none."""
    own = [lane for lane in lanes if lane.name == name]
    if not own:
        lanes.append(Lane(name, "no reference"))
        own = lanes[-1:]
    lane = min(own, key=lambda lane: _distance(lane, turn))
    lane.marks[turn] = lane.marks.get(turn, "") + mark


def _distance(lane: Lane, turn: int) -> int:
    window = lane.reference.window if lane.reference else None
    return max(window.open - turn, turn - window.close, 0) if window else 0


@lru_cache
def _template():
    text = (files(__package__) / "transcript.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
