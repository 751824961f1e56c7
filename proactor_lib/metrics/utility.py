"""Utility U_c at any price c of a false execution: the curve over c, and the primary endpoint [ours]."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from proactor_lib.metrics import statistics
from proactor_lib.metrics.intervals import BOUNDS, PRIMARY, same_dialogues
from proactor_lib.metrics.scores import DialogueTable

PRICES = tuple(np.round(np.linspace(0, 1, 21), 2))  # of the curve
SAMPLED = "policies were asked at some turns only (evaluation_turns: 0 asks at all)"
NO_REFERENCES = "no held-out dialogue has a reference: there is nothing to execute"


def utility_at(table: DialogueTable, prices: Sequence[float], weights: np.ndarray | None = None) -> np.ndarray:
    """U at each price for each row of dialogue weights (the dialogues themselves unless given), (rows, prices).

    NaN where turns were sampled or nothing was needed.
    """
    weights = np.ones((1, len(table))) if weights is None else weights
    earned, wrong, executable = (weights @ table[["earned", "wrong", "executable"]].to_numpy(float)).T
    paid = earned[:, None] - np.outer(wrong, prices)
    return np.divide(paid, executable[:, None], out=np.full_like(paid, np.nan), where=executable[:, None] > 0)


def curve(
    tables: Mapping[str, DialogueTable], prices: Sequence[float] = PRICES, bootstrap: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """One row per (method, price): utility, low, high. Raises UserError if methods were scored on other dialogues."""
    rows = []
    for name, table in zip(tables, same_dialogues(tables), strict=True):
        found = statistics.bootstrap(lambda w, t=table: utility_at(t, prices, w), len(table), bootstrap, seed)
        high = np.minimum(found.high, BOUNDS[PRIMARY][1])
        rows += [(name, *row) for row in zip(prices, found.value, found.low, high, strict=True)]
    return pd.DataFrame(rows, columns=["method", "price", "utility", "low", "high"])


def primary(table: pd.DataFrame, comparisons: pd.DataFrame | None, price: float, sampled: bool) -> dict:
    """The primary endpoint as `summary.json` holds it: metric, price, policies {name: [value, low, high]}, against

    {name: [difference, low, high]} (of the policy in focus less that one), reason: why U is null, where it is.
    `table`, `comparisons`: from `metrics.table` and `metrics.compare`.
    """
    own = table[table.metric == PRIMARY]
    policies = _figures(own.method, own[["value", "low", "high"]])
    against = {}
    if comparisons is not None:
        rows = comparisons[comparisons.metric == PRIMARY]
        against = _figures(rows.b, rows[["difference", "low", "high"]])
    reason = SAMPLED if sampled else NO_REFERENCES if own.value.isna().all() else None
    return {"metric": PRIMARY, "price": price, "policies": policies, "against": against, "reason": reason}


def _figures(names: Iterable[str], rows: pd.DataFrame) -> dict[str, list[float | None]]:
    plain = rows.astype(object).where(rows.notna(), None).to_numpy()
    return {name: list(row) for name, row in zip(names, plain, strict=True)}
