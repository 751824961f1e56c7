"""The ablation: what trainings with different rewards say to the paper's three questions, with paired intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


class Contrast(NamedTuple):
    """Two rewards compared on one metric, and what the paper's findings let one expect of a - b."""

    question: str
    a: str
    b: str
    metric: str
    paper: str  # higher or lower [paper]


CONSERVATIVE, TIMING, BALANCE = (
    "Do consistency-only rewards grow conservative?",
    "Do proactiveness rubrics move timing?",
    "Do stage-aware mixtures balance the two?",
)
MIXTURES = ("adaptive_ruler on rac", "adaptive_ruler on adaptive_metric", "adaptive_metric")
CONTRASTS = (
    *(Contrast(CONSERVATIVE, a, "custom_ruler", "rar", "lower") for a in ("rac", "max_rac")),
    *(Contrast(CONSERVATIVE, a, "custom_ruler", "missed", "higher") for a in ("rac", "max_rac")),
    *(Contrast(TIMING, "custom_ruler", "rac", m, "higher") for m in ("pt", "opportunity_timing")),
    Contrast(TIMING, "custom_ruler", "general_ruler", "opportunity_timing", "higher"),
    *(Contrast(BALANCE, a, "rac", "opportunity_timing", "higher") for a in MIXTURES),
    *(Contrast(BALANCE, a, "custom_ruler", "ac", "higher") for a in MIXTURES),
)


def answers(table: pd.DataFrame, policy: str = "trained", contrasts: Sequence[Contrast] = CONTRASTS) -> pd.DataFrame:
    """A row a contrast: question, a, b, metric, paper, seeds, difference, low, high, verdict.

    `table`: a sweep's, a row a cell, with columns state, reward, seed, ruler_base (where Adaptive RULER is among the
    rewards: it counts as `adaptive_ruler on <base>`) and `held_out.<policy>.<metric>`. Differences a - b are paired
    over seeds, with the 95% interval of Student's t. Verdicts: `as in the paper`, `against the paper`, `cannot be told`
    (the interval holds 0, or fewer than two seeds), `not measured`.
    """
    done = table[table.state == "done"]
    if "ruler_base" in done:
        mixed = done.reward == "adaptive_ruler"
        done = done.assign(reward=done.reward.mask(mixed, done.reward + " on " + done.ruler_base.astype(str)))
    rows = [(*c, *_compared(done, c, f"held_out.{policy}.{c.metric}")) for c in contrasts]
    return pd.DataFrame(rows, columns=[*Contrast._fields, "seeds", "difference", "low", "high", "verdict"])


def _compared(done: pd.DataFrame, contrast: Contrast, column: str) -> tuple[int, float, float, float, str]:
    if column not in done:
        return 0, np.nan, np.nan, np.nan, "not measured"
    by_reward = done.groupby(["seed", "reward"])[column].mean().unstack()
    paired = by_reward.reindex(columns=[contrast.a, contrast.b]).dropna()
    differences = (paired[contrast.a] - paired[contrast.b]).to_numpy(float)
    if not len(differences):
        return 0, np.nan, np.nan, np.nan, "not measured"
    mean, half = differences.mean(), _half_width(differences)
    return len(differences), mean, mean - half, mean + half, _verdict(mean, half, contrast.paper)


def _half_width(differences: np.ndarray) -> float:
    """Of the 95% interval; NaN for a single seed."""
    n = len(differences)
    return stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan


def _verdict(mean: float, half: float, paper: str) -> str:
    if np.isnan(half) or abs(mean) <= half:
        return "cannot be told"
    return "as in the paper" if (mean > 0) == (paper == "higher") else "against the paper"


def answers_of(folder: Path | str) -> pd.DataFrame | str:
    """`answers` of a sweep's folder; a sentence where it has not run."""
    from proactor_lib.sweep.store import Store
    from proactor_lib.sweep.table import table

    if not (Path(folder) / "sweep.json").exists():
        return f"no training ablation in {folder} yet: `proactor sweep run params/sweeps/rewards.yaml --out {folder}`"
    return answers(table(Store(folder)))
