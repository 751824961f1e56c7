"""From per-dialogue tables to metrics with 95% intervals.

Every metric is a ratio of two sums over dialogues, a mean over dialogues too (balanced accuracy is the mean of two such
ratios), so a bootstrap over dialogues is one matrix product: resample counts (B, D) times column sums (D, C).
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from proactor_lib.errors import UserError
from proactor_lib.metrics import statistics
from proactor_lib.metrics.scores import DialogueTable
from proactor_lib.metrics.statistics import Estimates

PRIMARY = "utility"  # declared before a run, outside the family that Holm corrects
# metric: (column summed above, column summed below); `gap` is Max AC - AC, `scored` the dialogues with a scored turn
RATIOS = {
    "utility": ("utility", "executable"),
    "execution_precision": ("right", "executed"),
    "execution_recall": ("right", "executable"),
    "execution_f1": ("right_twice", "executed_or_executable"),
    "false_executions": ("wrong", "executable"),
    "ac": ("ac", "scored"),
    "max_ac": ("max_ac", "scored"),
    "difference": ("gap", "ac"),
    "pt": ("pt", "scored"),
    "ftr": ("faults", "ready"),
    "rar": ("ready", "predictions"),
    "opportunity_timing": ("timing", "references"),
    "lead": ("lead", "led"),
    "lead_seconds": ("lead_seconds", "led_in_seconds"),
    "wait_seconds": ("wait_seconds", "waited"),
    "missed": ("missed", "references"),
    "late": ("late", "references"),
    "premature": ("premature", "references"),
    "missed_needs": ("unmet", "needed"),
    "false_needs": ("unneeded", "idle"),
    "argument_accuracy": ("exact", "named"),
}
METRICS = (*RATIOS, "balanced_accuracy")
BOUNDS = {  # of the metrics that are no shares
    "utility": (-np.inf, 1), "difference": (0, np.inf), "false_executions": (0, np.inf), "lead": (-np.inf, np.inf),
    "lead_seconds": (-np.inf, np.inf), "wait_seconds": (0, np.inf), "alpha": (-np.inf, 1),
}  # fmt: skip
_PLACE = {m: i for i, m in enumerate(METRICS)}
_COLUMNS = sorted({c for pair in RATIOS.values() for c in pair})


def ratios(table: DialogueTable, weights: np.ndarray) -> np.ndarray:
    """The metrics of `METRICS` for each row of dialogue weights, shape (rows, metrics); NaN where undefined."""
    full = table.assign(
        scored=(table.scored_turns > 0).astype(float), gap=table.max_ac - table.ac,
        right_twice=2 * table.right, executed_or_executable=table.executed + table.executable,
    )  # fmt: skip
    sums = pd.DataFrame(weights @ full[_COLUMNS].fillna(0.0).to_numpy(float), columns=_COLUMNS)
    above, below = (sums[[pair[i] for pair in RATIOS.values()]].to_numpy() for i in (0, 1))
    shares = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    balanced = 1 - shares[:, [_PLACE["missed_needs"], _PLACE["false_needs"]]].mean(axis=1, keepdims=True)
    return np.hstack([shares, balanced])


def estimate(table: DialogueTable) -> np.ndarray:
    """The metrics of `METRICS` on the dialogues themselves, shape (metrics,); NaN where undefined."""
    return ratios(table, np.ones((1, len(table))))[0]


def bootstrapped(tables: Mapping[str, DialogueTable], bootstrap: int, seed: int) -> Estimates:
    """The metrics with intervals, shape (methods, metrics). All methods see the same resamples.

    Raises UserError if they were not scored on the same dialogues.
    """
    aligned = same_dialogues(tables)
    return statistics.bootstrap(lambda weights: stacked(aligned, weights), len(aligned[0]), bootstrap, seed)


def stacked(aligned: list[DialogueTable], weights: np.ndarray) -> np.ndarray:
    """The metrics of every method for each row of dialogue weights, shape (rows, methods, metrics)."""
    return np.stack([ratios(t, weights) for t in aligned], axis=1)


def same_dialogues(tables: Mapping[str, DialogueTable]) -> list[DialogueTable]:
    """The tables, rows in order of dialogue id; UserError if the methods were not scored on the same dialogues."""
    aligned = [t.sort_values("dialogue_id", ignore_index=True) for t in tables.values()]
    if not aligned or aligned[0].empty:
        raise UserError("there are no dialogues to score; accepted: at least one method and one dialogue")
    for name, t in zip(tables, aligned, strict=True):
        if odd := set(t.dialogue_id) ^ set(aligned[0].dialogue_id):
            raise UserError(f"{name!r} and {next(iter(tables))!r} were not scored on the same dialogues: {min(odd)!r}")
    return aligned


def bounds(names: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value that each metric can have, shapes (names,)."""
    least, most = np.array([BOUNDS.get(n, (0, 1)) for n in names], float).reshape(-1, 2).T
    return least, most


def with_intervals(names: Iterable[str], value: np.ndarray, low: np.ndarray, high: np.ndarray) -> pd.DataFrame:
    """One row per name: `metric`, value, low, high; shapes (names,). An interval stays where its metric can be."""
    names = list(names)
    least, most = bounds(names)
    return pd.DataFrame(
        {"metric": names, "value": value, "low": np.maximum(low, least), "high": np.minimum(high, most)}
    )
