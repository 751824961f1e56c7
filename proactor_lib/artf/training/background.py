"""Training from a notebook: start its process or find it running, and follow it by its files.

The process is not the kernel's: a notebook can be closed, its kernel restarted, and training goes on until it ends or
`stop` is called. Under `proactor run` it ends with the run.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import psutil

from proactor_lib import allocator, processes, progress
from proactor_lib.artf.training import inputs
from proactor_lib.artf.training.training_log import finished, read_steps
from proactor_lib.errors import UserError
from proactor_lib.files import write_json
from proactor_lib.run_folder import RunFolder


class Moment(NamedTuple):
    """How training stands."""

    steps: pd.DataFrame  # one row per GRPO step so far
    doing: str  # what the process said last


class TrainingFailed(RuntimeError):
    """The training process ended without an adapter; the message ends with its last words."""


def log_path(run: RunFolder) -> Path:
    """What the training process says."""
    return run.training / "train.log"


def process(run: RunFolder) -> psutil.Process | None:
    """The run's training process, if it runs."""
    try:
        known = json.loads((run.training / "process.json").read_text(encoding="utf-8"))
        found = psutil.Process(known["pid"])
        same = found.create_time() == known["started"] and found.status() != psutil.STATUS_ZOMBIE
        return found if same else None
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None


def start(run: RunFolder) -> None:
    """Start training in a process of its own, unless it runs or is done; it goes on from the last checkpoint.

    UserError where that was made from other data than the run has now.
    """
    inputs.refuse_changed(run)
    if finished(run) or process(run):
        return
    run.training.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "proactor_lib", "train", "--out", str(run.out.resolve())]
    with open(log_path(run), "ab") as log:  # what ended an earlier try stays
        child = subprocess.Popen(
            command, env=allocator.trainer_environment(run.params.device), stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    started = psutil.Process(child.pid).create_time()
    write_json(run.training / "process.json", {"pid": child.pid, "started": started})


def stop(run: RunFolder) -> None:
    """End training and its servers; `start` goes on from the last checkpoint."""
    if found := process(run):
        processes.end(found.pid, grace=10.0)


def follow(run: RunFolder, every: float = 2.0) -> Iterator[Moment]:
    """Start or find training, and yield how it stands every `every` seconds, for the last time when it has ended.

    Raises UserError as `start`, and with training's own sentence where the user made a mistake, TrainingFailed where
    it ended otherwise.
    """
    heard, doing = progress.Tail(run.out), "training starts"
    start(run)
    while True:
        running = process(run)
        for event in heard.new():
            doing = f"{event.stage} {event.done:g}/{event.total:g} {event.text}".rstrip()
        yield Moment(_steps(run), doing)
        if running is None:
            break
        with contextlib.suppress(psutil.TimeoutExpired):
            running.wait(every)
    if not finished(run):
        raise _failure(log_path(run))


def _steps(run: RunFolder) -> pd.DataFrame:
    """The steps so far, without a line that is still being written."""
    try:
        return read_steps(run)
    except UserError:
        if process(run) is None:
            raise
        return pd.DataFrame()


def _failure(log: Path) -> Exception:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    last = lines[-1] if lines else "it said nothing"
    if last.startswith("proactor: "):
        return UserError(last.removeprefix("proactor: "))
    return TrainingFailed(f"training ended before its adapter was written: {last} (the whole log: {log})")


def live(run: RunFolder, every: float = 2.0) -> pd.DataFrame:
    """In a notebook: follow training with the reward curve drawn again as steps come. Returns all steps."""
    from IPython.display import display

    from proactor_lib.plots import reward_curves

    shown, drawn, now = display("training starts", display_id=True), 0, Moment(pd.DataFrame(), "")
    for now in follow(run, every):
        if len(now.steps) > drawn:
            drawn = len(now.steps)
            shown.update(reward_curves({run.params.name: now.steps}))
        elif not drawn:
            shown.update({"text/plain": now.doing}, raw=True)
    return now.steps
