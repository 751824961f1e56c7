"""Which findings depend on a definition: the same comparisons under other thetas and ways to match values [ours]."""

from collections.abc import Collection, Iterable, Mapping

import pandas as pd

from proactor_lib.metrics.alignment import Values
from proactor_lib.metrics.comparisons import compare
from proactor_lib.metrics.executions import PRICE
from proactor_lib.metrics.scores import evaluate_predictions
from proactor_lib.schema import Dialogue, DialogueReferences, TurnPrediction

VARIANTS: tuple[tuple[float, Values], ...] = (
    (0.75, "normalised"),  # ours
    (0.5, "normalised"),
    (0.9, "normalised"),
    (0.5, "exact"),
    (0.75, "exact"),
    (0.9, "exact"),
)
SIGNS = {"higher": 1, "lower": -1}


def variant_name(theta: float, values: Values) -> str:
    """How a variant is called in tables."""
    return f"theta {theta:g}, {values}"


def verdicts(
    dialogues: Iterable[Dialogue],
    references: Iterable[DialogueReferences],
    predictions: Mapping[str, Iterable[TurnPrediction]],
    variants: Iterable[tuple[float, Values]] | None = None,
    theta: float = 0.75,
    pairs: Iterable[tuple[str, str]] | None = None,
    bootstrap: int = 2000,
    seed: int = 0,
    evaluated_turns: Mapping[str, Collection[int]] | None = None,
    price: float = PRICE,
) -> pd.DataFrame:
    """`compare`'s rows of the pairs (every two methods unless given) under each variant, with a column `variant`.

    Unless given the first is `theta` with normalised values, then the other VARIANTS. `evaluated_turns`, `price`: see
    `scores`.
    """
    dialogues, references = list(dialogues), list(references)
    predictions = {name: list(p) for name, p in predictions.items()}
    frames = []
    pairs = pairs and list(pairs)
    for at, values in variants or dict.fromkeys([(theta, "normalised"), *VARIANTS]):
        tables = {
            n: evaluate_predictions(dialogues, references, p, at, values, evaluated_turns, price)
            for n, p in predictions.items()
        }
        found = compare(tables, pairs, bootstrap=bootstrap, seed=seed)
        frames.append(found.assign(variant=variant_name(at, values)))
    return pd.concat(frames, ignore_index=True)


def agreement(found: pd.DataFrame) -> pd.DataFrame:
    """One row per (a, b, metric): the verdict under each variant, and `finding`, what becomes of the first variant's.

    `finding`: `holds` (the same verdict everywhere), `reversed` (somewhere clearly the other way round) or `depends`.
    """
    keys = ["a", "b", "metric"]
    wide = found.pivot(index=keys, columns="variant", values="verdict")[found.variant.unique()]
    wide = wide.reindex(pd.MultiIndex.from_frame(found[keys].drop_duplicates()))
    wide["finding"] = [_finding(list(row)) for row in wide.itertuples(index=False)]
    return wide.rename_axis(columns=None).reset_index()


def _finding(seen: list[str]) -> str:
    if len(set(seen)) == 1:
        return "holds"
    signs = {SIGNS.get(v, 0) for v in seen}
    return "reversed" if {1, -1} <= signs else "depends"
