"""A run's or a sweep's folder -> one HTML file that works offline, and the figures that it shows as JSON."""

from pathlib import Path

from proactor_lib.errors import BadInput


def build(folder: Path | str) -> Path:
    """Write `report.html` and `summary.json` into a run's or a sweep's folder, from its files; the report's path.

    Raises BadInput when the folder is neither.
    """
    folder = Path(folder)
    if (folder / "sweep.json").exists():
        from proactor_lib.report import sweep as kind
    elif (folder / "params.json").exists():
        from proactor_lib.report import run as kind
    else:
        raise BadInput(f"{folder} is neither a run's folder (params.json) nor a sweep's (sweep.json)")
    return kind.build(folder)
