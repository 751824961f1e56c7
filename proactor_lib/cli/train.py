"""`proactor train`: the training process that a notebook starts and follows."""

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `proactor train`."""
    app.command()(train)


def train(out: Annotated[Path, typer.Option(help="A run's folder, annotated; training goes on from what is there.")]):
    """Warm start, then GRPO, in a run's folder; metrics go to training/metrics.jsonl step by step."""
    from proactor_lib.artf.training.train import train as run_to_completion
    from proactor_lib.files import read_json
    from proactor_lib.params import Params
    from proactor_lib.run import Run

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds: servers are stopped
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    run_to_completion(Run.open(read_json(out / "params.json", Params), out))
