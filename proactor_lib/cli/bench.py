"""`proactor bench ...`: measurements of this machine. Each prints one JSON object with --json."""

import json
import sys
from typing import Annotated

import typer

bench = typer.Typer(no_args_is_help=True, help="Measure this machine.")

Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]


def register(app: typer.Typer) -> None:
    """Add the commands `bench ...`."""
    app.add_typer(bench, name="bench")


def show(measured: dict, as_json: bool) -> None:
    """Print what was measured: one JSON object, or one line a figure."""
    if as_json:
        sys.stdout.write(json.dumps(measured) + "\n")
    else:
        for name, value in measured.items():
            sys.stdout.write(f"{name:24} {value}\n")


@bench.command()
def metrics(
    methods: Annotated[int, typer.Option(min=1)] = 6,
    dialogues: Annotated[int, typer.Option(min=1)] = 692,
    turns: Annotated[int, typer.Option(min=1, help="a dialogue")] = 21,
    bootstrap: Annotated[int, typer.Option(min=1, help="resamples of dialogues")] = 2000,
    as_json: Json = False,
) -> None:
    """Score methods on dialogues, with intervals and PRI, on one core: seconds, and the process's peak memory in MB."""
    from proactor_lib.metrics.benchmark import benchmark

    show(benchmark(methods, dialogues, turns, bootstrap), as_json)
