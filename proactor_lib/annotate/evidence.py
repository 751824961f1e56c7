"""The evidence annotator: windows from the log, with hindsight, deterministic. [ours]

One reference for each logged action; `close` is its trigger. A value is known from the turn where the corpus's own
state first holds it, else from the turn where it is first said, at once or by one speaker in pieces; one that is found
nowhere is known from the first call that had it, else it takes the trigger's turn and is counted. Where the agent names
several of a parameter's values it says none of them. A list or an object is known when all its parts are, a date-time
when its day and its time are; a free text from the turn where something like it is said; one that may be anything is
waited for by nobody, nor is an empty list or object, which is known from `ready` on.
`ready` is the first turn at which every required parameter is known (where the catalog requires none: every one of the
call) and the preconditions that were logged have run. `open` is the first sign of the need after the last call of the
same action at an earlier turn: a value that no earlier call had used, the intent where the corpus's own state has one,
else a mention of the action shortly before (a word that only its name, description or parameters have, or only its
group, whose first call it is), else an earlier call of its group with the same values. It is never after `ready`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from proactor_lib.annotate.mentions import stems_of
from proactor_lib.comparison import counted_from, sought
from proactor_lib.days import says_day
from proactor_lib.errors import UserError
from proactor_lib.schema import (
    Action,
    Catalog,
    Dialogue,
    DialogueReferences,
    ObservedAction,
    ReferenceAction,
    ReferenceParam,
    Window,
)
from proactor_lib.values import Heard, key

MENTION = 10  # turns before the first value in which a mention of the action counts as its need
GAP = 7  # turns between two mentions of one need, or the last one and the first value
PIECES = 5  # characters of a value that may be said in several turns
AGENTS = ("agent", "assistant")  # speakers whose offers and answers tell no need


class Place(NamedTuple):
    """Where something was said: the turns, and their text."""

    turns: tuple[int, ...]
    text: Heard


@dataclass
class Tally:
    """What an annotation found: parameter values in all, and those found nowhere."""

    references: int = 0
    values: int = 0
    not_found: int = 0

    @property
    def share_not_found(self) -> float | None:
        """In [0, 1]; None without values."""
        return self.not_found / self.values if self.values else None

    def __str__(self) -> str:
        share = "" if self.share_not_found is None else f" ({self.share_not_found:.1%})"
        return f"{self.references} references; {self.not_found} of {self.values} values found nowhere{share}"


def annotate(
    dialogue: Dialogue, catalog: Catalog, tally: Tally | None = None, opened: Mapping[str, int] | None = None
) -> DialogueReferences:
    """One reference for each logged action, in their order, with ids `r1`, `r2`, ...; `tally` counts along.

    opened: by id, the turns of those whose `open` is known from elsewhere. Raises UserError for a dialogue without a
    log.
    """
    require_log(dialogue)
    reader = _Reader(dialogue, catalog, tally or Tally(), opened or {})
    references = tuple(reader.reference(f"r{i}", o) for i, o in enumerate(ordered(dialogue), start=1))
    return DialogueReferences(dialogue_id=dialogue.id, references=references)


def ordered(dialogue: Dialogue) -> list[ObservedAction]:
    """What was logged, in the order of its turns."""
    return sorted(dialogue.observed or (), key=lambda o: o.turn)


def require_log(dialogue: Dialogue) -> None:
    """UserError for a dialogue without a log of triggers."""
    if dialogue.observed is None:
        raise UserError(
            f"dialogue {dialogue.id!r} has no log of triggers, which the evidence annotator needs; "
            "use the oracle annotator (--annotator oracle) for such a corpus"
        )


class _Reader:
    """Goes through one dialogue's log; remembers which action ran when, and which values were used."""

    def __init__(self, dialogue: Dialogue, catalog: Catalog, tally: Tally, opened: Mapping[str, int]):
        self.dialogue, self.catalog, self.tally, self.given = dialogue, catalog, tally, opened
        self.ran: dict[str, list[int]] = {}  # turns, by action
        self.used: dict[str, int] = {}  # the turn of the first call with it, by `_sign` of a value
        self.calls: list[ObservedAction] = []

    def reference(self, id: str, o: ObservedAction) -> ReferenceAction:
        """The next logged action as a reference."""
        action = self.catalog.by_name.get(o.name) or Action(name=o.name)
        how = action.comparisons
        found = {p: self.known(o, p, v, how.get(p, {})) for p, v in o.params.items()}
        known = {p: o.turn if t is None else t for p, t in found.items()}
        opened = self.given.get(id) or self.opened(o, {p: t for p, t in found.items() if t is not None})
        free = {p for p, c in how.items() if c["match"] == "any" and found.get(p) is None}
        wanted = action.required or tuple(known)
        empty = {p for p, t in found.items() if t is None and not sought(o.params[p])}
        needed = [known[p] for p in wanted if p in known and p not in free | empty]
        ready = min(o.turn, max([opened, *needed, *self.preconditions(action)]))
        known |= dict.fromkeys(empty, ready)
        self.remember(o, {p: t for p, t in found.items() if p not in free | empty})
        return ReferenceAction(
            id=id,
            name=o.name,
            params={
                p: ReferenceParam(
                    value=v, turn=known[p], **how.get(p, {}), **counted_from(v, self.dialogue.date), **_named(o, p)
                )
                for p, v in o.params.items()
            },
            window=Window(open=min(opened, ready), ready=ready, close=o.turn),
            observed_turn=o.turn,
            **({} if o.time is None else {"observed_time": o.time}),
        )

    def remember(self, o: ObservedAction, found: dict[str, int | None]) -> None:
        self.ran.setdefault(o.name, []).append(o.turn)
        self.used = {_sign(p, v): o.turn for p, v in o.params.items()} | self.used
        self.calls.append(o)
        self.tally.references += 1
        self.tally.values += len(found)
        self.tally.not_found += sum(t is None for t in found.values())

    def preconditions(self, action: Action) -> list[int]:
        """When the preconditions first ran; those that the log does not have are taken as done before."""
        return [self.ran[name][0] for name in action.preconditions if name in self.ran]

    def last(self, o: ObservedAction) -> int:
        """The turn of the action's last call, this turn's left out; 0 if there is none."""
        return max((turn for turn in self.ran.get(o.name, ()) if turn < o.turn), default=0)

    def known(self, o: ObservedAction, param: str, value: str, how: dict) -> int | None:
        """The turn that gives evidence for the value, up to the trigger; None if it is found nowhere.

        A value that the call before it had not is looked for after that call first; one that nobody says is known
        from the first call that had it.
        """
        if param in o.evidence:
            return min(o.evidence[param], o.turn)
        before = self.used.get(_sign(param, value))
        start = self.last(o) if before is None else 0
        threshold = how["text_threshold"] if how.get("match") == "text" else None
        others = self.offered(o.name, param, value)
        spans = [(start + 1, o.turn), *([(1, start)] if start else [])]
        found = (self.all_said(sought(value), *span, threshold, others) for span in spans)
        return next(filter(None, found), before)

    def offered(self, name: str, param: str, value: str) -> list[str]:
        """The other values that the catalog knows of the parameter."""
        params = self.catalog.by_name[name].params if name in self.catalog.by_name else ()
        values = next((p.values for p in params if p.name == param), ())
        return [v for v in values if key(v) != key(value)]

    def all_said(
        self, values: list[str], first: int, last: int, threshold: float | None, others: list[str]
    ) -> int | None:
        """The turn of [first, last] by which each of the values was said; None where one was not, or there is none.

        others: values between which an agent that names one of them too leaves the choice.
        """
        turns = [self.said(value, first, last, threshold, others) for value in values]
        return max(turns) if turns and None not in turns else None

    def said(self, value: str, first: int, last: int, threshold: float | None, others: list[str]) -> int | None:
        """The first turn of [first, last] where the value is said, at once or in pieces; with a threshold, something
        that is so like it."""
        rules = [lambda text: self.is_said(value, text)]
        if threshold is not None:
            rules.append(lambda text: text.says_like(value, threshold))

        def where(rule, places: list[Place]) -> int | None:
            inside = (p for p in places if first <= p.turns[0] and p.turns[-1] <= last and rule(p.text))
            return next((p.turns[-1] for p in inside if not any(self.lets_choose(n, others) for n in p.turns)), None)

        in_pieces = len(key(value)) >= PIECES
        found = (where(rule, self.alone) or (in_pieces and where(rule, self.pieces)) for rule in rules)
        return next(filter(None, found), None)

    def is_said(self, value: str, text: Heard) -> bool:
        today = self.dialogue.date
        return text.says(value) or (today is not None and says_day(text, value, today))

    def lets_choose(self, turn: int, others: list[str]) -> bool:
        """Whether the agent names one of these values."""
        return self.dialogue.turns[turn - 1].speaker in AGENTS and any(self.texts[turn - 1].says(v) for v in others)

    @cached_property
    def texts(self) -> list[Heard]:
        """What was said at each turn."""
        return [Heard(t.text) for t in self.dialogue.turns]

    @cached_property
    def alone(self) -> list[Place]:
        """Each turn."""
        return [Place((turn,), text) for turn, text in enumerate(self.texts, start=1)]

    @cached_property
    def pieces(self) -> list[Place]:
        """Two to four turns of one speaker in a row: the first to end first, of these the shortest."""
        turns, found = self.dialogue.turns, []
        for speaker in dict.fromkeys(t.speaker for t in turns):
            own = [n for n, t in enumerate(turns, start=1) if t.speaker == speaker]
            rows = [tuple(own[i : i + count]) for count in range(2, 5) for i in range(len(own) - count + 1)]
            found += [Place(row, Heard(" ".join(turns[n - 1].text for n in row))) for row in rows]
        return sorted(found, key=lambda place: (place.turns[-1], -place.turns[0]))

    def opened(self, o: ObservedAction, found: dict[str, int]) -> int:
        """The first sign of the need, after the last call of the same action."""
        last = self.last(o)
        fresh = [t for p, t in found.items() if t > last and _sign(p, o.params[p]) not in self.used]
        if o.intent_turn is not None:
            repeated = last and fresh  # the intent stays active between two calls
            return max(last + 1, min([*fresh, *([] if repeated else [o.intent_turn])]))
        first = min([*fresh, o.turn])
        mentioned = self.mentioned(o, max(last + 1, first - MENTION), first)
        return mentioned or (first if fresh else max(last + 1, self.continues(o)))

    def mentioned(self, o: ObservedAction, first: int, last: int) -> int | None:
        """Back from `last`, the first turn of [first, last] that mentions the action, at most GAP from the next one.

        The first call of a group is mentioned in words that only its group has, too.
        """
        own, shared = stems_of(self.catalog.wording, tuple(self.groups.items()))
        group = self.groups.get(o.name)
        first_of_group = group and not any(self.groups.get(c.name) == group and c.turn < o.turn for c in self.calls)
        stems = [*own.get(o.name, ()), *(shared.get(group, ()) if first_of_group else ())]
        found, following = None, last
        for turn in range(last, first - 1, -1):
            if following - turn > GAP:
                break
            if any(s in self.texts[turn - 1].text for s in stems) and not self.answers(turn):
                found = following = turn
        return found

    def answers(self, turn: int) -> bool:
        """Whether the agent tells there what a call at the turn before found, and asks nothing."""
        said = self.dialogue.turns[turn - 1]
        return said.speaker in AGENTS and "?" not in said.text and any(c.turn == turn - 1 for c in self.calls)

    def continues(self, o: ObservedAction) -> int:
        """The turn after the last call before it with its values, if that was another action of its group (a check
        before a booking); else its own turn."""
        group, before = self.groups.get(o.name), (c for c in reversed(self.calls) if c.turn < o.turn)
        last = next((c for c in before if o.params and o.params.items() <= c.params.items()), o)
        return last.turn + 1 if last.name != o.name and group and self.groups.get(last.name) == group else o.turn

    @cached_property
    def groups(self) -> dict[str, str]:
        """The group of each action that has one."""
        return {a.name: a.group for a in self.catalog.actions if a.group}


def _named(o: ObservedAction, param: str) -> dict[str, tuple[str, ...]]:
    """How else the value was named, where the corpus says so."""
    return {"spellings": o.spellings[param]} if param in o.spellings else {}


def _sign(param: str, value: str) -> str:
    """By what a value is known again: short ones (`3`, `yes`) only with their parameter's name."""
    found = key(value)
    return f"{param}={found}" if len(found) < 3 or found in ("true", "false") else found
