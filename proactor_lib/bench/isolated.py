"""A measurement in a process of its own, so that its peak memory is its own."""

import json
import subprocess
import sys
from pathlib import Path

from proactor_lib import allocator
from proactor_lib.errors import UserError
from proactor_lib.processes import follow_parent, last_line


def call(module: str, *arguments: str, log: Path | None = None, checkout: Path | None = None) -> dict:
    """What `python -m module arguments` prints as its last line of JSON; the rest goes to `log` as it comes.

    checkout: a folder with another version of the package, whose module it is then.
    UserError, with its last words, if it fails. It is ended when this call is interrupted, or its process dies.
    """
    command = [sys.executable, "-m", module, *arguments]
    with open(log or "/dev/null", "w+") as errors:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors if log else subprocess.PIPE,
            text=True,
            cwd=checkout,  # `-m` looks there first
            env=allocator.environment() | ({"PYTHONPATH": str(checkout.resolve())} if checkout else {}),
            preexec_fn=follow_parent,
        )
        try:
            said, complaint = child.communicate()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    if child.returncode:
        lines = (log.read_text(encoding="utf-8", errors="replace") if log else complaint).strip().splitlines()
        words = " / ".join(line for line in lines[-2:])
        raise UserError(f"{module} {' '.join(arguments)} ended with status {child.returncode}: {words}")
    return json.loads(last_line(said))


def peak_gb() -> float:
    """The most memory that this process has held so far, in GB (10^9 bytes); what it was forked from not counted."""
    from proactor_lib.bench.scoring import peak_mb

    return peak_mb() / 1e3
