"""The policies on the held-out dialogues, scored anew from the predictions that the run kept."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from proactor_lib.files import read_jsonl
from proactor_lib.metrics import compare, score_predictions, table
from proactor_lib.metrics.scores import Scores
from proactor_lib.run import Run
from proactor_lib.schema import TurnPrediction


@dataclass(frozen=True)
class HeldOut:
    """What the report shows of the test split."""

    predictions: dict[str, list[TurnPrediction]]  # by policy
    scores: dict[str, Scores]
    table: pd.DataFrame  # method, metric, value, low, high
    comparisons: pd.DataFrame | None  # as metrics.compare; None with fewer than two policies
    ranked_against: list[str]  # the methods that PRI compares
    dialogues: int

    def unreadable(self, policy: str) -> float:
        """Share of the policy's outputs that the parser could not read in full."""
        lines = self.predictions[policy]
        return sum(p.unreadable for p in lines) / max(len(lines), 1)

    def as_json(self) -> dict[str, dict[str, list[float | None]]]:
        """policy -> metric -> [value, low, high]; None where undefined."""
        found: dict = {}
        for r in self.table.itertuples():
            figures = [None if pd.isna(x) else float(x) for x in (r.value, r.low, r.high)]
            found.setdefault(r.method, {})[r.metric] = figures
        return found


def focus(policies: Iterable[str]) -> str:
    """The policy that the others are compared with: `trained` where it is there, else the last."""
    names = list(policies)
    return "trained" if "trained" in names else names[-1]


def read_predictions(run: Run) -> dict[str, list[TurnPrediction]]:
    """The run's prediction files by policy: the order of the parameters, then the alphabet's."""
    found = {p.stem: p for p in sorted(run.predictions.glob("*.jsonl"))}
    names = [p for p in run.params.policies if p in found]
    return {n: list(read_jsonl(found[n], TurnPrediction)) for n in [*names, *(n for n in found if n not in names)]}


def asked_turns(run: Run, predictions: Mapping[str, list[TurnPrediction]]) -> dict[str, set[int]] | None:
    """The turns at which any policy was asked, by dialogue; None when the run asks at all turns."""
    if run.params.evaluation_turns == 0:
        return None
    asked: dict[str, set[int]] = {}
    for line in (line for lines in predictions.values() for line in lines):
        asked.setdefault(line.dialogue_id, set()).add(line.turn)
    return asked


def score(run: Run) -> HeldOut | None:
    """Every policy's metrics with intervals, and the policy in `focus` against each other; None without predictions."""
    predictions = read_predictions(run)
    if not predictions:
        return None
    p, dialogues, references = run.params, run.dialogues("test"), run.references("test")
    asked = asked_turns(run, predictions)
    scores = {
        name: score_predictions(dialogues, references, lines, p.theta, asked=asked)
        for name, lines in predictions.items()
    }
    tables = {name: s.dialogues for name, s in scores.items()}
    found = table(tables, p.bootstrap, p.seed)
    pairs = [(focus(tables), other) for other in tables if other != focus(tables)]
    compared = compare(tables, pairs, bootstrap=p.bootstrap, seed=p.seed) if pairs else None
    return HeldOut(predictions, scores, found, compared, found.attrs["ranked_against"], len(dialogues))
