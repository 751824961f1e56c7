"""Two reports side by side: what differs in what was done, and what differs in what came out."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from proactor_lib import metrics
from proactor_lib.artf.training.training_log import read_steps
from proactor_lib.errors import UserError
from proactor_lib.evaluate.results import EvalResults, focus, load_or_score
from proactor_lib.metrics import glossary
from proactor_lib.metrics.intervals import PRIMARY
from proactor_lib.params import Params, hide_keys
from proactor_lib.report import ablation, render, run, training
from proactor_lib.run_folder import RunFolder
from proactor_lib.sweep_folder.store import Store
from proactor_lib.sweep_folder.table import read_definition, table

PAIR = ["key", "metric", "a", "b", "pairs", "difference", "low", "high", "p_holm", "verdict"]
PRICE = ("execution_price",)  # the rule by which utility alone is scored
RULES = ("theta", "evaluation_turns", *PRICE)  # those by which predictions are scored


def compare(a: Path, b: Path) -> Path:
    """Write `comparison.html` into `a`'s folder and return its path. Differences are b - a.

    Raises UserError when the folders are not two runs or two sweeps.
    """
    kinds = [_kind(folder) for folder in (a, b)]
    if kinds[0] != kinds[1]:
        raise UserError(f"{a} is a {kinds[0]} and {b} a {kinds[1]}: two runs can be compared, or two sweeps")
    content = (_runs if kinds[0] == "run" else _sweeps)(a, b)
    title = f"{a.resolve().name} and {b.resolve().name}"
    return render.write(a / "comparison.html", "compare.html.j2", title=title, a=str(a), b=str(b), **content)


def _kind(folder: Path) -> str:
    for kind, file in (("sweep", "sweep.json"), ("run", "params.json")):
        if (folder / file).exists():
            return kind
    raise UserError(f"{folder} is neither a run's folder (params.json) nor a sweep's (sweep.json)")


def differing(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys with another value in b than in a; None where one has none."""
    return {k: (a.get(k), b.get(k)) for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)}


def _other_rules(parameters: dict[str, Any]) -> tuple[str, ...]:
    """Those of RULES that differ."""
    return tuple(rule for rule in RULES if rule in parameters)


def _rules_told(rules: tuple[str, ...]) -> list[str]:
    """A sentence where rules differ."""
    if not rules:
        return []
    what = "utilities" if rules == PRICE else "values"
    return [f"They were scored by other rules ({', '.join(rules)}): {what} stand beside each other, untested."]


def _comparable(metric: str, rules: tuple[str, ...]) -> bool:
    """Whether both have the metric by one rule, where `rules` differ."""
    return not rules or (rules == PRICE and metric.rpartition(".")[2] != PRIMARY)


# ---- two runs


def _runs(a: Path, b: Path) -> dict[str, Any]:
    both = [RunFolder.read(folder) for folder in (a, b)]
    scored = [load_or_score(r) for r in both]
    same = _same_dialogues(*both)
    said = (
        [] if same else ["The held-out dialogues or their references differ: values stand beside each other, untested."]
    )
    origins = [run.read_record(r)["provenance"] for r in both]
    parameters = differing(*(hide_keys(r.params.model_dump(mode="json")) for r in both))
    rules = _other_rules(parameters)
    return {
        "warnings": said + _rules_told(rules), "parameters": parameters,
        "origin": differing(*map(_flat, origins)), "rewards": [_reward(r) for r in both], "gained": training.GAINED,
        "rows": _held_out_rows(*scored, same, rules, both[0].params) if all(scored) else [], "names": glossary.NAMES,
        "dialogues": by_dialogue(*scored) if all(scored) and same and not rules else [],
    }  # fmt: skip


def _same_dialogues(a: RunFolder, b: RunFolder) -> bool:
    """Whether both were judged on the same: the catalog's wording (SGD-X) and what else it holds may differ."""
    return _judged_on(a) == _judged_on(b) != []


def _judged_on(run: RunFolder) -> list[tuple]:
    """What was said, and where the windows lie; nothing where there are no held-out dialogues with references."""
    if not ((run.data / "test.jsonl").exists() and (run.annotations / "test.jsonl").exists()):
        return []
    windows = lambda c: [(r.window, sorted(r.values().values())) for r in c.references]  # noqa: E731
    return [(c.dialogue.id, c.dialogue.turns, windows(c)) for c in run.split("test")]


def _reward(r: RunFolder) -> dict[str, float | str | None]:
    steps = read_steps(r)
    return training.gain(steps, r.params.credit)


def _flat(origin: dict | None) -> dict[str, Any]:
    if origin is None:
        return {}
    return {k: v for k, v in origin.items() if not isinstance(v, dict)} | origin["versions"] | origin["hardware"]


def _held_out_rows(a: EvalResults, b: EvalResults, same: bool, rules: tuple[str, ...], params: Params) -> list[dict]:
    """One row per policy of both runs and a metric; paired over dialogues where these, and the rules, are the same."""
    policies = [p for p in a.scores if p in b.scores]
    paired = _paired_policies(a, b, policies, params) if same and policies else {}
    tested = {key: found for key, found in paired.items() if _comparable(key[1], rules)}
    rows = []
    for policy in policies:
        for metric in metrics.METRICS:
            va, vb = (_value(s.table, policy, metric) for s in (a, b))
            if metric in glossary.TIMED and np.isnan([va, vb]).all():
                continue
            found = tested.get((policy, metric), {"difference": vb - va, "low": None, "high": None, "verdict": ""})
            pairs = a.dialogues * ((policy, metric) in tested)
            rows.append({"key": policy, "metric": metric, "a": va, "b": vb, "p_holm": None, "pairs": pairs} | found)
    return rows


def by_dialogue(a: EvalResults, b: EvalResults) -> list[dict[str, Any]]:
    """A row per dialogue, the best for b first: the utility of each run's policy in focus there, and what it executed.

    Keys: dialogue, difference (b - a), and of both utility, right, wrong (`a_utility`, ...). A dialogue that needs
    nothing has the price of what was executed in it, as others have over their references. Empty where one of the two
    was asked at some turns only: what it executed is not known.
    """
    if any(score.sampled for results in (a, b) for score in results.scores.values()):
        return []
    sides = {}
    for side, results in (("a", a), ("b", b)):
        frame = results.scores[focus(results.scores)].dialogues.set_index("dialogue_id")
        utility = frame.utility / frame.executable.clip(lower=1)
        sides |= {f"{side}_utility": utility, f"{side}_right": frame.right, f"{side}_wrong": frame.wrong}
    table = pd.DataFrame(sides).dropna()
    table = table.assign(difference=table.b_utility - table.a_utility).sort_values("difference", ascending=False)
    return table.rename_axis("dialogue").reset_index().to_dict("records")


def _paired_policies(a, b, policies: list[str], params: Params) -> dict[tuple[str, str], dict]:
    tables = {f"{side}: {p}": s.scores[p].dialogues for side, s in (("a", a), ("b", b)) for p in policies}
    pairs = [(f"b: {p}", f"a: {p}") for p in policies]
    rows = metrics.compare(tables, pairs, bootstrap=params.bootstrap, seed=params.seed).to_dict("records")
    kept = ("difference", "low", "high", "p_holm", "verdict")
    return {(r["a"].removeprefix("b: "), r["metric"]): {k: r[k] for k in kept} for r in rows}


def _value(found: pd.DataFrame, policy: str, metric: str) -> float:
    return float(found[(found.method == policy) & (found.metric == metric)].value.iloc[0])


# ---- two sweeps


def _sweeps(a: Path, b: Path) -> dict[str, Any]:
    stores = [Store(folder) for folder in (a, b)]
    sweeps, tables = [read_definition(s) for s in stores], [table(s) for s in stores]
    keys = list(dict.fromkeys([*tables[0].attrs["parameters"], *tables[1].attrs["parameters"]]))
    shown = ablation.shown_metrics(tables[0], sweeps[0]["headline"], sweeps[0]["show"])
    values = [{c["id"]: c["values"] for c in s["cells"]} for s in sweeps]
    done = [t[t.state == "done"].assign(key=[_key(v[c], keys) for c in t[t.state == "done"].cell])
            for t, v in zip(tables, values, strict=True)]  # fmt: skip
    both = done[0].merge(done[1], on="key", suffixes=(" a", " b")).set_index("key")
    alone = len(done[0]) + len(done[1]) - 2 * len(both)
    said = (
        [f"{alone} cells of the two sweeps have no partner with the same parameters; they are left out."]
        if alone
        else []
    )
    base = [hide_keys(s["cells"][0]["values"]) for s in sweeps]
    parameters = {k: v for k, v in differing(*base).items() if k not in keys}
    rules = _other_rules(parameters)
    return {
        "warnings": said + _rules_told(rules), "parameters": parameters,
        "origin": differing(*(_flat(s["provenance"]) for s in sweeps)), "rewards": [],
        "rows": _sweep_rows(both, [m for m in shown if f"{m} b" in both or m in done[1]], rules), "names": {},
        "dialogues": [],
    }  # fmt: skip


def _key(values: dict, keys: list[str]) -> str:
    return ", ".join(f"{k}={values.get(k)}" for k in keys)


def _sweep_rows(both: pd.DataFrame, shown: list[str], rules: tuple[str, ...] = ()) -> list[dict]:
    """One row per metric: means over the cells that have it in both, their paired difference (`ablation.pairs`), p
    corrected by Holm over these rows; then one row per cell and metric. Metrics that are not by the same rules are not
    tested.
    """
    rows, seeds = [], both.get(f"{ablation.REPLICATE} a")
    for metric in shown:
        a, b = (both[f"{metric} {side}"].astype(float) for side in "ab")
        known = ablation.pairs(b - a, seeds)
        pairs, tested = len(known), ablation.difference(known)
        if not _comparable(metric, rules):
            pairs, tested = 0, (tested[0], np.nan, np.nan, None)
        means = (ablation.pairs(side.where((b - a).notna()), seeds).mean() for side in (a, b))
        rows.append(("all", metric, *means, pairs, *tested))
    tested = ablation.judged(pd.DataFrame(rows, columns=[*PAIR[:8], "p"]))[PAIR].to_dict("records")
    return tested + [_cell_row(key, m, row) for key, row in both.iterrows() for m in shown]


def _cell_row(key: str, metric: str, row: pd.Series) -> dict:
    a, b = float(row[f"{metric} a"]), float(row[f"{metric} b"])
    return dict(zip(PAIR, (key, metric, a, b, 1, b - a, None, None, None, ""), strict=True))
