"""Readiness thresholds: when to fire, for a price of a false trigger against a missed one [ours: beyond the paper].

An agent says `ready` or `candidate`; a confidence that it is ready makes that a threshold to choose. A policy that we
serve gives one with each action (evaluate.confidence). For others it is taken from what is there:
- `persistence`: for how many turns in a row, this one included, the agent has said the action ready, over `horizon`;
- `agreement`: the share of K sampled outputs of the turn that say it ready with the same normalised parameters.
At threshold 0 everything fires, candidates included; at 1 only what is certain.

The cost of a dialogue is price x faults (ready predictions at fault, as in FTR) + the references that were not first
triggered inside their window.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

import pandas as pd

from proactor_lib.metrics.alignment import prediction_key
from proactor_lib.metrics.inputs import Inputs
from proactor_lib.metrics.intervals import METRICS, bootstrapped, estimate, interval, resamples, with_intervals
from proactor_lib.metrics.scores import DialogueTable, evaluate_predictions
from proactor_lib.schema import PredictedAction, TurnPrediction


def persistence(
    predictions: Iterable[TurnPrediction],
    horizon: int = 5,
    evaluated_turns: Mapping[str, Collection[int]] | None = None,
) -> list[TurnPrediction]:
    """The predictions, each action with a confidence in [0, 1]: turns in a row that said it ready / `horizon`.

    An action is known by its name, since its parameters grow. A candidate has 0. A turn left out breaks the row, unless
    it was not `evaluated_turns` about.
    """
    before_of = {(d, t): s for d, turns in (evaluated_turns or {}).items() for s, t in pairwise(sorted(turns))}
    ready: dict[tuple[str, int], dict[str, int]] = {}
    found = []
    for p in sorted(predictions, key=lambda p: (p.dialogue_id, p.turn)):
        before = ready.get((p.dialogue_id, before_of.get((p.dialogue_id, p.turn), p.turn - 1)), {})
        now = {a.name: before.get(a.name, 0) + 1 for a in p.actions if a.status == "ready"}
        ready[p.dialogue_id, p.turn] = now
        found.append(_with(p, [min(now[a.name] / horizon, 1.0) if a.status == "ready" else 0.0 for a in p.actions]))
    return found


def agreement(
    predictions: Iterable[TurnPrediction], samples: Sequence[Iterable[TurnPrediction]]
) -> list[TurnPrediction]:
    """The predictions, each action with the share of `samples` (K runs over the same dialogues) that say it ready."""
    votes = Counter()
    for run in samples:
        for p in run:
            votes.update({(p.dialogue_id, p.turn, *prediction_key(a)) for a in p.actions if a.status == "ready"})
    return [
        _with(p, [votes[p.dialogue_id, p.turn, *prediction_key(a)] / len(samples) for a in p.actions])
        for p in predictions
    ]


def _with(prediction: TurnPrediction, confidences: Sequence[float]) -> TurnPrediction:
    pairs = zip(prediction.actions, confidences, strict=True)
    return prediction.model_copy(update={"actions": tuple(a.model_copy(update={"confidence": c}) for a, c in pairs)})


def fired_from(predictions: Iterable[TurnPrediction], threshold: float) -> list[TurnPrediction]:
    """The predictions with each action `ready` when its confidence is at least `threshold`, else `candidate`.

    An action without a confidence keeps its status.
    """
    return [p.model_copy(update={"actions": tuple(_fired(a, threshold) for a in p.actions)}) for p in predictions]


def _fired(action: PredictedAction, threshold: float) -> PredictedAction:
    if action.confidence is None:
        return action
    return action.model_copy(update={"status": "ready" if action.confidence >= threshold - 1e-9 else "candidate"})


def sweep(
    inputs: Inputs,
    thresholds: Iterable[float],
    theta: float = 0.75,
    evaluated_turns: Mapping[str, Collection[int]] | None = None,
) -> dict[float, DialogueTable]:
    """The dialogue table at each threshold; the predictions must carry confidences. `evaluated_turns`: see `scores`."""
    dialogues, references, predictions = inputs
    return {
        t: evaluate_predictions(
            dialogues, references, fired_from(predictions, t), theta, evaluated_turns=evaluated_turns
        )
        for t in sorted(set(thresholds))
    }


def trade_off(tables: dict[float, DialogueTable], bootstrap: int = 2000, seed: int = 0) -> pd.DataFrame:
    """A row a (threshold, metric): value, low, high. What the FTR-against-timing curve is drawn from."""
    values, samples = bootstrapped({str(t): table for t, table in tables.items()}, bootstrap, seed)
    rows = [with_intervals(METRICS, v, s).assign(threshold=t) for t, v, s in zip(tables, values, samples, strict=True)]
    return pd.concat(rows, ignore_index=True)


def cost(table: DialogueTable, price: float) -> pd.Series:
    """Each dialogue's price x faults + references not first triggered inside their window."""
    return price * table.faults + table[["missed", "late", "premature"]].sum(axis=1)


def tune(tables: dict[float, DialogueTable], price: float) -> float:
    """The threshold whose mean cost is least; of several, the highest (the most reluctant)."""
    return min(tables, key=lambda t: (cost(tables[t], price).mean(), -t))


def tuned(
    dev: dict[float, DialogueTable],
    test: dict[float, DialogueTable],
    untuned: DialogueTable,
    prices: Iterable[float],
    bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """A row a price: the threshold tuned on dev and what it costs on test, a mean per dialogue.

    `dev`, `test`: from `sweep`. `untuned`: the agent's own statuses on test. Columns: price, threshold, cost, untuned
    (cost), saving (untuned - cost, paired) with low and high, ftr and opportunity_timing on test.
    """
    weights = resamples(len(untuned), bootstrap, seed) / len(untuned)
    rows = []
    for price in prices:
        threshold = tune(dev, price)
        chosen = test[threshold]
        paid, before = (cost(t.sort_values("dialogue_id"), price).to_numpy() for t in (chosen, untuned))
        low, high = interval(weights @ (before - paid))
        metrics = dict(zip(METRICS, estimate(chosen), strict=True))
        rows.append(
            {"price": price, "threshold": threshold, "cost": paid.mean(), "untuned": before.mean()}
            | {"saving": (before - paid).mean(), "low": float(low), "high": float(high)}
            | {m: metrics[m] for m in ("ftr", "opportunity_timing")}
        )
    return pd.DataFrame(rows)
