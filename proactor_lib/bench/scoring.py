"""How long scoring takes: prediction objects in memory -> the table with intervals and PRI, on one core."""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from proactor_lib.bench.synthetic import made_up_dialogues, made_up_predictions
from proactor_lib.files import read_text


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and threads that it starts inside, on one core where the system can."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def peak_mb() -> float:
    """The most memory that this process has held so far, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")  # of this program alone; getrusage counts what its parent held at the fork
    if status.exists() and (found := re.search(r"^VmHWM:\s+(\d+) kB", read_text(status), re.M)):
        return int(found[1]) * 1024 / 1e6
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return memory.peak_wset / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def benchmark(methods: int = 6, dialogues: int = 692, turns: int = 21, bootstrap: int = 2000, seed: int = 0) -> dict:
    """`seconds` and `cpu_seconds` of scoring made-up methods on made-up dialogues, `peak_mb` of the whole process."""
    with one_core():
        from proactor_lib.metrics.ranking import table
        from proactor_lib.metrics.scores import evaluate_predictions

        made, references = made_up_dialogues(dialogues, turns, seed)
        outputs = {f"method {i}": made_up_predictions(references, turns, seed + i + 1) for i in range(methods)}
        start, cpu = time.perf_counter(), time.process_time()
        tables = {name: evaluate_predictions(made, references, output) for name, output in outputs.items()}
        table(tables, bootstrap, seed)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3), "peak_mb": round(peak_mb(), 1)}
