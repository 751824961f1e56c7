"""What this machine's measurements should reach, measured: seconds, throughput, memory. Nothing of it is in the tests.

Every bound is stated where it is checked; a machine that is busy with other work falls short of some [ours].
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from proactor_lib import datasets, processes
from proactor_lib.bench import adaptivity, isolated
from proactor_lib.bench.bound import Bound

EMPTY_NOTEBOOK = {
    "nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    "cells": [
        {"cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "execution_count": None, "outputs": [],
         "source": "params_file = None\nout = None\noverrides = {}\nseed = 0"},
    ],
}  # fmt: skip


def scoring() -> Iterator[Bound]:
    """Six methods on 692 dialogues of 21 turns, with 2,000 resamples, in a process of its own on one core."""
    found = isolated.call("proactor_lib", "bench", "metrics", "--json")
    yield Bound("scoring a test set, processor-seconds", found["cpu_seconds"], most=10)
    yield Bound("scoring a test set, peak MB", found["peak_mb"], most=1000)


def annotation() -> Iterator[Bound]:
    """The evidence annotator on simulated calls, on one core."""
    from proactor_lib.annotate import evidence

    corpus = datasets.load("homeloan", None, "train", limit=300)
    start = time.process_time()
    for dialogue in corpus.dialogues:
        evidence.annotate(dialogue, corpus.catalog)
    rate = sum(len(d.turns) for d in corpus.dialogues) / (time.process_time() - start)
    yield Bound("evidence annotator, turns per second", rate, least=10_000)


def rewards() -> Iterator[Bound]:
    """The metric rewards on 100 groups of at least 8 outputs: 1% of the fastest training step measured (5.5 s)."""
    from proactor_lib.params import load_params
    from proactor_lib.policies import POLICIES
    from proactor_lib.reward_lab import scoring as lab
    from proactor_lib.schema import cases

    corpus = datasets.load("homeloan", None, "train", limit=4)
    known = cases(corpus.dialogues, corpus.truth, corpus.catalog)
    groups = lab.policy_groups(known, lab.predict(known, POLICIES))[:100]
    for name in ("rac", "max_rac", "weighted_metric", "adaptive_metric"):
        params = load_params(None, {"reward": name})
        fresh = [[replace(group, shared={}) for group in groups] for _ in range(5)]  # what one scored is kept in them
        seconds = [_timed(lambda params=params, own=own: lab.score(params, own)) for own in fresh]
        yield Bound(f"{name}, {len(groups)} groups of {len(groups[0].texts)}, seconds", min(seconds), most=0.055)


def following_the_load() -> Iterator[Bound]:
    """The adaptive cluster against four fixed servers on two bursts; their service is simulated."""
    found = adaptivity.benchmark(bursts_=2)
    yield Bound("adaptive cluster, share of the throughput", found["throughput_share"], least=0.9)
    yield Bound("adaptive cluster, share of the server-seconds", found["server_seconds_share"], most=0.7)
    yield Bound("adaptive cluster, changes of direction", found["reversals"], most=2 * found["bursts"] - 1)
    yield Bound("adaptive cluster, servers at the peak", max(found["targets"]), least=3)
    yield Bound("adaptive cluster, retries", found["retries"], most=0)


def sweep_cells() -> Iterator[Bound]:
    """What a sweep's cell costs above papermill alone, with a notebook that does nothing, on one core."""
    with tempfile.TemporaryDirectory(prefix="proactor-check-") as scratch:
        folder = Path(scratch)
        (folder / "n.ipynb").write_text(json.dumps(EMPTY_NOTEBOOK))
        alone = [_papermill(folder) for _ in range(2)]
        one, _ = _sweep(folder, cells=1)
        five, peak = _sweep(folder, cells=5)
        yield Bound("a sweep's cell above papermill alone, seconds", (five - one) / 4 - min(alone)[0], most=4)
        yield Bound("a sweep's cell above papermill alone, GB", peak - max(gb for _, gb in alone), most=0.3)


def _papermill(folder: Path) -> tuple[float, float]:
    """Seconds and peak GB of papermill on the notebook."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "papermill", "n.ipynb", "done.ipynb"]
    child = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    with processes.PeakMemory(child.pid, every=0.2, share=1.0) as memory:
        child.wait()
    return time.perf_counter() - start, memory.gb


def _sweep(folder: Path, cells: int) -> tuple[float, float]:
    """Seconds of a sweep of so many cells, one after another, and a cell's peak GB."""
    from proactor_lib.sweep import cells as planned
    from proactor_lib.sweep import definition, runner
    from proactor_lib.sweep_folder import table

    path, out = folder / f"{cells}.yaml", folder / f"{cells}-cells"
    path.write_text(f"name: check\nnotebook: n.ipynb\naxes: {{seeds: {cells}}}\n")
    sweep = definition.read_sweep(path)
    seconds = _timed(lambda: runner.run(sweep, planned.make_cells(sweep, path), out, cpus=1))
    return seconds, float(table.collect(out).peak_memory_gb.max())


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


CHECKS = (scoring, annotation, rewards, following_the_load, sweep_cells)


def measure() -> Iterator[Bound]:
    """All bounds, each as soon as it is measured; a few minutes."""
    for check in CHECKS:
        yield from check()
