"""A sweep's folder -> one tidy table: one row per cell, also for a cell that failed."""

from pathlib import Path
from typing import Any

import pandas as pd

from proactor_lib.errors import UserError
from proactor_lib.files import atomic
from proactor_lib.sweep_folder.store import Store

TIMES = ("seconds", "peak_memory_gb", "cpu_hours", "gpu_hours", "cost", "ended")  # what differs from run to run
ABOUT = ("host", "attempts", "commit", "dirty", "code", "versions")


def flatten(value: Any, name: str = "") -> dict[str, float | None]:
    """The numbers in a JSON object by dotted name; `[value, low, high]` and `{value, low, high}` give `_low`, `_high`.

    Texts, truth values and other lists are left out.
    """
    if isinstance(value, dict) and set(value) == {"value", "low", "high"}:
        value = [value["value"], value["low"], value["high"]]
    if isinstance(value, dict):
        items = [flatten(v, f"{name}.{k}" if name else str(k)) for k, v in value.items()]
        return {k: v for item in items for k, v in item.items()}
    if isinstance(value, list) and len(value) == 3 and all(_number(v) for v in value):
        return {name: value[0], f"{name}_low": value[1], f"{name}_high": value[2]}
    return {name: value} if _number(value) else {}


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def read_metrics(store: Store, id: str, files: list[str]) -> dict[str, float | None]:
    """The cell's metrics: the numbers in the JSON files that it left. A run's times and memory are no metrics."""
    found: dict[str, float | None] = {}
    for file in files:
        values = store.read(store.cell(id, file)) or {}
        found |= flatten({k: v for k, v in values.items() if k not in ("stage_seconds", "peak_memory_gb")})
    return found


def read_definition(store: Store) -> dict[str, Any]:
    """`sweep.json`; UserError when the folder is no sweep's."""
    definition = store.read("sweep.json")
    if definition is None:
        raise UserError(f"{store.out} is no sweep's folder: it has no sweep.json")
    return definition


def table(store: Store) -> pd.DataFrame:
    """One row per cell of the sweep as it was last run, in its order.

    Columns: cell, state (done, failed, refused, timeout, missing), problem; the parameters that differ (as text where
    one is null in some cell, or of another type), and `seed`; every metric with its `_low` and `_high`, but for one
    with another column's name; seconds, peak_memory_gb, cpu_hours, gpu_hours, cost (NaN without prices);
    host, attempts, commit, dirty, code, versions. `attrs["metrics"]` names the metrics, `attrs["parameters"]` the
    parameters.
    """
    sweep = read_definition(store)
    names = list(dict.fromkeys([*sweep["varying"], "seed"]))
    shown = {n: _cellable([cell["values"].get(n) for cell in sweep["cells"]]) for n in names}
    records = store.records([c["id"] for c in sweep["cells"]])
    rows, metrics, others = [], {}, {"cell", "state", "problem", *names, *TIMES, *ABOUT}
    for number, cell in enumerate(sweep["cells"]):
        record = records.get(cell["id"], {"state": "missing", "problem": "it has not run"})
        measured = read_metrics(store, cell["id"], sweep["metrics"]) if record["state"] == "done" else {}
        measured = {k: v for k, v in measured.items() if k not in others}
        metrics |= dict.fromkeys(measured)
        values = {n: shown[n][number] for n in names}
        rows.append(_about(cell["id"], record) | values | measured | _spent(record, sweep))
    columns = ["cell", "state", "problem", *names, *metrics, *TIMES, *ABOUT]
    found = pd.DataFrame(rows).reindex(columns=columns)
    found.attrs |= {"metrics": [m for m in metrics if not m.endswith(("_low", "_high"))], "parameters": names}
    return found


def _cellable(values: list[Any]) -> list[Any]:
    """A parameter's values as a column holds them, which has one type and in which a null would be missing."""
    types = {type(value) for value in values}
    if types <= {int, float} or types in ({str}, {bool}):
        return values
    return ["null" if value is None else str(value) for value in values]


def _about(id: str, record: dict) -> dict[str, Any]:
    origin = record.get("provenance") or {}
    versions = "; ".join(f"{k} {v}" for k, v in origin.get("versions", {}).items())
    return {
        "cell": id, "state": record["state"], "problem": record.get("problem"), "host": record.get("host"),
        "attempts": record.get("attempts"), "commit": origin.get("commit"), "dirty": origin.get("dirty"),
        "code": origin.get("code"), "versions": versions or None,
    }  # fmt: skip


def _spent(record: dict, sweep: dict) -> dict[str, float | None]:
    """Time, memory and what they cost, of the last attempt."""
    hours = (record.get("seconds") or 0.0) / 3600
    used = {"cpu_hours": hours * record.get("cpus", 0), "gpu_hours": hours * record.get("gpus", 0)}
    prices = {f"{kind}_hours": sweep[f"{kind}_hour_price"] for kind in ("cpu", "gpu")}
    priced = [used[k] * price for k, price in prices.items() if price is not None]
    times = {k: record.get(k) for k in ("seconds", "peak_memory_gb", "ended")}
    return times | used | {"cost": sum(priced) if priced else None}


def collect(out: Path | str) -> pd.DataFrame:
    """The table, also written to `table.parquet` and `table.csv` in the sweep's folder."""
    store = Store(out)
    found = table(store)
    with store.here() as folder:
        with atomic(folder / "table.csv") as f:
            found.to_csv(f, index=False)
        with atomic(folder / "table.parquet", "wb") as f:
            found.to_parquet(f, index=False)
    return found
