"""The evidence annotator: windows from the log, with hindsight, deterministic. [ours]

One reference for each logged action; `close` is its trigger. A value is known from the turn where the corpus's own
state first holds it, else from the turn where it is first said; one that is found nowhere takes the trigger's turn and
is counted. A list or an object is known when all its parts are; a free text from the turn where something like it is
said; one that may be anything is waited for by nobody, nor is an empty list or object, which is known from `ready` on.
`ready` is the first turn at which every required parameter is known (where the catalog requires none: every one of the
call) and the preconditions that were logged have run. `open` is the first sign of the need after the last call of the
same action: a value that no earlier call had used, the intent where the corpus's own state has one, else a mention of
the action shortly before: a word that only its name, description or parameters have. It is never after `ready`.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from proactor_lib.comparison import counted_from, leaves
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
ENDING = 3  # letters of a word that may differ: identity, identify; prequalify, prequalification

_WORD = re.compile(r"[A-Z]?[a-z]+(?<=[A-Za-z]{2})")


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
        self.used: set[str] = set()  # keys of values
        self._texts: list[Heard] | None = None

    def reference(self, id: str, o: ObservedAction) -> ReferenceAction:
        """The next logged action as a reference."""
        action = self.catalog.by_name.get(o.name) or Action(name=o.name)
        how = action.comparisons
        found = {p: self.known(o, p, v, how.get(p, {})) for p, v in o.params.items()}
        known = {p: o.turn if t is None else t for p, t in found.items()}
        opened = self.given.get(id) or self.opened(o, {p: t for p, t in found.items() if t is not None})
        free = {p for p, c in how.items() if c["match"] == "any" and found.get(p) is None}
        wanted = action.required or tuple(known)
        empty = {p for p, t in found.items() if t is None and not _sought(o.params[p])}
        needed = [known[p] for p in wanted if p in known and p not in free | empty]
        ready = min(o.turn, max([opened, *needed, *self.preconditions(action)]))
        known |= dict.fromkeys(empty, ready)
        self.remember(o, {p: t for p, t in found.items() if p not in free | empty})
        return ReferenceAction(
            id=id,
            name=o.name,
            params={
                p: ReferenceParam(value=v, turn=known[p], **how.get(p, {}), **counted_from(v, self.dialogue.date))
                for p, v in o.params.items()
            },
            window=Window(open=min(opened, ready), ready=ready, close=o.turn),
            observed_turn=o.turn,
            **({} if o.time is None else {"observed_time": o.time}),
        )

    def remember(self, o: ObservedAction, found: dict[str, int | None]) -> None:
        self.ran.setdefault(o.name, []).append(o.turn)
        self.used |= {key(v) for v in o.params.values()}
        self.tally.references += 1
        self.tally.values += len(found)
        self.tally.not_found += sum(t is None for t in found.values())

    def preconditions(self, action: Action) -> list[int]:
        """When the preconditions first ran; those that the log does not have are taken as done before."""
        return [self.ran[name][0] for name in action.preconditions if name in self.ran]

    def last(self, name: str) -> int:
        """When the action ran last; 0 if it did not yet."""
        return self.ran.get(name, [0])[-1]

    def known(self, o: ObservedAction, param: str, value: str, how: dict) -> int | None:
        """The turn that gives evidence for the value, up to the trigger; None if it is found nowhere.

        A value that the call before it had not is looked for after that call first.
        """
        if param in o.evidence:
            return min(o.evidence[param], o.turn)
        start = self.last(o.name) if key(value) not in self.used else 0
        threshold = how["text_threshold"] if how.get("match") == "text" else None
        sought = _sought(value)
        after = self.all_said(sought, start + 1, o.turn, threshold)
        return after or (self.all_said(sought, 1, start, threshold) if start else None)

    def all_said(self, values: list[str], first: int, last: int, threshold: float | None) -> int | None:
        """The turn of [first, last] by which each of the values was said; None where one was not, or there is none."""
        turns = [self.said(value, first, last, threshold) for value in values]
        return max(turns) if turns and None not in turns else None

    def said(self, value: str, first: int, last: int, threshold: float | None) -> int | None:
        """The first turn of [first, last] where the value is said; with a threshold, something that is so like it."""
        heard = list(enumerate(self.texts[first - 1 : last], start=first))
        said = (turn for turn, text in heard if self.is_said(value, text))
        like = (turn for turn, text in heard if threshold is not None and text.says_like(value, threshold))
        return next(said, None) or next(like, None)

    def is_said(self, value: str, text: Heard) -> bool:
        today = self.dialogue.date
        return text.says(value) or (today is not None and says_day(text, value, today))

    @property
    def texts(self) -> list[Heard]:
        """What was said at each turn."""
        if self._texts is None:
            self._texts = [Heard(t.text) for t in self.dialogue.turns]
        return self._texts

    def opened(self, o: ObservedAction, found: dict[str, int]) -> int:
        """The first sign of the need, after the last call of the same action."""
        last = self.last(o.name)
        fresh = [t for p, t in found.items() if t > last and key(o.params[p]) not in self.used]
        if o.intent_turn is not None:
            repeated = last and fresh  # the intent stays active between two calls
            return max(last + 1, min([*fresh, *([] if repeated else [o.intent_turn])]))
        first = min([*fresh, o.turn])
        return self.mentioned(o.name, max(last + 1, first - MENTION), first) or first

    def mentioned(self, name: str, first: int, last: int) -> int | None:
        """Back from `last`, the first turn of [first, last] that mentions the action, at most GAP from the next one."""
        stems = _own_stems(self.catalog.wording).get(name, ())
        found, following = None, last
        for turn in range(last, first - 1, -1):
            if following - turn > GAP:
                break
            if any(s in self.texts[turn - 1].text for s in stems):
                found = following = turn
        return found


def _sought(value: str) -> list[str]:
    """What has to be said for the value to be known."""
    return [leaf for leaf in leaves(value) if leaf.strip()]


@lru_cache(maxsize=16)
def _own_stems(wording: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    """The stems of each action's words that no other action has, as they stand in a normalised text.

    A name's word of two letters stands alone (` id `), a longer one may end otherwise; a description's words of less
    than four letters say nothing.
    """
    stems = {
        name: {_stem(w.lower()) for w in [*_WORD.findall(name), *(w for w in _WORD.findall(text) if len(w) > 3)]}
        for name, text in wording
    }
    shared = Counter(s for of_one in stems.values() for s in of_one)
    return {name: [s for s in of_one if shared[s] == 1] for name, of_one in stems.items()}


def _stem(word: str) -> str:
    return f" {word} " if len(word) == 2 else f" {word[: max(4, len(word) - ENDING)]}"
