"""`proactor score`: predictions against references."""

import json
import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from proactor_lib.cli.tables import console
from proactor_lib.params import Params


def score(
    dialogues: Annotated[Path, typer.Option(help="JSONL, one dialogue per line.")],
    references: Annotated[Path, typer.Option(help="JSONL, a dialogue's reference actions a line.")],
    predictions: Annotated[Path, typer.Option(help="JSONL, a turn's actions a line; a turn left out is silence.")],
    theta: Annotated[float, typer.Option(min=0, max=1, help="Alignment from which a prediction matches.")] = (
        Params.model_fields["theta"].default
    ),
    price: Annotated[float, typer.Option(min=0, help="Of a false execution, in missed opportunities: U's c.")] = (
        Params.model_fields["execution_price"].default
    ),
    bootstrap: Annotated[int, typer.Option(min=1, help="Resamples of dialogues for the 95% intervals.")] = (
        Params.model_fields["bootstrap"].default
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    exact: Annotated[bool, typer.Option("--exact", help="Compare parameter values as they are written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: {metric: {value, low, high}}.")] = False,
) -> None:
    """Score an agent's predictions against the references: every metric with its 95% interval over dialogues."""
    from proactor_lib.metrics import evaluate_predictions
    from proactor_lib.metrics.inputs import read_inputs
    from proactor_lib.metrics.ranking import table

    inputs = read_inputs(dialogues, references, predictions)
    if missing := inputs.unannotated():
        typer.echo(f"{len(missing)} dialogues have predictions and no line in {references}: nothing needed", err=True)
    scored = evaluate_predictions(*inputs, theta=theta, values="exact" if exact else "normalised", price=price)
    rows = table({predictions.stem: scored}, bootstrap, seed)
    found = {r.metric: (r.value, r.low, r.high) for r in rows.itertuples() if r.metric != "pri"}
    print_json(found) if as_json else print_table(found, len(scored))


def print_json(found: dict[str, tuple[float, float, float]]) -> None:
    """One object on standard output; what is undefined is null."""
    keys = ("value", "low", "high")
    plain = {
        m: {k: None if math.isnan(x) else float(x) for k, x in zip(keys, v, strict=True)} for m, v in found.items()
    }
    json.dump(plain, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_table(found: dict[str, tuple[float, float, float]], dialogues: int) -> None:
    """A table on standard output; a dash is what is undefined, or the interval of what rests on one dialogue."""
    from rich.table import Table

    shown = Table("metric", title=f"{dialogues} dialogues", title_justify="left")
    for header in ("value", "95% interval"):
        shown.add_column(header, justify="right")
    for metric, (value, low, high) in found.items():
        ends = "-" if math.isnan(low) else f"{low:.4f} to {high:.4f}"
        shown.add_row(metric, "-" if math.isnan(value) else f"{value:.4f}", ends)
    console().print(shown)
