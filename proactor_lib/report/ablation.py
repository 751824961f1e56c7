"""What a sweep's table says: means over seeds, and each value of a factor against the first, paired [ours]."""

import numpy as np
import pandas as pd

from proactor_lib.metrics.intervals import PRIMARY
from proactor_lib.metrics.statistics import holm, paired_interval, sign_flip, t_interval

REPLICATE = "seed"
MANY = 8  # a factor of more values than this is drawn, not tested


def factors(table: pd.DataFrame) -> list[str]:
    """The parameters that differ between cells, but for the seed."""
    return [p for p in table.attrs["parameters"] if p != REPLICATE and table[p].astype(str).nunique() > 1]


def tested(table: pd.DataFrame) -> list[str]:
    """The factors with few enough values to test each against the first."""
    return [f for f in factors(table) if table[f].astype(str).nunique() <= MANY]


def shown_metrics(table: pd.DataFrame, headline: str | None, wanted: list[str], most: int = 6) -> list[str]:
    """The metrics of the report: those wanted, else the headline and the first ones that vary between cells."""
    there = [m for m in table.attrs["metrics"] if table[m].notna().any()]
    if wanted:
        return [m for m in wanted if m in there]
    varying = [m for m in there if table[m].nunique() > 1 and m != headline]
    return [*([headline] if headline in there else []), *varying][:most]


def over_seeds(table: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """One row per combination of the factors: `cells` (done), and for each metric its mean, `_low` and `_high`.

    Intervals are 95%: Student's t over the seeds that have the metric, the cell's own where there is one cell.
    """
    names = factors(table)
    done = table[table.state == "done"]
    groups = done.groupby([done[n].astype(str) for n in names], sort=False) if names else [((), done)]
    rows = []
    for _, group in groups:
        row = {n: group[n].iloc[0] for n in names} | {"cells": len(group)}
        for metric in metrics:
            row |= _mean(group, metric)
        rows.append(row)
    return pd.DataFrame(rows, columns=[*names, "cells", *(m + s for m in metrics for s in ("", "_low", "_high"))])


def _mean(group: pd.DataFrame, metric: str) -> dict[str, float]:
    values = group[metric].dropna().to_numpy(float)
    if len(values) > 1:
        low, high = t_interval(values)
        return {metric: values.mean(), f"{metric}_low": low, f"{metric}_high": high}
    known = ("", "_low", "_high") if len(group) == 1 else ("",)  # of several cells one's interval is another thing
    return {f"{metric}_low": np.nan, f"{metric}_high": np.nan} | {metric + e: _only(group, metric + e) for e in known}


def _only(group: pd.DataFrame, column: str) -> float:
    known = group[column].dropna() if column in group else []
    return float(known.iloc[0]) if len(known) else np.nan


def paired(table: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Each value of each factor against its first, over the cells that agree in all other parameters, the seed too.

    Where there are several seeds, a seed is one pair, its cells' mean: they share its luck. One row per (factor, value,
    metric): against, pairs, difference, low, high (Student's t), p (two-sided sign-flip test, exact up to 13 pairs;
    None of one pair), p_holm (Holm over the rows), verdict: higher, lower, unclear, same, untested. Utility, the
    primary endpoint, of whatever policy, is outside Holm's family: its interval is its verdict.
    """
    rows = [row for factor in tested(table) for row in _against_first(table, factor, metrics)]
    columns = ["factor", "value", "against", "metric", "pairs", "difference", "low", "high", "p"]
    return judged(pd.DataFrame(rows, columns=columns))


def judged(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of `difference` with p_holm and verdict, as of `paired`."""
    found["p"] = found.p.astype(float)
    primary = found.metric.map(lambda metric: metric.rpartition(".")[2] == PRIMARY).astype(bool)
    found["p_holm"] = holm(found.p.where(~primary).to_numpy())
    same = found.difference.eq(0) & found.low.eq(0) & found.high.eq(0)
    clear = (found.p_holm < 0.05) | (primary & ((found.low > 0) | (found.high < 0)))
    cases = [same, found.p.isna(), clear & (found.difference > 0), clear]
    found["verdict"] = np.select(cases, ["same", "untested", "higher", "lower"], default="unclear")
    return found


def _against_first(table: pd.DataFrame, factor: str, metrics: list[str]):
    others = [p for p in table.attrs["parameters"] if p != factor]
    done = table[table.state == "done"].assign(key=lambda t: t[others].astype(str).agg("\0".join, axis=1))
    first, *rest = table[factor].drop_duplicates()
    base = done[done[factor] == first].set_index("key")
    for value in rest:
        both = done[done[factor] == value].merge(base, on="key", suffixes=("", " of first"))
        for metric in metrics:
            apart = both[metric] - both[f"{metric} of first"]
            differences = pairs(apart, both[REPLICATE] if REPLICATE in others else None)
            if len(differences):
                yield (factor, value, first, metric, len(differences), *difference(differences))


def pairs(differences: pd.Series, seeds: pd.Series | None) -> np.ndarray:
    """The differences of cells that are known; where there are several seeds, the mean of each."""
    known = differences.astype(float).dropna()
    if seeds is None or seeds.nunique() < 2:
        return known.to_numpy()
    return known.groupby(seeds.loc[known.index]).mean().to_numpy()


def difference(values: np.ndarray) -> tuple[float, float, float, float | None]:
    """Mean, low, high and p of paired differences; NaN and None for what so few do not have."""
    if len(values) < 2:
        return float(values.mean()) if len(values) else np.nan, np.nan, np.nan, None
    return float(values.mean()), *paired_interval(values), sign_flip(values)
