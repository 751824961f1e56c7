"""`proactor train`: the training process that a notebook starts and follows."""

import logging
import signal
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from proactor_lib.run import Run


def train(out: Annotated[Path, typer.Option(help="A run's folder, annotated; training goes on from what is there.")]):
    """Warm start, then GRPO, in a run's folder; metrics go to training/metrics.jsonl step by step.

    With `trainers` above 1 this process starts so many ranks, waits for them, and ends them all when one ends badly.
    A second one in the folder is refused while this one runs.
    """
    from proactor_lib.artf.training import ranks
    from proactor_lib.errors import ProcessError
    from proactor_lib.processes import alone_in
    from proactor_lib.run import Run

    signal.signal(signal.SIGTERM, _leave)
    try:
        run = Run.read(out)
        with nullcontext() if ranks.is_rank() else alone_in(run.training):
            _bring_to_end(run)
    except ProcessError as error:  # not a user's mistake, which whoever follows knows by the word before it
        sys.exit(str(error))


def _bring_to_end(run: "Run") -> None:
    from proactor_lib import allocator
    from proactor_lib.artf.training import ranks

    if run.params.trainers > 1 and not ranks.is_rank():
        run.training.mkdir(parents=True, exist_ok=True)
        itself = [sys.executable, "-m", "proactor_lib", "train", "--out", str(run.out)]
        return ranks.launch(run.params.trainers, itself, run.training, allocator.trainer_environment(run.params.device))
    if not ranks.is_rank():
        ranks.forget()
    allocator.hide_from_children()
    from proactor_lib.artf.training.train import train
    from proactor_lib.evaluate.run import ask_on

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return train(run, partial(ask_on, run))


def _leave(*_) -> None:
    """Unwind, once: servers are stopped."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)
