"""Triggers of transcripts, from a file beside them: who triggered what, when, with which values.

CSV with the columns `dialogue`, `turn` or `time`, `action`, and either `values` (a JSON object) or a column per
parameter; or JSONL with the same keys. `turn` counts from 1; a trigger at a `time` belongs to the last turn that began
by then, one before any turn to the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proactor_lib.datasets.conversations import Call, Conversation, Spoken, seconds
from proactor_lib.datasets.raw import documents, reason
from proactor_lib.datasets.transcripts import table
from proactor_lib.errors import UserError
from proactor_lib.files import parse_json

OWN = ("dialogue", "turn", "time", "action", "values")


@dataclass(frozen=True)
class Trigger:
    """A row of the file: at a turn, or at a time."""

    place: str
    dialogue: str
    turn: int | None
    time: float | None
    call: Call


def read(path: Path) -> list[Trigger]:
    """The file's triggers. UserError names the row, and what is wrong with it."""
    if path.name.removesuffix(".gz").endswith((".csv", ".tsv")):
        rows = [(f"{path}, row {n}", row) for n, row in enumerate(table(path), start=1)]
    else:
        rows = [(p, row) for p, value in documents(path) for row in (value if isinstance(value, list) else [value])]
    return [_trigger(place, row) for place, row in rows]


def _trigger(place: str, row: dict[str, Any]) -> Trigger:
    try:
        given = {k: v for k, v in row.items() if v not in (None, "")}
        values = given.get("values", {k: v for k, v in given.items() if k not in OWN})
        values = parse_json(values, f"{place}: values") if isinstance(values, str) else values
        turn = int(given["turn"]) if "turn" in given else None
        time = seconds(given.get("time"))
        if turn is time is None or not isinstance(values, dict):
            raise ValueError(f"a trigger needs a turn or a time, and values that are an object; it has: {given}")
        return Trigger(place, str(given.get("dialogue", "")), turn, time, Call(str(given["action"]), values, time))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{place} is not a trigger (dialogue, turn or time, action, values): {reason(error)}") from None


def placed(conversations: Sequence[Conversation], triggers: Sequence[Trigger]) -> list[Conversation]:
    """The conversations with each trigger after the turn that it belongs to; of one turn in the file's order.

    UserError for a dialogue that is not there, a turn beyond its end, and a time where turns have none.
    """
    by_id: dict[str, list[tuple[int, Call]]] = {c.id: [] for c in conversations}
    spoken = {c.id: c.spoken for c in conversations}
    for t in triggers:
        id = conversations[0].id if not t.dialogue and len(conversations) == 1 else t.dialogue
        if id not in by_id:
            raise UserError(f"{t.place}: no dialogue {id!r}; there are: {', '.join(list(by_id)[:5])}")
        by_id[id].append((_turn(t, spoken[id]), t.call))
    return [replace(c, events=_with(spoken[c.id], by_id[c.id])) for c in conversations]


def _turn(trigger: Trigger, spoken: Sequence[Spoken]) -> int:
    if trigger.turn is not None:
        if not 1 <= trigger.turn <= len(spoken):
            raise UserError(f"{trigger.place}: turn {trigger.turn}; the dialogue has {len(spoken)} turns, from 1")
        return trigger.turn
    if any(s.start is None for s in spoken):
        raise UserError(f"{trigger.place}: a time, but the dialogue's turns have no time stamps; name the turn")
    return max(1, sum(s.start <= trigger.time for s in spoken))


def _with(spoken: Sequence[Spoken], calls: list[tuple[int, Call]]) -> tuple[Spoken | Call, ...]:
    return tuple(e for i, s in enumerate(spoken, start=1) for e in (s, *(call for turn, call in calls if turn == i)))
