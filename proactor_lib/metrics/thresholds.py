"""Readiness thresholds: when to fire, for a price of a false execution against a missed opportunity [ours].

An agent says `ready` or `candidate`; a confidence that it is ready makes that a threshold to choose. A policy that we
serve gives one with each action (evaluate.confidence). For others it is taken from what is there:
- `persistence`: for how many turns in a row, this one included, the agent has said the action ready, over `horizon`;
- `agreement`: the share of K sampled outputs of the turn that say it ready with the same normalised parameters.
At threshold 0 everything fires, candidates included; at 1 only what is certain.

What is tuned is U_c, the utility of what would be executed (metrics.utility).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from proactor_lib.errors import UserError
from proactor_lib.metrics import statistics
from proactor_lib.metrics.alignment import prediction_key
from proactor_lib.metrics.executions import PRICE
from proactor_lib.metrics.inputs import Inputs
from proactor_lib.metrics.intervals import METRICS, bootstrapped, estimate, same_dialogues, with_intervals
from proactor_lib.metrics.scores import DialogueTable, evaluate_predictions
from proactor_lib.metrics.utility import SAMPLED, utility_at
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
    price: float = PRICE,
) -> dict[float, DialogueTable]:
    """The dialogue table at each threshold; the predictions must carry confidences.

    `evaluated_turns`, `price`: see `metrics.scores`.
    """
    dialogues, references, predictions = inputs
    return {
        t: evaluate_predictions(
            dialogues, references, fired_from(predictions, t), theta, evaluated_turns=evaluated_turns, price=price
        )
        for t in sorted(set(thresholds))
    }


def trade_off(tables: dict[float, DialogueTable], bootstrap: int = 2000, seed: int = 0) -> pd.DataFrame:
    """One row per (threshold, metric): value, low, high. What the FTR-against-timing curve is drawn from."""
    found = bootstrapped({str(t): table for t, table in tables.items()}, bootstrap, seed)[:3]
    rows = [with_intervals(METRICS, *row).assign(threshold=t) for t, *row in zip(tables, *found, strict=True)]
    return pd.concat(rows, ignore_index=True)


def tune(tables: Mapping[float, DialogueTable], price: float, own: float) -> float:
    """The threshold with the greatest utility at `price`; of several `own`, else the highest (the most reluctant).

    `own`: the one that leaves the agent's statuses as they are: where dev cannot tell, nothing is changed. Raises
    UserError where utility is undefined: turns were sampled, or nothing was needed.
    """
    utilities = np.array([utility_at(t, [price])[0, 0] for t in tables.values()])
    if np.isnan(utilities).any():
        raise UserError(
            f"a readiness threshold is tuned for utility, which is undefined here: no reference, or {SAMPLED}"
        )
    return _best(list(tables), utilities, own)


def _best(thresholds: Sequence[float], utilities: np.ndarray, own: float) -> float:
    worth = dict(zip(thresholds, np.round(utilities, 12).tolist(), strict=True))
    return max(worth, key=lambda threshold: (worth[threshold], threshold == own, threshold))


def left_one_out(tables: Mapping[float, DialogueTable], price: float, own: float) -> float:
    """Utility at `price` where each dialogue is fired from the threshold tuned on all others [ours]. NaN as there.

    What tuning is worth on dialogues that it did not see; the utility that `tune` maximises is no such thing.
    """
    count = len(next(iter(tables.values())))
    others = np.stack([utility_at(t, [price], 1.0 - np.eye(count))[:, 0] for t in tables.values()])
    if np.isnan(others).any():
        return float("nan")
    chosen = [_best(list(tables), others[:, i], own) for i in range(count)]
    seen = pd.concat([tables[threshold].iloc[[i]] for i, threshold in enumerate(chosen)])
    return float(utility_at(seen, [price])[0, 0])


def tuned(
    dev: dict[float, DialogueTable],
    test: dict[float, DialogueTable],
    untuned: DialogueTable,
    prices: Iterable[float],
    own: float,
    bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per price: the threshold tuned on dev and what it is worth on test.

    `dev`, `test`: from `sweep`. `untuned`: the agent's own statuses on test. `own`: as of `tune`. Columns: price,
    threshold, utility, untuned (utility), gain (utility - untuned, paired) with low and high, false_executions and
    opportunity_timing on test. Raises UserError as `tune`.
    """
    rows = []
    for price in prices:
        threshold = tune(dev, price, own)
        after, before = same_dialogues({"tuned": test[threshold], "untuned": untuned})

        def gain(weights: np.ndarray, a=after, b=before, c=price) -> np.ndarray:
            return utility_at(a, [c], weights) - utility_at(b, [c], weights)

        value, low, high = (float(x[0]) for x in statistics.bootstrap(gain, len(after), bootstrap, seed)[:3])
        metrics = dict(zip(METRICS, estimate(after), strict=True))
        utilities = {k: float(utility_at(t, [price])[0, 0]) for k, t in (("utility", after), ("untuned", before))}
        rows.append(
            {"price": price, "threshold": threshold, **utilities, "gain": value, "low": low, "high": high}
            | {m: metrics[m] for m in ("false_executions", "opportunity_timing")}
        )
    return pd.DataFrame(rows)
