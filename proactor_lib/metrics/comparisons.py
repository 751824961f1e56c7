"""Methods compared in pairs on the same dialogues, corrected for the number of comparisons [SPEC 4]."""

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from proactor_lib.metrics.intervals import METRICS, bootstrapped, same_dialogues, with_intervals
from proactor_lib.metrics.scores import DialogueTable


def compare(
    tables: Mapping[str, DialogueTable],
    pairs: Iterable[tuple[str, str]] | None = None,
    metrics: Iterable[str] = METRICS,
    bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired comparisons: a row a (a, b, metric) with difference (a - b), low, high, p, p_holm and verdict.

    `pairs`: every two methods unless given. p is two-sided, from the paired bootstrap's standard error and Student's t
    with dialogues - 1 degrees of freedom, and no smaller than the least that a sign-flip test could give [ours]; p_holm
    is corrected by Holm over the rows of this table. Verdict: `same` (nothing tells the two apart: difference 0 on the
    dialogues and on every resample, as for a method and itself), `higher` or `lower` (p_holm < 0.05), `unclear`, or
    `undefined` (the metric is, for one of the two). Raises UserError if methods were scored on different dialogues.
    """
    rows = dict(zip(tables, same_dialogues(tables), strict=True))
    values, samples = bootstrapped(rows, bootstrap, seed)
    place = {name: i for i, name in enumerate(rows)}
    frames = []
    for a, b in combinations(rows, 2) if pairs is None else pairs:
        i, j = place[a], place[b]
        frame = _differences(values[i] - values[j], samples[i] - samples[j], len(rows[a]))
        frame["same"] |= rows[a].equals(rows[b])
        frames.append(frame.assign(a=a, b=b))
    kept = list(metrics)
    found = pd.concat(frames, ignore_index=True)
    return _judged(found[found.metric.isin(kept)].reset_index(drop=True))


def _differences(difference: np.ndarray, draws: np.ndarray, dialogues: int) -> pd.DataFrame:
    """metric, difference, low, high, p, same of one pair; `draws`: its differences by resample (resamples, metrics)."""
    frame = with_intervals(METRICS, difference, draws).rename(columns={"value": "difference"})
    error = np.nanstd(np.where(np.isnan(difference), 0.0, draws), axis=0)
    distance = np.divide(np.abs(difference), error, out=np.full_like(difference, np.inf), where=error > 0)
    p = np.maximum(2 * stats.t.sf(distance, max(dialogues - 1, 1)), 2.0 ** (1 - dialogues))
    same = (difference == 0) & (np.nan_to_num(draws) == 0).all(axis=0)
    return frame.assign(p=np.where(np.isnan(difference), np.nan, p), same=same)


def _judged(found: pd.DataFrame) -> pd.DataFrame:
    """The rows with p_holm and verdict."""
    found.loc[found.same, "p"] = 1.0
    found["p_holm"] = holm(found.p.where(~found.same).to_numpy())
    found.loc[found.same, "p_holm"] = 1.0
    clear = found.p_holm < 0.05
    cases = [found.same, found.difference.isna(), clear & (found.difference > 0), clear]
    found["verdict"] = np.select(cases, ["same", "undefined", "higher", "lower"], default="unclear")
    return found[["a", "b", "metric", "difference", "low", "high", "p", "p_holm", "verdict"]]


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p-values, shape (n,); NaN stays NaN and is not counted as a test."""
    corrected = np.full(len(p), np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected
