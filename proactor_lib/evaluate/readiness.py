"""A policy's readiness threshold, tuned on dev for a price and told on test [ours: beyond the paper]."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from proactor_lib.errors import UserError
from proactor_lib.evaluate import predictions
from proactor_lib.evaluate.predictions import DEV, TEST
from proactor_lib.evaluate.splits import EvalSplit
from proactor_lib.evaluate.stale import stale
from proactor_lib.metrics import evaluate_predictions
from proactor_lib.metrics.inputs import Inputs
from proactor_lib.metrics.scores import DialogueTable
from proactor_lib.metrics.thresholds import fired_from, left_one_out, persistence, sweep, trade_off, tune, tuned
from proactor_lib.policies import TUNED
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import TurnPrediction

PRICES = (0.05, 0.1, 0.25, 0.5, 1.0)  # of a false execution, in missed opportunities
THRESHOLDS = 21


def write_tuned(run: RunFolder, policy: str) -> None:
    """Predictions of `<policy>_tuned` on test and dev: the policy's, fired from the threshold that is best on dev.

    At the run's execution_price. UserError as `tune_run`.
    """
    sides = {split: _sure(run, policy, split) for split in (DEV, TEST)}
    best = tune(*_on_dev(run, *sides[DEV]))
    for split, (inputs, _) in sides.items():
        made_from = predictions.tuned_from(run, policy, split) | {"threshold": best}
        log = predictions.PredictionLog(predictions.folder(run, split), f"{policy}{TUNED}", made_from)
        log.write(fired_from(inputs.predictions, best))


class Tuning(NamedTuple):
    """What the threshold does: on test, `curve` as metrics.thresholds.trade_off, `table` as its `tuned`."""

    curve: pd.DataFrame
    chosen: float  # the threshold tuned on dev at the run's execution_price
    table: pd.DataFrame


def tune_run(run: RunFolder, policy: str, prices: Sequence[float] | None = None) -> Tuning:
    """Tune the policy's threshold for U on what it said on dev, at each price (PRICES and the run's unless given).

    UserError if it was not asked there (`evaluate_run`'s `dev`), or not at all turns.
    Confidence is the policy's own where it gives one, else persistence over the turns asked. Thresholds are confidences
    on dev: 21 quantiles, with 0, 1, and the least of a `ready` action. That one leaves the policy's statuses as they
    are where no candidate is as sure; a policy that says otherwise can be worse on dev with a threshold than without.
    """
    p, (dev, asked_dev), (test, asked_test) = run.params, _sure(run, policy, DEV), _sure(run, policy, TEST)
    thresholds = _thresholds(dev.predictions)
    at_dev = sweep(dev, thresholds, p.theta, asked_dev, p.execution_price)
    at_test = sweep(test, thresholds, p.theta, asked_test, p.execution_price)
    untuned = evaluate_predictions(*test, p.theta, evaluated_turns=asked_test, price=p.execution_price)
    prices = sorted({*PRICES, p.execution_price}) if prices is None else prices
    own = _own(dev.predictions)
    found = tuned(at_dev, at_test, untuned, prices, own, p.bootstrap, p.seed)
    return Tuning(trade_off(at_test, p.bootstrap, p.seed), tune(at_dev, p.execution_price, own), found)


def tuned_threshold(run: RunFolder, policy: str) -> float:
    """The threshold tuned on dev at the run's execution_price, as `tune_run` chooses it. UserError as there."""
    return tune(*_on_dev(run, *_sure(run, policy, DEV)))


def tuned_on_dev(run: RunFolder, policy: str) -> float:
    """Utility on dev of `<policy>_tuned`, each dialogue by a threshold tuned on the others. UserError as `tune_run`."""
    return left_one_out(*_on_dev(run, *_sure(run, policy, DEV)))


def _on_dev(
    run: RunFolder, dev: Inputs, asked: dict[str, tuple[int, ...]]
) -> tuple[dict[float, DialogueTable], float, float]:
    """Tables by threshold, the price, and the policy's own threshold: what a threshold is tuned from."""
    p = run.params
    tables = sweep(dev, _thresholds(dev.predictions), p.theta, asked, p.execution_price)
    return tables, p.execution_price, _own(dev.predictions)


def _sure(run: RunFolder, policy: str, split: str) -> tuple[Inputs, dict[str, tuple[int, ...]]]:
    """What is scored, its predictions with confidences, and the turns that were asked."""
    if policy in stale(run, split):
        raise UserError(f"what {policy!r} said on {split} is not of what {run.out} has now: evaluate it again")
    said, evaluated_turns = predictions.read(run, policy, split), EvalSplit(run, split).evaluated_turns
    if not any(a.confidence is not None for line in said for a in line.actions):
        said = persistence(said, evaluated_turns=evaluated_turns)
    return Inputs(run.dialogues(split), run.references(split), said), evaluated_turns


def _thresholds(said: Sequence[TurnPrediction]) -> list[float]:
    known = [a.confidence for line in said for a in line.actions if a.confidence is not None]
    inner = np.quantile(known, np.linspace(0, 1, THRESHOLDS), method="higher") if known else []
    return sorted({0.0, 1.0, _own(said), *map(float, inner)})


def _own(said: Sequence[TurnPrediction]) -> float:
    """The least confidence of a `ready` action: the policy's own threshold, where no candidate is as sure."""
    sure = (a.confidence for line in said for a in line.actions if a.status == "ready")
    return min((c for c in sure if c is not None), default=1.0)
