"""Get a public corpus: each file by its checksum, whole or not at all."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from proactor_lib.errors import UserError
from proactor_lib.files import atomic

ABCD_COMMIT = "6b8700ce67c6b37b062dd7a60abc76d7ef832a97"
ABCD_URL = f"https://raw.githubusercontent.com/asappresearch/abcd/{ABCD_COMMIT}/data"
ABCD_FILES = {  # SHA-256
    "abcd_v1.1.json.gz": "2bdf53ac359543dcdc38d55bc6513e78df120363f8f44870716e909f4606de15",
    "guidelines.json": "9264557941df24fe075138a632a2345172971573124a354ccb2ceee2a12e4c2a",
    "ontology.json": "2e1c1d763518ba084ada7f7bc8b54f0b489c81da3b170875cf9340891e06524c",
}
Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, bytes in all where known


def fetch_abcd(folder: Path, url: str = ABCD_URL, progress: Progress = lambda *_: None) -> list[Path]:
    """The corpus's files in `folder` (37 MB); a file that is there and right is kept.

    UserError, with nothing half-written: no network, a file that is not at `url`, a wrong checksum.
    """
    return [_fetch(folder / name, f"{url}/{name}", digest, progress) for name, digest in ABCD_FILES.items()]


def _fetch(path: Path, url: str, digest: str, progress: Progress) -> Path:
    if not (path.exists() and _digest(path) == digest):
        with atomic(path, "wb") as f:
            found = _download(url, f, lambda done, total: progress(path.name, done, total), path)
            if found != digest:
                raise UserError(f"{url} has the SHA-256 {found}, not {digest}: it is another version, nothing was kept")
    return path


def _digest(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _download(url: str, handle, progress: Callable[[int, int | None], None], path: Path) -> str:
    """Write the body to `handle`; returns its SHA-256."""
    import httpx

    digest, done = hashlib.sha256(), 0
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=30) as answer:
            answer.raise_for_status()
            total = int(answer.headers.get("content-length", 0)) or None
            for chunk in answer.iter_bytes():
                handle.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(done, total)
    except httpx.HTTPStatusError as error:
        raise UserError(f"{url} answers {error.response.status_code}: nothing was kept") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"cannot get {url} ({error or type(error).__name__}): without a network, download it elsewhere to {path}"
        ) from None
    return digest.hexdigest()
