"""Trackers that people have open: a run's parameters, steps, samples, held-out table and report in Trackio, TensorBoard
and Weights & Biases (parameter `trackers`).

They follow the run's files: a step reaches them with the checkpoint after which it is not taken again, so that their
curves are those of its metrics file, also where it was killed. `trackers.json` in the run's folder says under which
id, and how far. A tracker that fails is a warning, once; what it missed it gets with the next checkpoint.
"""

import contextlib
import io
import json
import logging
import math
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from proactor_lib import events, provenance
from proactor_lib.artf.training.training_log import read_samples, read_steps
from proactor_lib.files import read_text, write_json
from proactor_lib.params import hide_keys
from proactor_lib.run_folder import RunFolder
from proactor_lib.sweep.worker import CELL

log = logging.getLogger(__name__)

PROJECT, FILE = "proactor", "trackers.json"
SAMPLES = 16  # outputs shown of a step
_warned: set[str] = set()
_open: dict[tuple[Path, str], "Tracker"] = {}


@dataclass(frozen=True)
class About:
    """What a tracker is told of a run at its start."""

    out: Path
    id: str
    name: str
    group: str | None
    config: dict[str, Any]


class Tracker(Protocol):
    """One run in one tracker; made with an About, it goes on where there is one of that id."""

    def step(self, number: int, values: dict[str, float]) -> None: ...

    def table(self, name: str, rows: pd.DataFrame, number: int) -> None: ...

    def report(self, path: Path) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def tell(event: events.Event) -> None:
    """Tell the run's trackers of a checkpoint, the end of training, results or a report."""
    run = RunFolder.read(event.out)
    for name in run.params.trackers:
        try:
            _tell(run, name, event)
        except Exception as error:  # a tracker's: the run has nothing to do with it
            if name not in _warned:
                _warned.add(name)
                log.warning("the tracker %s failed (%s: %s); the run goes on", name, type(error).__name__, error)


def _tell(run: RunFolder, name: str, event: events.Event) -> None:
    tracker, known = _opened(run, name), _known(run)
    mine = known.setdefault(name, {})
    if isinstance(event, events.Checkpointed | events.TrainingEnded):
        _catch_up(run, tracker, mine, getattr(event, "step", math.inf))
    elif isinstance(event, events.Evaluated) and mine.get("evaluated") != (digest := _digest(event.table)):
        tracker.table("held_out", _held_out(event.table), mine.get("step", 0) + 1)
        mine["evaluated"] = digest
    elif isinstance(event, events.Reported) and mine.get("report") != (digest := provenance.fingerprint(event.path)):
        tracker.report(event.path)
        mine["report"] = digest
    tracker.flush()  # before it is noted: a kill then repeats it at worst
    if not isinstance(event, events.Checkpointed):
        _open.pop((run.out, name)).close()
    write_json(run.out / FILE, known)


def _catch_up(run: RunFolder, tracker: Tracker, mine: dict[str, Any], last: float) -> None:
    """The steps that it lacks, up to `last`."""
    steps, samples = read_steps(run), read_samples(run)
    for line in steps.to_dict("records"):
        if mine.get("step", 0) < (number := line["step"]) <= last:
            tracker.step(number, {k: float(v) for k, v in line.items() if k != "step" and _is_figure(v)})
            shown = samples[samples.step == number].drop(columns="step").head(SAMPLES)
            if len(shown):
                tracker.table("samples", shown, number)
            mine["step"] = number


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _held_out(table: dict[str, dict[str, list[float | None]]]) -> pd.DataFrame:
    rows = [(policy, metric, *ends) for policy, metrics in table.items() for metric, ends in metrics.items()]
    return pd.DataFrame(rows, columns=["policy", "metric", "value", "low", "high"])


def _digest(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _known(run: RunFolder) -> dict[str, Any]:
    path = run.out / FILE
    return json.loads(read_text(path)) if path.exists() else {"id": secrets.token_hex(4)}


def _opened(run: RunFolder, name: str) -> Tracker:
    if (run.out, name) not in _open:
        known = _known(run)
        write_json(run.out / FILE, known)
        group, _, cell = os.environ.get(CELL, "").partition("/")
        shown = "-".join(part for part in (run.params.name, cell, known["id"]) if part)
        about = About(run.out, known["id"], shown, group or None, hide_keys(run.params.model_dump(mode="json")))
        _open[run.out, name] = TRACKERS[name](about)
    return _open[run.out, name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Standard output is the command's own."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


class Trackio:
    """Local, no account: `trackio show --project proactor`. It writes from a thread: only what is finished is there."""

    def __init__(self, about: About):
        self._about, self._open = about, None

    @property
    def _run(self):
        import trackio

        if self._open is None:
            a = self._about
            with _quiet():
                self._open = trackio.init(PROJECT, a.name, a.group, config=a.config, resume="allow", embed=False,
                                          auto_log_gpu=False, auto_log_cpu=False)  # fmt: skip
        return self._open

    def step(self, number: int, values: dict[str, float]) -> None:
        """One point of each curve."""
        self._run.log(values, step=number)

    def table(self, name: str, rows: pd.DataFrame, number: int) -> None:
        """A table beside the step."""
        import trackio

        self._run.log({name: trackio.Table(dataframe=rows)}, step=number)

    def report(self, path: Path) -> None:
        """The report as an artifact."""
        import trackio

        artifact = trackio.Artifact(f"report-{self._about.id}", type="report")
        artifact.add_file(str(path))
        with _quiet():
            self._run.log_artifact(artifact)

    def flush(self) -> None:
        """Finish the run; it is opened again when there is more."""
        if self._open is not None:
            with _quiet():
                self._open.finish()
            self._open = None

    close = flush


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir RUN` (or a sweep's folder, for all its cells)."""

    def __init__(self, about: About):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._folder = about.out / "tensorboard"
        first = not self._folder.exists()
        self._writer = EventFileWriter(str(self._folder))
        if first:
            self._text("params", f"```json\n{json.dumps(about.config, indent=2)}\n```", 0)

    def step(self, number: int, values: dict[str, float]) -> None:
        """One point of each curve."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()]), number)

    def table(self, name: str, rows: pd.DataFrame, number: int) -> None:
        """A table as Markdown, beside the step."""
        from proactor_lib.report.tables import markdown

        self._text(name, markdown(rows.astype(object).where(rows.notna(), None)), number)

    def report(self, path: Path) -> None:
        """Where the report is: event files hold no artifacts."""
        self._text("report", str(path.resolve()), 0)

    def flush(self) -> None:
        """It is on disk already."""

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _text(self, tag: str, text: str, number: int) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(text_pb(tag, text), number)

    def _add(self, summary: Any, number: int) -> None:
        import time

        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=number, summary=summary))
        self._writer.flush()


class Wandb:
    """Offline, unless WANDB_MODE or a key says otherwise: files under the run's folder, for `wandb sync`."""

    def __init__(self, about: About):
        import wandb

        self._wandb = wandb
        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        quiet = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(project=PROJECT, id=about.id, name=about.name, group=about.group, config=about.config,
                               dir=str(about.out), mode=mode, resume="allow", settings=quiet)  # fmt: skip

    def step(self, number: int, values: dict[str, float]) -> None:
        """One point of each curve."""
        self._run.log(values, step=number)

    def table(self, name: str, rows: pd.DataFrame, number: int) -> None:
        """A table beside the step."""
        self._run.log({name: self._wandb.Table(dataframe=rows)}, step=number)

    def report(self, path: Path) -> None:
        """The report as an artifact."""
        artifact = self._wandb.Artifact(f"report-{self._run.id}", type="report")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def flush(self) -> None:
        """A process of its own writes, and outlives this one."""

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


TRACKERS: dict[str, type[Tracker]] = {"trackio": Trackio, "tensorboard": TensorBoard, "wandb": Wandb}
