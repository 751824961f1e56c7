"""How far a stage is, as lines of a file: a notebook's process writes them, whoever watches the run tails them."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from proactor_lib import events
from proactor_lib.files import read_text

FILE = "progress.jsonl"


@dataclass(frozen=True)
class Event:
    """One line: `done` of `total` units of `stage` at `time` (seconds since the epoch), and a word on it."""

    time: float
    stage: str
    done: float
    total: float
    text: str = ""


def report(out: Path | str, stage: str, done: float, total: float, text: str = "") -> None:
    """Tell how far the stage is: one more event of the run folder's progress file."""
    events.emit(events.Progressed(Path(out), stage, done, total, text))


@events.listens(events.Progressed)
def _append(event: events.Progressed) -> None:
    """One write a line, so that processes may share the file."""
    told = {"stage": event.stage, "done": event.done, "total": event.total, "text": event.text}
    line = json.dumps({"time": time.time(), **told}) + "\n"
    event.out.mkdir(parents=True, exist_ok=True)
    handle = os.open(event.out / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def read(out: Path | str) -> list[Event]:
    """All events of the run's folder, in order; none where nothing was reported."""
    path = Path(out) / FILE
    return [Event(**json.loads(line)) for line in read_text(path).splitlines()] if path.exists() else []


class Tail:
    """The events that were appended since the last look; starts at the end of what is there."""

    def __init__(self, out: Path | str):
        self._path = Path(out) / FILE
        self._offset = self._path.stat().st_size if self._path.exists() else 0

    def new(self) -> list[Event]:
        """Events since the last call; a line that is still being written waits for the next call."""
        try:
            with open(self._path, "rb") as handle:
                handle.seek(self._offset)
                whole, newline, _ = handle.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole) + len(newline)
        return [Event(**json.loads(line)) for line in whole.splitlines()]
