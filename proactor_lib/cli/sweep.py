"""`proactor sweep plan|run|collect`."""

import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from proactor_lib.cli.options import AsJson
from proactor_lib.cli.tables import console

File = Annotated[Path, typer.Argument(help="A sweep file (YAML).")]
Out = Annotated[str, typer.Argument(help="The sweep's folder, or an fsspec URL.")]


sweep = typer.Typer(no_args_is_help=True, help="Many cells of one notebook: plan, run, collect.")


def _read(file: Path):
    from proactor_lib.sweep.cells import make_cells
    from proactor_lib.sweep.definition import read_sweep

    sweep = read_sweep(file)
    return sweep, make_cells(sweep, file)


@sweep.command()
def plan(file: File, as_json: AsJson = False) -> None:
    """Print the cells and what differs; everything is checked, nothing runs."""
    from proactor_lib.sweep.cells import varying

    sweep, cells = _read(file)
    names = varying(cells)
    if as_json:
        import json

        rows = [{"id": c.id, **{n: c.values.get(n) for n in names}} for c in cells]
        typer.echo(json.dumps({"name": sweep.name, "notebook": str(sweep.notebook), "cells": rows}, indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("cell", *names, box=None)
    for cell in cells:
        table.add_row(cell.id, *(escape(str(cell.values.get(n))) for n in names))
    out = console()
    out.print(escape(f"{sweep.name}: {len(cells)} cells of {sweep.notebook.name}"))
    out.print(table)


@sweep.command()
def run(
    file: File,
    out: Annotated[str, typer.Option(help="The sweep's folder (shared by all nodes), or an fsspec URL.")],
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster to join (host:port or auto); none: start one here.")
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores of this machine to use; none: all.")] = None,
) -> None:
    """Run the cells that are missing or failed; the last line is the sweep's folder. Status 1 when a cell failed."""
    from proactor_lib.sweep import live, runner
    from proactor_lib.sweep_folder import table
    from proactor_lib.sweep_folder.store import Store

    sweep, cells = _read(file)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left running
    view = live.Terminal if sys.stderr.isatty() else live.Lines
    with closing(view(Store(out), sweep.headline, sweep.metrics)) as on_tick:
        progress = runner.run(sweep, cells, out, address, cpus, on_tick)
    table.collect(out)
    for record in progress.failed[:5]:
        typer.echo(f"proactor: cell {record['id']} {record['state']}: {record['problem']}", err=True)
    if len(progress.failed) > 5:
        typer.echo(f"proactor: {len(progress.failed) - 5} more cells failed: table.csv says how", err=True)
    typer.echo(out)
    raise typer.Exit(1 if progress.failed else 0)


@sweep.command()
def collect(out: Out) -> None:
    """Write table.parquet and table.csv (one row per cell) into the sweep's folder; prints the table's path."""
    from proactor_lib.sweep_folder import table

    found = table.collect(out)
    bad = int((found.state != "done").sum())
    if bad:
        typer.echo(f"{bad} of {len(found)} cells are not done", err=True)
    typer.echo(f"{out.rstrip('/')}/table.csv")
