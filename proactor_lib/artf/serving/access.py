"""access.json: the process that serves from a folder, and the key that requests to it carry."""

import json
import os
from pathlib import Path

import psutil

ACCESS = "access.json"


def write_access(out: Path, key: str) -> None:
    """Write the process and its key to access.json, for their owner only."""
    access = {"pid": os.getpid(), "created": psutil.Process().create_time(), "key": key}
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out / ACCESS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as f:
        json.dump(access, f)


def serving_process(out: Path) -> int | None:
    """The process that serves from a folder, if it lives."""
    try:
        access = json.loads((out / ACCESS).read_text(encoding="utf-8"))
        return access["pid"] if psutil.Process(access["pid"]).create_time() == access["created"] else None
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
