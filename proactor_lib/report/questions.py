"""The ablation: what trainings with different rewards say to the paper's three questions, with paired intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from proactor_lib import metrics
from proactor_lib.evaluate.results import load_or_score
from proactor_lib.metrics.statistics import paired_interval
from proactor_lib.params import Params, validate
from proactor_lib.reward_lab.scoring import judge_name
from proactor_lib.run_folder import RunFolder
from proactor_lib.sweep_folder.store import Store
from proactor_lib.sweep_folder.table import read_definition, table

if TYPE_CHECKING:
    from proactor_lib.metrics.scores import DialogueTable


class Contrast(NamedTuple):
    """Two rewards compared on one metric, and what the paper's findings let one expect of a - b."""

    question: str
    a: str
    b: str
    metric: str
    paper: str  # higher or lower [paper]


CONSERVATIVE, TIMING, BALANCE = (
    "Do consistency-only rewards grow conservative?",
    "Do proactiveness rubrics move timing?",
    "Do stage-aware mixtures balance the two?",
)
MIXTURES = ("adaptive_ruler on rac", "adaptive_ruler on adaptive_metric", "adaptive_metric")
CONTRASTS = (
    *(Contrast(CONSERVATIVE, a, "custom_ruler", "rar", "lower") for a in ("rac", "max_rac")),
    *(Contrast(CONSERVATIVE, a, "custom_ruler", "missed", "higher") for a in ("rac", "max_rac")),
    *(Contrast(TIMING, "custom_ruler", "rac", m, "higher") for m in ("pt", "opportunity_timing")),
    Contrast(TIMING, "custom_ruler", "general_ruler", "opportunity_timing", "higher"),
    *(Contrast(BALANCE, a, "rac", "opportunity_timing", "higher") for a in MIXTURES),
    *(Contrast(BALANCE, a, "custom_ruler", "ac", "higher") for a in MIXTURES),
)


COLUMNS = [*Contrast._fields, "over", "units", "difference", "low", "high", "verdict"]
NOTHING = (0, np.nan, np.nan, np.nan)  # units, difference, low, high


def full_name(reward: str, base: str) -> str:
    """The reward's name in contrasts: Adaptive RULER is one reward for each metric that it stands on."""
    return f"{reward} on {base}" if reward == "adaptive_ruler" else reward


def answers(table: pd.DataFrame, policy: str = "trained", contrasts: Sequence[Contrast] = CONTRASTS) -> pd.DataFrame:
    """One row per contrast: question, a, b, metric, paper, over, units, difference, low, high, verdict.

    `table`: a sweep's, one row per cell, with columns state, reward, seed, ruler_base (where Adaptive RULER is among
    the rewards: it counts as `adaptive_ruler on <base>`) and `held_out.<policy>.<metric>`. Differences a - b of cells
    that agree in all else are averaged within a seed, and have the 95% interval of Student's t over seeds (`units` of
    them). Verdicts: `as in the paper`, `against the paper`, `cannot be told` (the interval holds 0, or fewer than two
    seeds), `not measured`.
    """
    done = table[table.state == "done"]
    bases = done.ruler_base.astype(str) if "ruler_base" in done else [""] * len(done)
    done = done.assign(reward=list(map(full_name, done.reward, bases)))
    return _table("seeds", [(c, _over_seeds(done, c, f"held_out.{policy}.{c.metric}")) for c in contrasts])


def _table(over: str, found: Sequence[tuple[Contrast, tuple]]) -> pd.DataFrame:
    rows = [(*c, over, *figures, _verdict(*figures, c.paper)) for c, figures in found]
    return pd.DataFrame(rows, columns=COLUMNS)


def _over_seeds(done: pd.DataFrame, contrast: Contrast, column: str) -> tuple[int, float, float, float]:
    if column not in done:
        return NOTHING
    others = [p for p in done.attrs.get("parameters", ()) if p not in ("seed", "reward", "ruler_base")]
    by_reward = done.groupby(["seed", *others, "reward"])[column].mean().unstack()
    paired = by_reward.reindex(columns=[contrast.a, contrast.b]).dropna()
    differences = (paired[contrast.a] - paired[contrast.b]).groupby("seed").mean().to_numpy(float)
    if not len(differences):
        return NOTHING
    return len(differences), float(differences.mean()), *paired_interval(differences)


def _verdict(units: int, difference: float, low: float, high: float, paper: str) -> str:
    if units == 0 or np.isnan(difference):
        return "not measured"
    if not (low > 0 or high < 0):
        return "cannot be told"
    return "as in the paper" if (difference > 0) == (paper == "higher") else "against the paper"


def on_dialogues(
    tables: Mapping[str, "DialogueTable"], contrasts: Sequence[Contrast] = CONTRASTS, bootstrap: int = 2000
) -> pd.DataFrame:
    """As `answers`, of these very policies: differences paired over held-out dialogues, intervals by bootstrap.

    `tables`: by reward, as of `trained`; two are compared on the dialogues that both have (`left_out` says which lack
    some). It says nothing of what other seeds would have trained.
    """
    pairs = {(c.a, c.b): {name: tables[name] for name in (c.a, c.b) if name in tables} for c in contrasts}
    compared = {pair: _compared(own, bootstrap) for pair, own in pairs.items()}
    return _table("dialogues", [(c, compared[c.a, c.b].get(c.metric, NOTHING)) for c in contrasts])


def _compared(pair: Mapping[str, "DialogueTable"], bootstrap: int) -> dict[str, tuple[int, float, float, float]]:
    """By metric: dialogues that both have, and the difference there with its interval; empty without any."""
    both = set.intersection(*(set(t.dialogue_id) for t in pair.values())) if len(pair) == 2 else set()
    if not both:
        return {}
    rows = metrics.compare({name: t[t.dialogue_id.isin(both)] for name, t in pair.items()}, bootstrap=bootstrap)
    return {r.metric: (len(both), r.difference, r.low, r.high) for r in rows.itertuples()}


def left_out(tables: Mapping[str, "DialogueTable"]) -> list[str]:
    """Which rewards lack dialogues that others have, in a sentence; none where all have the same."""
    asked = {name: set(t.dialogue_id) for name, t in tables.items()}
    whole = set().union(*asked.values())
    lacking = [f"{name} lacks {len(whole - own)}" for name, own in asked.items() if own != whole]
    if not lacking:
        return []
    return [f"Of {len(whole)} dialogues {', '.join(lacking)}: two rewards are compared on those that both have."]


def trained(folder: Path | str, policy: str = "trained") -> dict[str, "DialogueTable"]:
    """By reward: the policy's held-out dialogues in all cells that are done, those of different cells told apart.

    Of cells that differ in nothing but a `ruler_base` which their reward does not use, the first counts.
    """
    found: dict[str, list] = {}
    for cell in read_definition(store := Store(folder))["cells"]:
        if (store.read(store.cell(cell["id"])) or {}).get("state") != "done":
            continue
        run = RunFolder(_params(cell), store.local(store.cell(cell["id"], "")))
        rows = load_or_score(run).scores[policy].dialogues
        name = full_name(run.params.reward, run.params.ruler_base)
        others = {k: v for k, v in cell["point"].items() if k not in ("reward", "ruler_base")}
        found.setdefault(name, []).append(rows.assign(dialogue_id=f"{others} " + rows.dialogue_id))
    return {name: pd.concat(parts, ignore_index=True).drop_duplicates("dialogue_id") for name, parts in found.items()}


def _params(cell: Mapping[str, Any]) -> Params:
    return validate({k: v for k, v in cell["values"].items() if k in Params.model_fields}, f"cell {cell['id']}")


def cells(folder: Path | str) -> pd.DataFrame:
    """The sweep's table, with the metric that a cell's Adaptive RULER stands on also where all have the same."""
    store = Store(folder)
    found, planned = table(store), read_definition(store)["cells"]
    if "ruler_base" not in found:
        found["ruler_base"] = [cell["values"].get("ruler_base") for cell in planned]
    return found


def answers_of(folder: Path | str) -> pd.DataFrame | str:
    """`answers` of a sweep's folder, then `on_dialogues`, and `left_out` in attrs; a sentence where it has not run."""
    if not (Path(folder) / "sweep.json").exists():
        there = Path(folder).resolve()
        return f"no training ablation in {there} yet: `proactor sweep run params/sweeps/rewards.yaml --out {there}`"
    tables = trained(folder)
    found = pd.concat([answers(cells(folder)), on_dialogues(tables)], ignore_index=True)
    found.attrs["left_out"] = left_out(tables)
    return found


def conclusions(answers: pd.DataFrame) -> list[str]:
    """Of `answers_of`: each question answered over seeds, then over dialogues, in a sentence, and what was left out."""
    said = []
    for (over, question), rows in answers.groupby(["over", "question"], sort=False):
        measured = rows[rows.verdict != "not measured"]
        counts = [f"{n} {verdict}" for verdict, n in measured.verdict.value_counts().items()]
        units = " to ".join(map(str, sorted({measured.units.min(), measured.units.max()}))) if len(measured) else "no"
        said.append(f"{question} Over {units} {over}: {', '.join(counts) or 'not measured'}.")
    return [*said, *answers.attrs.get("left_out", [])]


def limits(folder: Path | str) -> str:
    """What a reader must know before believing the answers: who was trained here, for how long, judged by whom."""
    p = _params(read_definition(Store(folder))["cells"][0])
    return (
        f"Trained here: {p.model}, {p.max_steps} steps of {p.dialogues_per_step} dialogues, out of {p.train_dialogues};"
        f" RULER's judge: {judge_name(p)}. The paper trained a 14B model for days: what cannot be told here is not"
        " refuted, and what is told holds for this model and these dialogues."
    )
