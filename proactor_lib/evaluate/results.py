"""Results: computed once from what the policies predicted, then read back by whoever shows them.

`metrics/results.json` says what they were made from (predictions, references, parameters, code): where any of it has
changed, they are computed again. Beside it lie their tables: each one of `Scores` with a column `policy`, `table` and
`comparisons`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from proactor_lib import metrics, progress, provenance
from proactor_lib.evaluate import predictions
from proactor_lib.evaluate.readiness import tuned_on_dev
from proactor_lib.evaluate.splits import EvalSplit
from proactor_lib.evaluate.stale import stale
from proactor_lib.files import read_text, write_json, write_table
from proactor_lib.metrics import utility
from proactor_lib.metrics.scores import Scores
from proactor_lib.policies import untuned
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import TurnPrediction

FRAMES = tuple(f.name for f in fields(Scores) if f.type is pd.DataFrame)  # the tables of one policy's scores
Predictions = Mapping[str, list[TurnPrediction]]  # by policy
Turns = dict[str, tuple[int, ...]]  # by dialogue id


@dataclass(frozen=True)
class EvalResults:
    """The policies on the test split."""

    predictions: Predictions
    evaluated_turns: Turns | None  # the turns that were asked; None where that was all of them
    scores: dict[str, Scores]  # by policy
    table: pd.DataFrame  # method, metric, value, low, high
    comparisons: pd.DataFrame | None  # as metrics.compare: the policy in `focus` with each other one, if there is any
    ranked_against: list[str]  # the methods that PRI compares
    dev: dict[str, float]  # utility on dev of the policies that were asked there, at all turns

    @property
    def dialogues(self) -> int:
        """How many dialogues were scored."""
        return len(next(iter(self.scores.values())).about)

    def unreadable(self, policy: str) -> float:
        """Share of the policy's outputs that the parser could not read in full."""
        lines = self.predictions[policy]
        return sum(p.unreadable for p in lines) / max(len(lines), 1)

    def cut(self, policy: str, limit: int) -> float:
        """Share of the policy's outputs that have `limit` tokens, so that they ended there or would have gone on."""
        lines = self.predictions[policy]
        return sum((p.output_tokens or 0) >= limit for p in lines) / max(len(lines), 1)

    def as_json(self) -> dict[str, dict[str, list[float | None]]]:
        """policy -> metric -> [value, low, high]; None where undefined."""
        found: dict = {}
        for r in self.table.itertuples():
            figures = [None if pd.isna(x) else float(x) for x in (r.value, r.low, r.high)]
            found.setdefault(r.method, {})[r.metric] = figures
        return found

    def primary(self) -> dict[str, Any]:
        """The primary endpoint, as `metrics.utility.primary`, and `dev`: utility there, which chooses opponents."""
        one = next(iter(self.scores.values()))
        return utility.primary(self.table, self.comparisons, one.price, one.sampled) | {"dev": self.dev}

    def outputs(self) -> pd.DataFrame:
        """A row per policy: outputs, unreadable, silent (counts), prompt_tokens, output_tokens (means), latency_s
        (median)."""
        return pd.DataFrame([_outputs(name, lines) for name, lines in self.predictions.items()])


def _outputs(name: str, lines: list[TurnPrediction]) -> dict[str, Any]:
    known = pd.DataFrame([(x.prompt_tokens, x.output_tokens, x.latency_s) for x in lines], dtype=float)
    prompt, output, latency = (known[i] for i in range(3))
    return {
        "policy": name,
        "outputs": len(lines),
        "unreadable": sum(x.unreadable for x in lines),
        "silent": sum(not x.actions for x in lines),
        "prompt_tokens": prompt.mean(),
        "output_tokens": output.mean(),
        "latency_s": latency.median(),
    }


def focus(policies: Iterable[str]) -> str:
    """The policy that the others are compared with: `trained` where it is there, else the last."""
    names = list(policies)
    return "trained" if "trained" in names else names[-1]


def asked_turns(run: RunFolder) -> Turns | None:
    """The turns at which the run asks, by dialogue; None when it asks at all. What a policy says at others is left out.

    So a file of somebody's own, which may have all turns, changes nothing for the policies beside it.
    """
    return EvalSplit(run, predictions.TEST).evaluated_turns if run.params.evaluation_turns else None


def load_or_score(run: RunFolder) -> EvalResults | None:
    """Every policy's metrics with intervals, as the run keeps them; None without predictions.

    They are computed where nothing is kept, or where that was made from something else. Raises UserError for
    predictions that do not fit the run's dialogues.
    """
    said = predictions.read_all(run)
    if not said:
        return None
    evaluated_turns, made_from = asked_turns(run), _made_from(run, said)
    if _kept(run).get("made_from") != made_from:
        _score(run, said, evaluated_turns, made_from)
    return _read(run, said, evaluated_turns)


def _kept(run: RunFolder) -> dict[str, Any]:
    path = run.metrics / "results.json"
    return json.loads(read_text(path)) if path.exists() else {}


def _made_from(run: RunFolder, said: Predictions) -> dict[str, Any]:
    """All that the results depend on, as JSON values."""
    p = run.params
    files = run.sources(predictions.TEST) + [predictions.folder(run) / f"{name}.jsonl" for name in said]
    if on_dev := predictions.policies(run, predictions.DEV):
        there = predictions.folder(run, predictions.DEV)
        files += [*run.sources(predictions.DEV), *(there / f"{name}.jsonl" for name in on_dev)]
    return {
        "files": [provenance.fingerprint(path) for path in files],
        "policies": list(said),
        "stale_on_dev": stale(run, predictions.DEV),
        "params": {k: getattr(p, k) for k in ("theta", "execution_price", "bootstrap", "seed", "evaluation_turns")},
        "code": provenance.code_digest(),
    }


def _score(run: RunFolder, said: Predictions, evaluated_turns: Turns | None, made_from: dict[str, Any]) -> None:
    """Score all policies, compare them, and write what `_read` reads."""
    p, scores = run.params, _scores(run, said, evaluated_turns)
    by_dialogue = {name: s.dialogues for name, s in scores.items()}
    tables = {name: pd.concat([getattr(s, name).assign(policy=n) for n, s in scores.items()]) for name in FRAMES}
    tables["table"] = metrics.table(by_dialogue, p.bootstrap, p.seed)
    kept = {"made_from": made_from, "ranked_against": tables["table"].attrs.pop("ranked_against")}
    kept["dev"] = _on_dev(run, made_from["stale_on_dev"])
    pairs = [(focus(said), other) for other in said if other != focus(said)]
    if pairs:
        tables["comparisons"] = metrics.compare(by_dialogue, pairs, bootstrap=p.bootstrap, seed=p.seed)
    (run.metrics / "results.json").unlink(missing_ok=True)
    for name, table in tables.items():
        write_table(run.metrics / f"{name}.parquet", table)
    write_json(run.metrics / "results.json", kept)


def _scores(run: RunFolder, said: Predictions, evaluated_turns: Turns | None) -> dict[str, Scores]:
    p, dialogues, references = run.params, run.dialogues(predictions.TEST), run.references(predictions.TEST)
    scores = {}
    for done, (name, lines) in enumerate(said.items(), start=1):
        scores[name] = metrics.score_predictions(
            dialogues, references, lines, p.theta, evaluated_turns=evaluated_turns, price=p.execution_price
        )
        progress.report(run.out, "score", done, len(said), name)
    return scores


def _on_dev(run: RunFolder, stale: Sequence[str]) -> dict[str, float]:
    """Utility on dev of the policies that were asked there, but for the stale ones; none where turns were sampled.

    Of a tuned policy each dialogue's is by a threshold tuned on the others, so that it is no better than it is.
    """
    p, split = run.params, predictions.DEV
    said = {name: lines for name, lines in predictions.read_all(run, split).items() if name not in stale}
    if not said:
        return {}
    corpus, asked = (run.dialogues(split), run.references(split)), EvalSplit(run, split).evaluated_turns
    found = {}
    for name, lines in said.items():
        if (own := untuned(name)) in said:
            found[name] = tuned_on_dev(run, own)
        else:
            table = metrics.evaluate_predictions(*corpus, lines, p.theta, evaluated_turns=asked)
            found[name] = float(utility.utility_at(table, [p.execution_price])[0, 0])
    return {name: value for name, value in found.items() if value == value}


def _read(run: RunFolder, said: Predictions, evaluated_turns: Turns | None) -> EvalResults:
    p, names = run.params, [*FRAMES, "table", *(["comparisons"] if len(said) > 1 else [])]
    tables = {name: pd.read_parquet(run.metrics / f"{name}.parquet") for name in names}
    scores = {}
    for policy in said:
        own = (tables[f][tables[f].policy == policy].drop(columns="policy").reset_index(drop=True) for f in FRAMES)
        scores[policy] = Scores(
            **dict(zip(FRAMES, own, strict=True)), theta=p.theta, values="normalised", price=p.execution_price
        )
    kept = _kept(run)
    return EvalResults(
        said, evaluated_turns, scores, tables["table"], tables.get("comparisons"), kept["ranked_against"], kept["dev"]
    )
