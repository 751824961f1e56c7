"""Places the cells that are missing or failed, tries again what may be tried again, and keeps the sweep's folder."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proactor_lib import notebook, processes, provenance
from proactor_lib.errors import UserError
from proactor_lib.files import read_text
from proactor_lib.ray_session import cluster
from proactor_lib.sweep.cells import Cell, varying
from proactor_lib.sweep.definition import Sweep
from proactor_lib.sweep.worker import keep, run_cell
from proactor_lib.sweep_folder.store import Store

log = logging.getLogger(__name__)

LOST_LIMIT = 5  # a cell whose worker is lost this often takes its worker down


@dataclass
class Progress:
    """Where a running sweep stands; `on_tick` gets it."""

    cells: list[Cell]
    records: dict[str, dict] = field(default_factory=dict)  # of the cells that have an outcome, by id
    attempts: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)  # times that a cell's node or worker was lost
    since: float = field(default_factory=time.time)  # when this run of the sweep began

    @property
    def failed(self) -> list[dict]:
        """Records of the cells that did not end well."""
        return [r for r in self.records.values() if r["state"] != "done"]


def describe(sweep: Sweep, cells: list[Cell]) -> dict[str, Any]:
    """What `sweep.json` holds."""
    return {
        **sweep.model_dump(mode="json"),
        "cells": [{"id": c.id, "point": c.point, "values": c.values} for c in cells],
        "varying": varying(cells),
        "notebook_digest": notebook.digest(sweep.notebook),
        "provenance": provenance.collect(),
    }


def run(
    sweep: Sweep,
    cells: list[Cell],
    out: Path | str,
    address: str | None = None,
    cpus: int | None = None,
    on_tick: Callable[[Progress], None] = lambda progress: None,
    execute: notebook.Execute = notebook.execute,
) -> Progress:
    """Run the cells that are not done yet; returns when every cell has an outcome. `on_tick` is called all the while.

    `execute` runs a cell's notebook, on the node that has it.

    Raises UserError when the folder cannot be written, another process runs it, or no node can hold a cell.
    """
    store = Store(out)
    with _alone_in(store):
        store.write("sweep.json", describe(sweep, cells))
        known = store.records([c.id for c in cells])
        progress = Progress(cells, {id: r for id, r in known.items() if r["state"] == "done"})
        missing = [c for c in cells if c.id not in progress.records]
        on_tick(progress)
        if missing:
            with cluster(address, cpus) as nodes:
                _check_fit(sweep, nodes)
                _warn_of_shared_gpus(sweep, missing, nodes)
                _run_all(sweep, missing, store, progress, on_tick, execute)
        on_tick(progress)
    return progress


def _alone_in(store: Store) -> AbstractContextManager[None]:
    """One process at a time runs a sweep folder on a disk (in an object store there is no such lock)."""
    return nullcontext() if store.remote else processes.alone_in(Path(store.root))


def _check_fit(sweep: Sweep, nodes: list[dict[str, float]]) -> None:
    """UserError for a cell that no one node can hold: Ray would wait for ever. nodes: the resources of each."""
    there = [(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes]
    if not any(sweep.cpus <= cpus and sweep.gpus <= gpus for cpus, gpus in there):
        told = ", ".join(f"{cpus:g} and {gpus:g}" for cpus, gpus in sorted(set(there)))
        raise UserError(f"each cell asks for {sweep.cpus:g} CPUs and {sweep.gpus:g} GPUs; nodes have {told or 'none'}")


def _warn_of_shared_gpus(sweep: Sweep, cells: list[Cell], nodes: list[dict[str, float]]) -> None:
    """A log line where cells ask Ray for no GPU and could take one: whether a notebook uses a model, none can tell."""
    device = next((c.params.device for c in cells if c.params.device != "cpu"), None)
    if sweep.gpus == 0 and device and any(node.get("GPU") for node in nodes):
        log.warning("gpus is 0 and device is %s: cells that use a model would share GPUs; set gpus: 1", device)


def _run_all(sweep: Sweep, missing: list[Cell], store: Store, progress: Progress, on_tick, execute) -> None:
    import ray

    remote = ray.remote(run_cell).options(num_cpus=sweep.cpus, num_gpus=sweep.gpus, max_retries=0)
    text, by_id = read_text(sweep.notebook), {c.id: c for c in missing}

    def submit(cell: Cell):
        progress.attempts[cell.id] = progress.attempts.get(cell.id, 0) + 1
        return remote.remote(
            job(sweep, cell, store.out if store.remote else store.root, text), progress.attempts[cell.id], execute
        )

    flying = {submit(cell): cell.id for cell in missing}
    while flying:
        ended, _ = ray.wait(list(flying), timeout=0.3)
        for reference in ended:
            id = flying.pop(reference)
            record = _outcome(ray, reference, id, progress, store)
            if record is None or _again(record, sweep, progress):
                flying[submit(by_id[id])] = id
            else:
                progress.records[id] = record
        on_tick(progress)


def _outcome(ray, reference, id: str, progress: Progress, store: Store) -> dict | None:
    """The cell's record; None when its worker or node was lost and it is to run again, which costs no retry."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # nothing was lost: run_cell, or what it needs there, raised it
        said, attempts = f"raised {type(error.cause).__name__}: {error.cause}", progress.attempts[id]
    except ray.exceptions.RayError as error:
        progress.lost[id] = progress.lost.get(id, 0) + 1
        progress.attempts[id] -= 1
        if progress.lost[id] < LOST_LIMIT:
            return None
        said, attempts = f"was lost {LOST_LIMIT} times: {error}", LOST_LIMIT
    record = {
        "id": id, "state": "failed", "problem": f"its worker {' '.join(said.split())[:200]}", "attempts": attempts,
        "seconds": None, "ended": time.time(),
    }  # fmt: skip
    keep(store, id, record)
    return record


def _again(record: dict, sweep: Sweep, progress: Progress) -> bool:
    """Whether a cell with this outcome is tried again: not one that was lost too often, whose attempts do not count."""
    id, retried = record["id"], record["state"] in ("failed", "timeout")
    return retried and progress.attempts[id] <= sweep.retries and progress.lost.get(id, 0) < LOST_LIMIT


def job(sweep: Sweep, cell: Cell, out: str, text: str) -> dict[str, Any]:
    """What a worker needs to run a cell: plain values, for it may be on another node."""
    return {
        "id": cell.id, "out": out, "notebook": text, "values": cell.params.model_dump(mode="json"), "own": cell.own,
        "overrides": {k: cell.values[k] for k in cell.point if k not in cell.own}, "point": cell.point,
        "cpus": sweep.cpus, "gpus": sweep.gpus, "time_limit": sweep.time_limit, "code": provenance.code_digest(),
    }  # fmt: skip
