"""How often 95% intervals over dialogues hold the truth, and how often equal policies are told apart: simulated.

The population is home-loan calls with two policies that say a share of what the oracle says, fire some of it early and
some of it for nothing; each call has its own shares, so that dialogues differ as real ones do. Samples of `dialogues`
calls are drawn from it, and the population's own figures are the truth.
"""

import random
from collections.abc import Sequence

import numpy as np
import pandas as pd

from proactor_lib import datasets
from proactor_lib.agent import reference_output
from proactor_lib.metrics import statistics
from proactor_lib.metrics.intervals import METRICS, PRIMARY, estimate, stacked
from proactor_lib.metrics.scores import DialogueTable, evaluate_predictions
from proactor_lib.schema import Case, PredictedAction, TurnPrediction, cases

POLICIES = {"a": (0.35, 0.08), "b": (0.30, 0.12)}  # mean shares of what is said, and of turns with a false trigger
EARLY = 0.2  # of what is said: ready whatever the oracle says


def benchmark(dialogues: Sequence[int], samples: int, population: int, bootstrap: int, seed: int = 0) -> dict:
    """By number of dialogues, shares of `samples`: `policy` and `difference` (metric: intervals that hold the truth),

    and `told_apart`: how often the primary endpoint's interval excludes 0 for policies that are equal but for chance.
    """
    truth = datasets.load("homeloan", None, "train", population, max_turns=40, seed=seed)
    given = cases(truth.dialogues, truth.truth or (), truth.catalog)
    tables = [_table(given, *shares, seed=seed + i) for i, shares in enumerate(POLICIES.values())]
    return {str(n): _coverage(tables, n, samples, bootstrap, seed) for n in dialogues}


def _table(given: Sequence[Case], said: float, false: float, seed: int) -> DialogueTable:
    dice = random.Random(seed)
    lines = [line for case in given for line in _policy(case, dice, said, false)]
    return evaluate_predictions([c.dialogue for c in given], [c.line for c in given], lines)


def _policy(case: Case, dice: random.Random, said: float, false: float) -> list[TurnPrediction]:
    own, idle = min(max(dice.gauss(said, 0.15), 0.0), 1.0), false * dice.expovariate(1)
    lines = []
    for turn in range(1, len(case.dialogue.turns) + 1):
        actions = [
            a.model_copy(update={"status": "ready"}) if dice.random() < EARLY else a
            for a in reference_output(case.references, turn)
            if dice.random() < own
        ]
        if dice.random() < idle:
            actions.append(PredictedAction(name=dice.choice(case.catalog.actions).name))
        lines.append(TurnPrediction(dialogue_id=case.dialogue.id, turn=turn, actions=actions))
    return lines


def _coverage(tables: list[DialogueTable], dialogues: int, samples: int, bootstrap: int, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    a, b = map(estimate, tables)
    held: dict[str, list] = {"policy": [], "difference": []}
    apart = 0
    for _ in range(samples):
        rows = rng.integers(len(tables[0]), size=dialogues)
        drawn = [t.iloc[rows].reset_index(drop=True) for t in tables]
        held["policy"].append(_holds(_estimates(drawn, bootstrap, (1, 0)), a))
        held["difference"].append(_holds(_estimates(drawn, bootstrap, (1, -1)), a - b))
        swapped = rng.random(dialogues) < 0.5  # then neither is better
        equal = [pd.concat([x[~swapped], y[swapped]]).sort_index() for x, y in (drawn, drawn[::-1])]
        null, place = _estimates(equal, bootstrap, (1, -1)), METRICS.index(PRIMARY)
        apart += bool(null.low[place] > 0 or null.high[place] < 0)
    means = {k: pd.DataFrame(v, columns=list(METRICS)).mean().dropna().round(3) for k, v in held.items()}
    return {k: of_metric.to_dict() for k, of_metric in means.items()} | {"told_apart": round(apart / samples, 3)}


def _estimates(drawn: list[DialogueTable], bootstrap: int, signs: tuple[int, int]) -> statistics.Estimates:
    return statistics.bootstrap(lambda w: np.tensordot(signs, stacked(drawn, w), (0, 1)), len(drawn[0]), bootstrap, 0)


def _holds(found: statistics.Estimates, truth: np.ndarray) -> np.ndarray:
    """1 where an interval holds the truth, 0 where not, NaN where the figure is undefined."""
    holds = (found.low <= truth + 1e-12) & (truth <= found.high + 1e-12)
    return np.where(np.isnan(found.value), np.nan, holds)
