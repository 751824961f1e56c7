"""Triggers of transcripts, from a file beside them: who triggered what, when, with which values.

CSV with the columns `dialogue`, `turn` or `time`, `action`, and either `values` (a JSON object) or a column per
parameter; or JSONL with the same keys. `turn` counts from 1; a trigger at a `time` belongs to the last turn that began
by then, one before any turn to the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proactor_lib.datasets.conversations import CALENDAR, Call, Conversation, Spoken, seconds
from proactor_lib.datasets.imported import origin
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
        given = {k: v for k, v in row.items() if v is not None and str(v).strip()}
        values = given.get("values", {k: v for k, v in given.items() if k not in OWN})
        values = parse_json(values, f"{place}: values") if isinstance(values, str) else values
        turn = _whole(given["turn"]) if "turn" in given else None
        time = seconds(given.get("time"))
        if turn is time is None or not isinstance(values, dict):
            raise ValueError(f"a trigger needs a turn or a time, and values that are an object; it has: {given}")
        return Trigger(place, str(given.get("dialogue", "")), turn, time, Call(str(given["action"]), values, time))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{place} is not a trigger (dialogue, turn or time, action, values): {reason(error)}") from None


def _whole(turn: Any) -> int:
    """The number of a turn, also as pandas writes it (`1.0`). ValueError for a fraction."""
    if not float(turn).is_integer():
        raise ValueError(f"turn {turn} is not a whole number")
    return int(float(turn))


def placed(conversations: Sequence[Conversation], triggers: Sequence[Trigger]) -> list[Conversation]:
    """The conversations with each trigger after the turn that it belongs to; of one turn in the file's order.

    UserError for a dialogue that is not there or whose id several have, a turn beyond its end, and a time where turns
    have none.
    """
    calls: list[list[tuple[int, Call]]] = [[] for _ in conversations]
    places: dict[str, list[int]] = {}
    for place, conversation in enumerate(conversations):
        places.setdefault(conversation.id, []).append(place)
    for trigger in triggers:
        place = _place(trigger, places)
        spoken = conversations[place].spoken
        trigger = _on_the_clock(trigger, origin(spoken))
        calls[place].append((_turn(trigger, spoken), trigger.call))
    return [replace(c, events=_with(c.spoken, its)) for c, its in zip(conversations, calls, strict=True)]


def _place(trigger: Trigger, places: dict[str, list[int]]) -> int:
    """Which of the conversations it belongs to; `places`: by id, those that have it."""
    id = next(iter(places)) if not trigger.dialogue and len(places) == 1 else trigger.dialogue
    if id not in places:
        raise UserError(f"{trigger.place}: no dialogue {id!r}; there are: {', '.join(list(places)[:5])}")
    first, *others = places[id]
    if others:
        count = len(places[id])
        raise UserError(
            f"{trigger.place}: {count} dialogues have the id {id!r}: name them differently, or import their files apart"
        )
    return first


def _on_the_clock(trigger: Trigger, zero: float) -> Trigger:
    """With its time on the clock of its turns, which is the calendar's from `zero` on, or where that is 0 their own.

    A time of the calendar says nothing where turns have another clock: it is left out if the turn is named.
    """
    if trigger.time is None or (trigger.time >= CALENDAR) == (zero > 0):
        return trigger
    if zero:
        time = zero + trigger.time
    elif trigger.turn is not None:
        time = None
    else:
        raise UserError(
            f"{trigger.place}: a time of the calendar, but the dialogue's turns have none; give seconds from the "
            "dialogue's start, or name the turn"
        )
    return replace(trigger, time=time, call=replace(trigger.call, time=time))


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
