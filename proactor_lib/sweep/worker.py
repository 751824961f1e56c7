"""What happens on the node that runs a cell."""

import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from proactor_lib import notebook, processes, provenance
from proactor_lib.errors import UserError
from proactor_lib.files import atomic
from proactor_lib.notebook import Execute, Outcome
from proactor_lib.sweep import cores
from proactor_lib.sweep_folder.store import Store, StoreError

CELL = "PROACTOR_SWEEP_CELL"  # in a cell's environment: the sweep and the cell's id, with a slash between


def run_cell(job: dict[str, Any], attempt: int, execute: Execute = notebook.execute) -> dict[str, Any]:
    """Execute one cell into its folder and return its record, which `cell.json` then holds; raises nothing of its own.

    `execute` runs its notebook. `job`: id, out (the sweep's folder), notebook (its text), values (all parameters), own
    (the notebook's own), point, cpus, gpus, time_limit, code (digest of the package that made the job).
    """
    store = Store(job["out"])
    started = time.time()
    try:
        store.remove(store.cell(job["id"]))
        store.write(store.cell(job["id"], "running.json"), {"host": socket.gethostname(), "started": started})
        outcome = _outcome(store, job, execute)
    except OSError as error:
        problem = f"could not write {error.filename or job['out']}: {error.strerror or error}"
        outcome = Outcome("failed", time.time() - started, 0.0, problem)
    except StoreError as error:  # a network is away for a while: it may be tried again
        outcome = Outcome("failed", time.time() - started, 0.0, str(error))
    except UserError as error:
        outcome = Outcome("refused", time.time() - started, 0.0, str(error))
    record = _record(job, attempt, outcome)
    keep(store, job["id"], record)
    return record


def _outcome(store: Store, job: dict[str, Any], execute: Execute) -> Outcome:
    if job["code"] != (here := provenance.code_digest()):
        problem = f"{socket.gethostname()} has proactor with the code {here}, the sweep was made with {job['code']}"
        return Outcome("refused", 0.0, 0.0, problem)
    if folder := store.local(store.cell(job["id"], "")):
        return _execute(folder, job, execute)
    scratch = Path(tempfile.mkdtemp(prefix="proactor-cell-"))
    try:
        outcome = _execute(scratch, job, execute)
        store.upload(scratch, f"cells/{job['id']}")
        return outcome
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _execute(folder: Path, job: dict[str, Any], execute: Execute) -> Outcome:
    """Run the notebook in `folder`; what an attempt that was killed left half-written is removed."""
    source, params = folder / "source.ipynb", folder / "params.yaml"
    with atomic(source) as f:
        f.write(job["notebook"])
    known = notebook.parameters(source)
    given = {"params_file": str(params), "out": str(folder), "overrides": job["overrides"], **job["own"]}
    with atomic(params) as f:
        yaml.safe_dump(job["values"], f, sort_keys=False, allow_unicode=True)
    kept = {k: v for k, v in given.items() if k in known}
    mine = {CELL: f"{Path(job['out'].rstrip('/')).name}/{job['id']}"}  # trackers put a sweep's runs together
    with cores.lent(job["cpus"]), processes.environment(mine):
        outcome = execute(source, folder / "notebook.ipynb", kept, timeout=job["time_limit"])
    source.unlink()
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
    return outcome


def _record(job: dict[str, Any], attempt: int, outcome: Outcome) -> dict[str, Any]:
    return {
        "id": job["id"], "state": outcome.state, "problem": outcome.problem, "attempts": attempt,
        "seconds": round(outcome.seconds, 2), "peak_memory_gb": round(outcome.peak_memory_gb, 3),
        "cpus": job["cpus"], "gpus": job["gpus"], "host": socket.gethostname(), "ended": time.time(),
        "point": job["point"], "values": job["values"] | job["own"], "provenance": provenance.collect(),
    }  # fmt: skip


def keep(store: Store, id: str, record: dict[str, Any]) -> None:
    """Write the record; where the disk is full the cell stays without one, and the next run of the sweep runs it."""
    try:
        store.write(store.cell(id), record)
        store.remove(store.cell(id, "running.json"))
    except (OSError, UserError):
        record["problem"] = record["problem"] or "its record could not be written"
        record["state"] = "failed" if record["state"] == "done" else record["state"]
