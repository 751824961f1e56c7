"""From per-dialogue tables to metrics with 95% intervals [SPEC 4].

Every metric is a ratio of two sums over dialogues (a mean over dialogues is one as well), so a bootstrap over dialogues
is one matrix product: resample counts (B, D) times column sums (D, C).
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
import pandas as pd

from proactor_lib.errors import UserError
from proactor_lib.metrics.scores import DialogueTable

# metric: (column summed above, column summed below); `gap` is Max AC - AC, `scored` the dialogues with a scored turn
RATIOS = {
    "ac": ("ac", "scored"),
    "max_ac": ("max_ac", "scored"),
    "difference": ("gap", "ac"),
    "pt": ("pt", "scored"),
    "ftr": ("faults", "ready"),
    "rar": ("ready", "predictions"),
    "opportunity_timing": ("timing", "references"),
    "lead": ("lead", "led"),
    "missed": ("missed", "references"),
    "late": ("late", "references"),
    "premature": ("premature", "references"),
}
METRICS = tuple(RATIOS)
LOWER_IS_BETTER = frozenset({"difference", "ftr", "missed", "late", "premature"})
_COLUMNS = sorted({c for pair in RATIOS.values() for c in pair})


@lru_cache(maxsize=2)
def resamples(dialogues: int, count: int, seed: int) -> np.ndarray:
    """How often each dialogue is drawn, shape (count, dialogues), float; the same for every method: they pair."""
    draws = np.random.default_rng(seed).integers(dialogues, size=(count, dialogues))
    offsets = np.arange(count)[:, None] * dialogues
    return np.bincount((draws + offsets).ravel(), minlength=count * dialogues).reshape(count, dialogues).astype(float)


def ratios(table: DialogueTable, weights: np.ndarray) -> np.ndarray:
    """The metrics of `METRICS` for each row of dialogue weights, shape (rows, metrics); NaN where undefined."""
    full = table.assign(scored=(table.scored_turns > 0).astype(float), gap=table.max_ac - table.ac)
    sums = pd.DataFrame(weights @ full[_COLUMNS].fillna(0.0).to_numpy(float), columns=_COLUMNS)
    above, below = (sums[[pair[i] for pair in RATIOS.values()]].to_numpy() for i in (0, 1))
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def estimate(table: DialogueTable) -> np.ndarray:
    """The metrics of `METRICS` on the dialogues themselves, shape (metrics,); NaN where undefined."""
    return ratios(table, np.ones((1, len(table))))[0]


def bootstrapped(tables: Mapping[str, DialogueTable], bootstrap: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Metrics on the dialogues, shape (methods, metrics), and on each resample, shape (methods, resamples, metrics).

    All methods see the same resamples. Raises UserError if they were not scored on the same dialogues.
    """
    aligned = same_dialogues(tables)
    weights = resamples(len(aligned[0]), bootstrap, seed)
    return np.stack([estimate(t) for t in aligned]), np.stack([ratios(t, weights) for t in aligned])


def same_dialogues(tables: Mapping[str, DialogueTable]) -> list[DialogueTable]:
    """The tables, rows in order of dialogue id; UserError if the methods were not scored on the same dialogues."""
    aligned = [t.sort_values("dialogue_id", ignore_index=True) for t in tables.values()]
    if not aligned or aligned[0].empty:
        raise UserError("there are no dialogues to score; accepted: at least one method and one dialogue")
    for name, t in zip(tables, aligned, strict=True):
        if odd := set(t.dialogue_id) ^ set(aligned[0].dialogue_id):
            raise UserError(f"{name!r} and {next(iter(tables))!r} were not scored on the same dialogues: {min(odd)!r}")
    return aligned


def interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95% percentile interval over the first axis; resamples where a metric is undefined are left out."""
    undefined = np.isnan(samples).all(axis=0)
    low, high = np.nanpercentile(np.where(undefined, 0.0, samples), [2.5, 97.5], axis=0)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def with_intervals(names: Iterable[str], values: np.ndarray, samples: np.ndarray) -> pd.DataFrame:
    """A row a name: `metric`, value, low, high. Shapes (names,) and (resamples, names); NaN where undefined."""
    low, high = (np.where(np.isnan(values), np.nan, bound) for bound in interval(samples))
    return pd.DataFrame({"metric": list(names), "value": values, "low": low, "high": high})
