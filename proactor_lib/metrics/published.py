"""The rows that the paper printed [paper], to stand beside ours. Their PRI ranks methods that we cannot see: never mix
it with ours. Difference of ABCD+ adaptive RULER is printed as .320 where its AC and Max AC give .360.
"""

from importlib.resources import files

import pandas as pd


def published() -> pd.DataFrame:
    """One row per published method: corpus, method, ac, max_ac, difference, pt, ftr, rar, pri."""
    with (files("proactor_lib.metrics") / "published.csv").open(encoding="utf-8") as f:
        return pd.read_csv(f)


def beside(ours: pd.DataFrame, corpus: str | None = None) -> pd.DataFrame:
    """Our `table` (one row per method and metric) and the published rows, one row a method; `source` says whose it is.

    Columns: source (`ours` or `published [paper]`), corpus, method, the seven published metrics. `corpus`: whose
    published rows, `ABCD+` or `Home Loan`; none: both. Ours come first and keep our PRI, which ranks our methods alone.
    """
    theirs = published().assign(source="published [paper]")
    theirs = theirs[theirs.corpus == corpus] if corpus else theirs
    metrics = [c for c in published().columns if c not in ("corpus", "method")]
    wide = ours.pivot(index="method", columns="metric", values="value").reindex(columns=metrics)
    mine = wide.reindex(ours.method.unique()).reset_index().assign(source="ours", corpus="")
    return pd.concat([mine, theirs], ignore_index=True)[["source", "corpus", "method", *metrics]]
