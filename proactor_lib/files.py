"""Files that are either whole or absent, and text that is read in one way whatever wrote it.

Text is UTF-8, with or without a byte order mark, plain or gzipped, from a file, a link or a pipe. What is written to a
link goes to the file that it names, to a pipe or a device straight through.
"""

import errno
import gzip
import json
import os
import re
import stat
import sysconfig
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from proactor_lib.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

M = TypeVar("M", bound=BaseModel)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)
ENDINGS = {".json", ".jsonl", ".ndjson", ".vcon", ".vtt", ".srt", ".csv", ".tsv", ".txt", ".gz"}
ENDINGS |= {".wav", ".mp3", ".m4a", ".mp4", ".flac", ".ogg", ".opus", ".webm"}  # of what a transcript was made from

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SURROGATE, _HALF = re.compile(r"\\u[dD][89a-fA-F]"), re.compile("[\ud800-\udfff]")  # escaped in JSON, and as it is
_GZIP = b"\x1f\x8b"


def is_stream(path: Path) -> bool:
    """Whether `path` is a pipe or a device, which takes no file beside it and cannot be replaced.

    So is /dev/stdout, even where a shell leads it to a file: that file is the shell's.
    """
    if str(path).startswith(("/dev/", "/proc/")):
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def atomic(path: Path, mode: str = "w"):
    """Open a file that replaces `path` only when the block ends well; a failed block leaves `path` as it was.

    A link stays, and the file that it names is replaced; a pipe or a device is written straight to. UserError where
    nothing can be written there.
    """
    encoding = None if "b" in mode else "utf-8"
    if is_stream(path):
        with _opened(path, mode.replace("w", "a"), encoding) as handle:
            yield handle
        return
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder, a file's name is wanted")
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    opened = _opened(aside, mode, encoding, shown=path)
    try:
        with opened as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _opened(path: Path, mode: str, encoding: str | None, shown: Path | None = None) -> IO:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return open(path, mode, encoding=encoding)  # noqa: SIM115
    except OSError as error:
        if error.errno in DISK_ERRORS:
            error.filename = str(shown or path)  # not the file aside
            raise
        raise UserError(f"cannot write {shown or path}: {error.strerror}") from None


def make_folder(path: Path) -> None:
    """The folder, and those above it, where they are not there. UserError where none can be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
        reason = "it is a file" if path.is_file() else error.strerror
        raise UserError(f"cannot write into {path}: {reason}; the name of a folder is wanted") from None


def disk_failed(error: BaseException) -> bool:
    """Whether a full or broken disk caused the error: an OSError to Python, others to torch and safetensors."""
    if isinstance(error, OSError):
        return error.errno in DISK_ERRORS
    return "inline_container.cc" in str(error) or any(f"(os error {n})" in str(error) for n in DISK_ERRORS)


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
    """One compact JSON object per line, written whole; returns their number. Unset optional keys are left out."""
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
    key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    said = problem["msg"].removeprefix("Value error, ")
    if not key and problem["type"] == "value_error":  # of several keys together, which its message names
        return said
    shown = "" if problem["type"] == "missing" else f", got {str(problem['input'])[:80]!r}"
    return f"{key or 'the record'}: {said}{shown}"


@contextmanager
def _bytes(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked where they are gzipped. UserError where they cannot be read, at any time."""
    try:
        with open(path, "rb") as raw:
            packed = raw.peek(2)[:2] == _GZIP
            with gzip.open(raw) if packed else raw as handle:
                yield handle
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _decoded(data: bytes, path: Path, line: int) -> str:
    try:
        return data.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        hint = " (it begins as UTF-16 does)" if line == 1 and data.startswith(_UTF16) else ""
        raise UserError(f"{path}, line {line}: not UTF-8{hint}") from None


def plain_or_gzipped(path: Path) -> Path:
    """`path`, or the file beside it that is called the same and `.gz`, where only that is there."""
    packed = Path(f"{path}.gz")
    return packed if packed.exists() and not Path(path).exists() else path


def read_text(path: Path) -> str:
    """The file's text, its lines ended by newlines; UserError if it cannot be read, with the line that is not UTF-8."""
    with _bytes(path) as handle:
        data = handle.read()
    return _decoded(data, path, 1).replace("\r\n", "\n").replace("\r", "\n")


def stem(path: Path) -> str:
    """The file's name without the endings that say what is in it (`ENDINGS`): other dots belong to the name."""
    name = Path(path).name
    while (ending := Path(name).suffix).lower() in ENDINGS:
        name = name.removesuffix(ending)
    return name


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of the file that are not blank, with their numbers from 1, one by one. UserError as `read_text`."""
    with _bytes(path) as handle:
        for number, line in enumerate(handle, start=1):
            if text := _decoded(line, path, number).strip():
                yield number, text


def json_value(text: str) -> Any:
    """The JSON value of `text`; half a character (a surrogate alone, which no file can hold) is U+FFFD.

    ValueError or RecursionError where it is not JSON.
    """
    value = json.loads(text)
    if _SURROGATE.search(text) is None:
        return value
    return json.loads(_HALF.sub("\ufffd", json.dumps(value, ensure_ascii=False)))


def parse_json(text: str, place: Path | str) -> Any:
    """`json_value`; UserError, naming `place`, where the text is not JSON."""
    try:
        return json_value(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON: {error}") from None


def read_json(path: Path, model: type[M]) -> M:
    """The file's one JSON object as `model`; UserError names the file, the key and what is accepted."""
    return _validated(read_text(path), model, str(path))


def read_jsonl(path: Path, model: type[M]) -> Iterator[M]:
    """The file's lines as `model`, one by one; UserError names the file, the line, the key and what is accepted.

    Blank lines are skipped. The file is opened on the first item, so a missing file raises there.
    """
    return (record for _, record in numbered_jsonl(path, model))


def read_lines(path: Path, model: type[M]) -> tuple[M, ...]:
    """`read_jsonl`'s records, read once a process: again only where the file has changed meanwhile."""
    try:
        state = os.stat(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return _read_lines(Path(path).absolute(), model, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=64)
def _read_lines(path: Path, model: type[M], state: tuple[int, int, int]) -> tuple[M, ...]:
    return tuple(read_jsonl(path, model))


def numbered_jsonl(path: Path, model: type[M]) -> Iterator[tuple[int, M]]:
    """`read_jsonl` with each record's line number, from 1."""
    for number, line in numbered_lines(path):
        yield number, _validated(line, model, f"{path}, line {number}")


def _validated(text: str, model: type[M], place: str) -> M:
    """`text` as `model`; a key that is null where nothing may be null counts as absent."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        nulls = [e["loc"] for e in error.errors() if e["input"] is None]
        first = error
    try:
        if nulls:
            return model.model_validate_json(json.dumps(_without(json.loads(text), nulls)))
    except ValidationError as error:
        first = error
    accepted = ", ".join(_model_at(model, first.errors()[0]["loc"]).model_fields)
    raise UserError(f"{place}: {first_error(first)}; accepted keys: {accepted}") from None


def _model_at(model: type[BaseModel], place: tuple) -> type[BaseModel]:
    """The model in whose object the key at the end of `place` stands."""
    for step in place[:-1]:
        field = model.model_fields.get(step) if isinstance(step, str) else None
        kinds = [field.annotation] if field else []
        for kind in kinds:
            kinds += get_args(kind)
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), model)
    return model


def _without(value: Any, places: list[tuple]) -> Any:
    """The JSON value without the object keys at `places`."""
    for *above, key in places:
        holder = value
        for step in above:
            holder = holder[step]
        if isinstance(holder, dict):
            holder.pop(key, None)
    return value
