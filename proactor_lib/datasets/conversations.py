"""Conversations as readers of other forms find them, before there is a catalog: what was said, called and answered."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from math import inf, isfinite
from typing import Any

from proactor_lib.schema import Action

CALENDAR = 1e8  # seconds: a time stamp from here on is a date's (since 1970), one below it is time into the dialogue
MILLISECONDS = 1e11  # from here on a number counts milliseconds, or micro- or nanoseconds
PLACES = 5  # at which a notice is shown


@dataclass(frozen=True)
class Spoken:
    """A turn. `start`, `end`: seconds, into the dialogue or of the calendar (`CALENDAR`); None: nothing says it."""

    speaker: str
    text: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Call:
    """A logged trigger, with its arguments as JSON values. `time`: as a turn's `start`."""

    name: str
    arguments: dict[str, Any]
    time: float | None = None


@dataclass(frozen=True)
class Result:
    """What a tool answered: no turn, but evidence of the values in it."""

    text: str


@dataclass(frozen=True)
class Conversation:
    """What happened, in order.

    `tools`: what the source says could have been called; empty where it says nothing. `date`: the day on which it took
    place, where that was; None: not known.
    """

    id: str
    events: tuple[Spoken | Call | Result, ...]
    tools: tuple[Action, ...] = ()
    date: "date | None" = None

    @property
    def spoken(self) -> tuple[Spoken, ...]:
        """The turns alone."""
        return tuple(e for e in self.events if isinstance(e, Spoken))

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls alone."""
        return tuple(e for e in self.events if isinstance(e, Call))


@dataclass
class Notices:
    """Sentences on what a reader guessed or left out, each with the places where it did."""

    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, sentence: str, place: str) -> None:
        """Note that the sentence holds at a place."""
        self.places.setdefault(sentence, []).append(place)

    def __iter__(self) -> Iterator[str]:
        """Each sentence with its count and its first places."""
        for sentence, all_places in self.places.items():
            distinct = list(dict.fromkeys(all_places))
            more = ", ..." * (len(distinct) > PLACES)
            times = f"{len(all_places)} times, " * (len(all_places) > 1)
            yield f"{sentence} ({times}{', '.join(distinct[:PLACES])}{more})"


@dataclass
class Notes:
    """What the page of an import tells: guessed, and left out."""

    guessed: Notices = field(default_factory=Notices)
    left_out: Notices = field(default_factory=Notices)


def seconds(written: Any) -> float | None:
    """A time stamp in seconds: a number, `MM:SS`, `HH:MM:SS,mmm`, or an ISO date-time (UTC where it has no zone).

    A number that would be after the year 5000 is milliseconds, or micro- or nanoseconds. None for what is empty or no
    finite number; ValueError for anything else.
    """
    time = _seconds(written)
    return time if time is not None and isfinite(time) else None


def _seconds(written: Any) -> float | None:
    if written is None:
        return None
    if isinstance(written, int | float):
        return _as_seconds(written)
    text = str(written).strip().replace(",", ".")
    if not text:
        return None
    try:
        *above, last = text.split(":")
        if not 0 <= len(above) <= 2:
            raise ValueError
        time = sum(int(part) * 60 ** (len(above) - i) for i, part in enumerate(above)) + float(last)
        return _as_seconds(time)
    except ValueError:
        time = datetime.fromisoformat(str(written).strip())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _as_seconds(number: float) -> float:
    while MILLISECONDS <= number < inf:
        number /= 1000
    return number


def day(written: Any) -> date | None:
    """The day of a time stamp: of an ISO date-time the one it names, of seconds since 1970 UTC's; None for all else."""
    try:
        time = seconds(written)
        if time is None or time < CALENDAR:
            return None
        try:
            return datetime.fromisoformat(str(written).strip()).date()
        except ValueError:
            return datetime.fromtimestamp(time, UTC).date()
    except (ValueError, OverflowError, OSError):
        return None
