"""PRI, the proactiveness ranking index: a ranking inside one comparison.

[paper] the harmonic mean of a consistency index and a timing index. [ours] each metric is min-max normalised over the
compared methods, Difference and FTR turned round; consistency = mean(AC, Max AC, Difference), timing = mean(PT, FTR,
RAR).
[ours] A metric that is equal for all methods tells none from another: each gets 0.5 of it. A method with one of the six
undefined (an agent that is always silent, say) is not ranked and takes no part in the others' minima and maxima. Fewer
than two ranked methods have no ranking.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from proactor_lib.metrics import statistics
from proactor_lib.metrics.intervals import METRICS, same_dialogues, stacked, with_intervals
from proactor_lib.metrics.scores import DialogueTable

CONSISTENCY = ("ac", "max_ac", "difference")
TIMING = ("pt", "ftr", "rar")
_TURNED = np.array([m in ("difference", "ftr") for m in CONSISTENCY + TIMING])
_PLACES = [METRICS.index(m) for m in CONSISTENCY + TIMING]


def pri(values: np.ndarray) -> np.ndarray:
    """PRI in [0, 1], shape (..., methods), of AC, Max AC, Difference, PT, FTR, RAR, shape (..., methods, 6).

    NaN for methods that are not ranked.
    """
    ranked = ~np.isnan(values).any(axis=-1, keepdims=True)
    low = np.where(ranked, values, np.inf).min(axis=-2, keepdims=True)
    high = np.where(ranked, values, -np.inf).max(axis=-2, keepdims=True)
    spread = high - low
    distinct = np.isfinite(spread) & (spread > 1e-12)
    place = np.divide(values - low, spread, out=np.full(values.shape, 0.5), where=distinct & ranked)
    place = np.where(_TURNED, 1 - place, place)
    consistency, timing = place[..., :3].mean(axis=-1), place[..., 3:].mean(axis=-1)
    total = consistency + timing
    harmonic = np.divide(2 * consistency * timing, total, out=np.zeros_like(total), where=total > 0)
    return np.where(ranked[..., 0] & (ranked.sum(axis=-2) > 1), harmonic, np.nan)


def table(tables: Mapping[str, DialogueTable], bootstrap: int = 2000, seed: int = 0) -> pd.DataFrame:
    """The metrics of several methods on the same dialogues: one row per (method, metric) with value, low, high.

    The metrics are those of `METRICS`, then `pri`; `frame.attrs["ranked_against"]` lists the methods that PRI compares:
    print it wherever PRI stands. NaN where undefined. Raises UserError if methods were scored on different dialogues.
    """
    aligned = same_dialogues(tables)
    e = statistics.bootstrap(lambda weights: _ranked(stacked(aligned, weights)), len(aligned[0]), bootstrap, seed)
    frames = [with_intervals((*METRICS, "pri"), *of_method) for of_method in zip(*e[:3], strict=True)]
    frame = pd.concat(frames, keys=list(tables), names=["method", None]).reset_index("method").reset_index(drop=True)
    frame.attrs["ranked_against"] = [name for name, v in zip(tables, e.value, strict=True) if not np.isnan(v[-1])]
    return frame


def _ranked(metrics: np.ndarray) -> np.ndarray:
    """Metrics (rows, methods, metrics) with PRI behind them."""
    return np.concatenate([metrics, pri(metrics[..., _PLACES])[..., None]], axis=-1)
