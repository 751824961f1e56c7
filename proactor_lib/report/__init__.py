"""A run's or a sweep's folder -> one HTML file that works offline, and the figures that it shows as JSON."""

from importlib import import_module
from pathlib import Path

from proactor_lib.errors import UserError
from proactor_lib.sweep_folder.store import Store


def build(folder: Path | str) -> Path | str:
    """Write `report.html` and `summary.json` into a run's or a sweep's folder, from its files; the report's path.

    A sweep may lie in an object store. Raises UserError when the folder is neither.
    """
    store = Store(folder)
    with store.here() as here:
        _kind(here, folder).build(here)
    return f"{store.out.rstrip('/')}/report.html" if store.remote else Path(folder) / "report.html"


def table(folder: Path | str, form: str) -> str:
    """The report's main table as `markdown` or `latex`. Raises UserError as `build`."""
    from proactor_lib.report import tables

    with Store(folder).here() as here:
        return getattr(tables, form)(_kind(here, folder).frame(here))


def compare(a: Path, b: Path) -> Path:
    """Write `comparison.html` into `a`: two runs or two sweeps side by side; its path."""
    from proactor_lib.report.comparison import compare

    return compare(a, b)


def _kind(here: Path, folder: Path | str):
    """The module that knows this kind of folder."""
    for file, name in (("sweep.json", "sweep"), ("params.json", "run")):
        if (here / file).exists():
            return import_module(f"proactor_lib.report.{name}")
    raise UserError(f"{folder} is neither a run's folder (params.json) nor a sweep's (sweep.json)")
