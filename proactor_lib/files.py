"""Files that are either whole or absent, and lines that say what is wrong with them."""

import json
import os
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from proactor_lib.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

M = TypeVar("M", bound=BaseModel)


@contextmanager
def atomic(path: Path, mode: str = "w"):
    """Open a file that replaces `path` only when the block ends well; a failed block leaves `path` as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(aside, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def shipped(path: Path) -> Path:
    """`path`; if no file is there, the one of that name that came with the package.

    `cpu-demo` and `params/cpu-demo.yaml` are the same file of the clone, or of what a wheel brought.
    """
    if not Path(path).exists():
        for name in (Path(path), Path("params", f"{path}.yaml")):
            if (found := home() / name).exists():
                return found
    return Path(path)


def home() -> Path:
    """The folder of the notebooks/ and params/ that belong to this package: its clone, else what its wheel brought."""
    clone = Path(__file__).parents[1]
    return clone if (clone / "pyproject.toml").exists() else Path(sysconfig.get_path("data"), "share", "proactor")


def write_json(path: Path, value) -> None:
    """One JSON object, indented, written whole."""
    with atomic(path) as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def write_jsonl(path: Path, records: Iterable[BaseModel | dict]) -> int:
    """One compact JSON object a line, written whole; returns the number of lines. Unset optional keys are left out."""
    count = 0
    with atomic(path) as f:
        for record in records:
            f.write(
                record.model_dump_json(exclude_unset=True)
                if isinstance(record, BaseModel)
                else json.dumps(record, ensure_ascii=False)
            )
            f.write("\n")
            count += 1
    return count


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """A table as Parquet, without its index, written whole."""
    with atomic(path, "wb") as f:
        table.to_parquet(f, index=False)


def first_error(error: ValidationError) -> str:
    """The first of pydantic's complaints in one clause: the key, what is wrong, and the value."""
    problem = error.errors()[0]
    key = ".".join(map(str, problem["loc"])) or "the record"
    shown = "" if problem["type"] == "missing" else f", got {str(problem['input'])[:80]!r}"
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}{shown}"


def read_text(path: Path) -> str:
    """The file's text; UserError if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read {path}: {reason}") from None


def read_json(path: Path, model: type[M]) -> M:
    """The file's one JSON object as `model`; UserError names the file, the key and what is accepted."""
    try:
        return model.model_validate_json(read_text(path))
    except ValidationError as error:
        raise UserError(f"{path}: {first_error(error)}; accepted keys: {', '.join(model.model_fields)}") from None


def read_jsonl(path: Path, model: type[M]) -> Iterator[M]:
    """The file's lines as `model`, one by one; UserError names the file, the line, the key and what is accepted.

    Blank lines are skipped. The file is opened on the first item, so a missing file raises there.
    """
    return (record for _, record in numbered_jsonl(path, model))


def numbered_jsonl(path: Path, model: type[M]) -> Iterator[tuple[int, M]]:
    """`read_jsonl` with each record's line number, from 1."""
    try:
        handle = open(path, encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    with handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                yield number, model.model_validate_json(line)
            except ValidationError as error:
                accepted = ", ".join(model.model_fields)
                raise UserError(f"{path}, line {number}: {first_error(error)}; accepted keys: {accepted}") from None
