"""`proactor report`: a run's or a sweep's folder as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `proactor report`."""
    app.command()(report)


def report(folder: Annotated[Path, typer.Argument(help="A run's or a sweep's folder.")]) -> None:
    """Write report.html and summary.json from the folder's files; prints the report's path."""
    from proactor_lib import report as reports

    typer.echo(reports.build(folder))
