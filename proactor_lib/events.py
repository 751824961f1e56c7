"""What happens in a run, as typed events: the code that does it tells, whoever is interested listens.

Listeners of our own that keep files (progress, records) are declared beside their file with `listens`; what they raise
counts. Others are callables that take an Event: given to `add`, named by an entry point of the group
`proactor.listeners`, or our plug-ins (PLUGINS). What those raise is a warning, once, and changes nothing else.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel

log = logging.getLogger(__name__)

GROUP = "proactor.listeners"
PLUGINS = ("proactor_lib.interop:listen",)  # loaded by name, as those of others


@dataclass(frozen=True)
class Event:
    """`out`: the run's folder."""

    out: Path


@dataclass(frozen=True)
class RunBegan(Event):
    """A new folder was opened. `params`: all parameters, as JSON values, keys hidden (`params.hide_keys`)."""

    params: dict[str, Any]


@dataclass(frozen=True)
class Progressed(Event):
    """`done` of `total` units of `stage` are there; `text`: a word on it."""

    stage: str
    done: float
    total: float
    text: str


@dataclass(frozen=True)
class GroupSampled(Event):
    """The K outputs of one turn were sampled, rewarded and trained on; `group`: a training_log.GroupLine."""

    step: int
    group: BaseModel


@dataclass(frozen=True)
class StepTrained(Event):
    """An optimiser step; `line`: of the trainer's metrics file. A step after the last checkpoint may be taken again."""

    step: int
    line: dict[str, Any]


@dataclass(frozen=True)
class PolicyPublished(Event):
    """All servers hold this version of the policy."""

    version: int


@dataclass(frozen=True)
class Checkpointed(Event):
    """Steps up to this one are never taken again."""

    step: int


@dataclass(frozen=True)
class TrainingEnded(Event):
    """The adapter is written."""


@dataclass(frozen=True)
class Evaluated(Event):
    """Policies were scored on test; `table`: policy -> metric -> [value, low, high]."""

    table: dict[str, dict[str, list[float | None]]]


@dataclass(frozen=True)
class Reported(Event):
    """The report is written to `path`."""

    path: Path


Listener = Callable[[Any], None]
_own: dict[type[Event], list[Listener]] = {}
_added: list[Listener] = []
_warned: list[Listener] = []  # a listener may be one that cannot be hashed


def listens(kind: type[Event]) -> Callable[[Listener], Listener]:
    """Declares a listener of ours for one kind of event."""

    def declared(listener: Listener) -> Listener:
        _own.setdefault(kind, []).append(listener)
        return listener

    return declared


def add(listener: Listener) -> Callable[[], None]:
    """Have `listener` get every event of this process; returns what takes it out again."""
    _added.append(listener)
    return lambda: _added.remove(listener)


def emit(event: Event) -> None:
    """Tell all listeners, ours first."""
    for listener in _own.get(type(event), ()):
        listener(event)
    for listener in (*_plugins(), *_added):
        try:
            listener(event)
        except Exception as error:
            if listener not in _warned:
                _warned.append(listener)
                name = getattr(listener, "__module__", listener)
                log.warning("a listener of %s failed (%s: %s); it is asked again", name, type(error).__name__, error)


@cache
def _plugins() -> tuple[Listener, ...]:
    """Ours and those of installed packages; one that cannot be loaded is a warning."""
    found = []
    loaders = [(name, lambda n=name: _load(n)) for name in PLUGINS]
    loaders += [(e.name, e.load) for e in entry_points(group=GROUP)]  # two packages may use one name
    for name, load in loaders:
        try:
            found.append(load())
        except Exception as error:
            log.warning("the listener %s cannot be loaded (%s: %s)", name, type(error).__name__, error)
    return tuple(found)


def _load(name: str) -> Listener:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
