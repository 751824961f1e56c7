"""Raw JSON files, plain or gzipped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proactor_lib.files import json_value, parse_json, read_text


def parsed(path: Path) -> Any:
    """The file's JSON value; UserError if it cannot be read or is not JSON."""
    return parse_json(read_text(path), path)


def documents(path: Path) -> Iterator[tuple[str, Any]]:
    """The file's one JSON value, else (JSONL) each line's, with its place. UserError names the line that is neither."""
    text = read_text(path)
    try:
        yield str(path), json_value(text)
        return
    except (ValueError, RecursionError):
        lines = [(f"{path}, line {n}", line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    for place, line in lines if _are_values(lines[:3]) else [(str(path), text)]:
        yield place, parse_json(line, place)


def _are_values(lines: list[tuple[str, str]]) -> bool:
    """Whether these are lines of JSONL, one of them perhaps with a mistake, and not the beginning of one JSON value."""
    return len(lines) > 1 and 2 * sum(_is_json(line) for _, line in lines) >= len(lines)


def _is_json(text: str) -> bool:
    try:
        json_value(text)
    except (ValueError, RecursionError):
        return False
    return True


def reason(error: Exception) -> str:
    """An exception in one line, for a record that is not in its corpus's format."""
    text = " ".join(str(error).split())
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "  # a ValueError's sentence is often ours
    return f"{kind}{text}"[:200]
