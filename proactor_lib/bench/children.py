"""A measurement in a process of its own, so that its peak memory is its own."""

import json
import subprocess
import sys
from pathlib import Path

from proactor_lib.errors import BadInput


def call(module: str, *arguments: str) -> dict:
    """What `python -m module arguments` prints as its last line of JSON. BadInput, with its last words, if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = " / ".join(done.stderr.strip().splitlines()[-2:])
        raise BadInput(f"{module} {' '.join(arguments)} ended with status {done.returncode}: {words}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_gb() -> float:
    """The most memory that this process has held so far, in GB (10^9 bytes); what it was forked from not counted."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    from proactor_lib.metrics.benchmark import peak_mb

    return peak_mb() / 1e3
