"""`proactor report`: a run's or a sweep's folder as one HTML file."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Tables = Literal["markdown", "latex"]


def report(
    folder: Annotated[str, typer.Argument(help="A run's folder, or a sweep's (a path or an fsspec URL).")],
    against: Annotated[Path | None, typer.Option(help="Another such folder: write comparison.html instead.")] = None,
    tables: Annotated[Tables | None, typer.Option(help="Print the report's table in this form too.")] = None,
) -> None:
    """Write report.html and summary.json from the folder's files; the last line is the report's path."""
    from proactor_lib import report as reports

    if against:
        typer.echo(reports.compare(Path(folder), against))
        return
    path = reports.build(folder)
    if tables:
        typer.echo(reports.table(folder, tables))
    typer.echo(path)
