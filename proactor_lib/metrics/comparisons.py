"""Methods compared in pairs on the same dialogues, corrected for the number of comparisons."""

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from proactor_lib.metrics import statistics
from proactor_lib.metrics.intervals import METRICS, PRIMARY, bounds, same_dialogues, stacked
from proactor_lib.metrics.scores import DialogueTable


def compare(
    tables: Mapping[str, DialogueTable],
    pairs: Iterable[tuple[str, str]] | None = None,
    metrics: Iterable[str] = METRICS,
    bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired comparisons: one row per (a, b, metric) with difference (a - b), low, high, p, p_holm and verdict.

    `pairs`: every two methods unless given. p as `statistics.p_value`; p_holm is corrected by Holm over the rows of
    this table, but for those that are `same` and for the primary endpoint, whose verdict is its interval's and whose
    p_holm is NaN. Verdict: `same` (nothing tells the two apart: difference 0 on the dialogues and on every resample,
    as for a method and itself), `higher` or `lower` (p_holm < 0.05; of the primary endpoint: the interval excludes 0),
    `unclear` (also without an interval: it rests on one dialogue, or five or fewer differ by the same), or `undefined`
    (the metric is, for one of the two). Raises UserError if methods were scored on different dialogues.
    """
    rows = dict(zip(tables, same_dialogues(tables), strict=True))
    place = {name: i for i, name in enumerate(rows)}
    pairs = list(combinations(rows, 2) if pairs is None else pairs)
    a, b = ([place[pair[side]] for pair in pairs] for side in (0, 1))
    count = len(next(iter(rows.values())))

    def differences(weights: np.ndarray) -> np.ndarray:
        of_methods = stacked(list(rows.values()), weights)
        return of_methods[:, a] - of_methods[:, b]

    e = statistics.bootstrap(differences, count, bootstrap, seed)
    least, most = bounds(METRICS)  # a difference stays where one of two values within them can be
    low, high = np.maximum(e.low, least - most), np.minimum(e.high, most - least)
    flat = (high - low < statistics.NO_SPREAD) & (e.value != 0)
    alone = statistics.few(count) & flat  # so few that do not vary tell nothing
    low, high = np.where(alone, np.nan, low), np.where(alone, np.nan, high)
    p = np.where(np.isnan(e.low), np.nan, statistics.p_value(e))
    equal = np.array([[rows[x].equals(rows[y])] for x, y in pairs])
    same = equal | ((e.value == 0) & (np.nan_to_num(e.samples) == 0).all(axis=0))
    found = pd.DataFrame([(x, y, m) for x, y in pairs for m in METRICS], columns=["a", "b", "metric"])
    columns = {"difference": e.value, "low": low, "high": high, "p": p, "same": same}
    found = found.assign(**{name: column.ravel() for name, column in columns.items()})
    return _judged(found[found.metric.isin(list(metrics))].reset_index(drop=True))


def _judged(found: pd.DataFrame) -> pd.DataFrame:
    """The rows with p_holm and verdict."""
    primary = found.metric == PRIMARY
    found.loc[found.same, "p"] = 1.0
    found["p_holm"] = statistics.holm(found.p.where(~found.same & ~primary).to_numpy())
    found.loc[found.same & ~primary, "p_holm"] = 1.0
    clear = (found.p_holm < 0.05) | (primary & ((found.low > 0) | (found.high < 0)))
    cases = [found.same, found.difference.isna(), clear & (found.difference > 0), clear]
    found["verdict"] = np.select(cases, ["same", "undefined", "higher", "lower"], default="unclear")
    return found[["a", "b", "metric", "difference", "low", "high", "p", "p_holm", "verdict"]]
