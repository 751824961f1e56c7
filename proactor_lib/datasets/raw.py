"""Raw JSON files, plain or gzipped."""

from pathlib import Path
from typing import Any

from proactor_lib.files import parse_json, read_text


def parsed(path: Path) -> Any:
    """The file's JSON value; UserError if it cannot be read or is not JSON."""
    return parse_json(read_text(path), path)


def reason(error: Exception) -> str:
    """An exception in one line, for a record that is not in its corpus's format."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
