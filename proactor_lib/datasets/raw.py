"""Raw JSON files, plain or gzipped."""

import gzip
import json
from pathlib import Path

from proactor_lib.errors import UserError


def parsed(path: Path):
    """The file's JSON value; UserError if it cannot be read or is not JSON."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as f:
            return json.load(f)
    except FileNotFoundError:
        raise UserError(f"{path} is not there") from None
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def reason(error: Exception) -> str:
    """An exception in one line, for a record that is not in its corpus's format."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
