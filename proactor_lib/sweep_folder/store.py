"""A sweep's folder, on a disk that all nodes share or in an object store (any fsspec URL, such as s3://bucket/sweep).

sweep.json | cells/<id>/{cell.json, notebook.ipynb, ...} | table.parquet | table.csv | report.html. `cell.json` is
written last: a cell without it is not done.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from proactor_lib.errors import UserError
from proactor_lib.files import atomic, write_json

# Weights that training leaves: too big to bring home for a table.
LEFT_OUT = ("/checkpoint-", "/published/", "/policy/", "/adapter/", "/sft/", "/sft_equal_time/",
            "/sft.pt", "/sft_equal_time.pt")  # fmt: skip


class StoreError(UserError):
    """An object store that cannot be reached, or refuses."""


class Store:
    """The folder by its path or URL. UserError for a URL that nothing here can read; StoreError from all that asks."""

    def __init__(self, out: Path | str):
        self.out = str(out)
        self.remote = "://" in self.out
        try:
            self.fs, root = fsspec.core.url_to_fs(self.out)
        except (ImportError, ValueError) as error:
            raise UserError(f"{self.out}: {error}") from None
        self.root = root if self.remote else str(Path(root).resolve())

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """StoreError for whatever an object store's client raises: each has errors of its own."""
        try:
            yield
        except Exception as error:
            if not self.remote:
                raise
            said = " ".join(str(error).split())[:200]
            raise StoreError(f"{self.out}: {type(error).__name__}: {said}") from error

    def path(self, name: str) -> str:
        """The full path of `name` in the folder."""
        return f"{self.root}/{name}"

    def local(self, name: str) -> Path | None:
        """The path on this machine's disk; None in an object store."""
        return None if self.remote else Path(self.path(name))

    def read(self, name: str) -> dict | None:
        """A JSON object; None where it is not there (or, on a disk, still being written by an older kernel)."""
        with self._asked():
            try:
                return json.loads(self.fs.cat_file(self.path(name)))
            except (FileNotFoundError, json.JSONDecodeError):
                return None

    def write(self, name: str, value: dict) -> None:
        """Write a JSON object whole."""
        if not self.remote:
            write_json(Path(self.path(name)), value)
            return
        with self._asked():
            self._parent(name)
            self.fs.pipe_file(self.path(name), json.dumps(value, indent=2).encode())

    def remove(self, name: str) -> None:
        """Remove a file, where it is there."""
        with self._asked():
            if self.fs.exists(self.path(name)):
                self.fs.rm_file(self.path(name))

    def cell(self, id: str, file: str = "cell.json") -> str:
        """The name of a cell's file."""
        return f"cells/{id}/{file}"

    def records(self, ids: list[str]) -> dict[str, dict]:
        """What the cells with an outcome wrote down, by id."""
        found = {id: self.read(self.cell(id)) for id in ids}
        return {id: record for id, record in found.items() if record}

    def upload(self, folder: Path, name: str) -> None:
        """Put a local folder's files into the object store."""
        with self._asked():
            for file in (p for p in sorted(folder.rglob("*")) if p.is_file()):
                target = f"{name}/{file.relative_to(folder)}"
                self._parent(target)
                self.fs.put_file(str(file), self.path(target))

    def _parent(self, name: str) -> None:
        """Stores that know folders need them made first."""
        self.fs.makedirs(self.path(name).rpartition("/")[0], exist_ok=True)

    @contextmanager
    def here(self) -> Iterator[Path]:
        """The folder on this disk: itself, or a copy whose new files are put back when the block ends well."""
        if not self.remote:
            yield Path(self.root)
            return
        with tempfile.TemporaryDirectory(prefix="proactor-sweep-") as scratch:
            copy = Path(scratch)
            with self._asked():
                before = self._download(copy)
            yield copy
            with self._asked():
                for file in (p for p in copy.rglob("*") if p.is_file() and str(p.relative_to(copy)) not in before):
                    self.fs.put_file(str(file), self.path(str(file.relative_to(copy))))

    def _download(self, copy: Path) -> set[str]:
        names = {p.removeprefix(self.root).lstrip("/") for p in self.fs.find(self.root)}
        for name in (n for n in names if not any(part in n for part in LEFT_OUT)):
            with atomic(copy / name, "wb") as f:
                f.write(self.fs.cat_file(self.path(name)))
        return names - {"report.html", "table.csv", "table.parquet", "summary.json"}
