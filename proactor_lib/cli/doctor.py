"""`proactor doctor`: whether this machine, or one that a file describes, can do a run."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proactor_lib.cli.options import AsJson, Settings
from proactor_lib.cli.run import parse_settings
from proactor_lib.cli.tables import console

if TYPE_CHECKING:
    from proactor_lib.doctor import Row

GB = 1e9


def doctor(
    params: Annotated[Path, typer.Option(help="The run's parameters (YAML).")],
    machine: Annotated[Path | None, typer.Option(help="A machine (YAML, as in params/machines); none: this.")] = None,
    settings: Settings = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Where the run's folder would be: the disk counts.")] = Path("outputs"),
    as_json: AsJson = False,
) -> None:
    """Say what would run where, and whether it can (memory and time are estimates); status 2 if something will fail."""
    from proactor_lib.doctor import examine, read_machine, this_machine
    from proactor_lib.params import load_params

    given = load_params(params, parse_settings(settings))
    where = read_machine(machine) if machine else this_machine(out)
    rows = examine(given, where)
    if as_json:
        typer.echo(json.dumps({"machine": where.name, "rows": [asdict(row) for row in rows]}))
    else:
        _show(rows, f"{given.name} on {where.name}")
    for row in rows:
        if sentence := row.problem or row.warning:
            typer.echo(f"proactor: {sentence}", err=True)
    raise typer.Exit(2 if any(row.problem for row in rows) else 0)


def _show(rows: Sequence["Row"], title: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "where", "needs, GB", "has, GB", "", title=escape(title), title_justify="left")
    for row in rows:
        state = "fails" if row.problem else "look" if row.warning else "ok"
        table.add_row(escape(row.what), escape(row.where), _gb(row.needs), _gb(row.has), state)
    console().print(table)


def _gb(count: float | None) -> str:
    return "" if count is None else f"{count / GB:.1f}"
