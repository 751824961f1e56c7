"""The probe: what fixed policies, whose worth is known, earn by each reward."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from proactor_lib.errors import UserError
from proactor_lib.metrics import is_due, statistics
from proactor_lib.metrics.scores import score_predictions
from proactor_lib.params import Params
from proactor_lib.policies import GAMING_POLICIES, POLICIES, STATUS_POLICIES
from proactor_lib.reward_lab.break_even import break_even
from proactor_lib.reward_lab.scoring import (
    Predictions,
    Scored,
    evenly,
    judge_name,
    policy_groups,
    predict,
    score,
    to_json_values,
    variants,
)
from proactor_lib.rewards import REWARDS, Group
from proactor_lib.rewards.outputs import needs
from proactor_lib.rewards.schedule import STAGES
from proactor_lib.schema import Case, ReferenceAction

MIDDLE = "balance"  # the stage in the middle of training
TIMING = "opportunity_timing"  # what rewards are compared with
ALL_POLICIES = POLICIES | STATUS_POLICIES | GAMING_POLICIES
COLUMNS = ["part", "reward", "stage", "policy", "value", "low", "high"]
Sums = tuple[np.ndarray, np.ndarray]  # per policy and dialogue: what is added up above, and below, the line

# Where ready equals close, a trigger that is one turn late falls outside the window: lateness cannot show there.
PARTS: dict[str, Callable[[ReferenceAction], bool]] = {
    "all": lambda r: True,
    "ready_before_close": lambda r: r.window.ready < r.window.close,
    "ready_at_close": lambda r: r.window.ready == r.window.close,
}


def part(cases: Iterable[Case], name: str) -> list[Case]:
    """The cases with the references of that part of PARTS only; dialogues that have none of them are left out."""
    kept = [replace(c, references=tuple(filter(PARTS[name], c.references))) for c in cases]
    return [c for c in kept if c.references]


def table(cases: Sequence[Case], params: Params) -> pd.DataFrame:
    """What each policy earns by each reward: columns part, reward, stage, policy, value, low, high.

    Values are means over the turns of a dialogue, then over dialogues; 95% intervals by bootstrap over dialogues. Stage
    `balance` is the middle of training; rewards that move with progress are taken at its start and end too.
    What no judge scored is counted in the table's attribute `unscored`, by reward, with the reasons.
    `opportunity_timing` stands beside the rewards to compare with. Raises UserError where no dialogue has a reference.
    """
    _some(cases)
    rows, unscored = [], {}
    for name in PARTS:
        if kept := part(cases, name):
            whole = name == "all"
            rows += [
                (name, reward, stage, policy, *figures)
                for (reward, stage), sums in _sums(kept, params, whole, unscored if whole else {}).items()
                for policy, *figures in zip(ALL_POLICIES, *_ratios(*sums, params), strict=True)
            ]
    found = pd.DataFrame(rows, columns=COLUMNS)
    found.attrs["unscored"] = unscored
    return found


def _some(cases: Sequence[Case]) -> list[Case]:
    """The dialogues that have references; UserError if none has."""
    if not (kept := part(cases, "all")):
        raise UserError(f"none of the {len(cases)} dialogues has a reference; the probe needs some")
    return kept


def _sums(cases: list[Case], params: Params, whole: bool, unscored: dict[str, dict]) -> dict[tuple[str, str], Sums]:
    """By reward and stage, for opportunity timing and every reward; `whole`: with all variants and stages.

    What has no score is counted in `unscored`.
    """
    predictions = predict(cases, ALL_POLICIES, params.seed)
    groups = policy_groups(cases, predictions)
    lengths = [len(c.dialogue.turns) for c in cases]
    found = {(TIMING, MIDDLE): _timing_sums(cases, predictions, params.theta)}
    for name, chosen in variants(params).items():
        for stage in _stages(name, chosen) if whole else (MIDDLE,) * (name in REWARDS):
            scored = score(chosen, [replace(g, progress=STAGES[stage]) for g in groups])
            found[name, stage] = _mean_sums(scored.values, lengths)
            if missing := int(np.isnan(scored.values).sum()):
                _count(unscored.setdefault(name, {}), missing, scored)
    return found


def _count(sums: dict[str, int], missing: int, scored: Scored) -> None:
    """Add up `missing` outputs of all, and why: the judge's faults and failures by kind."""
    why = {m[1]: int(v) for k, v in scored.counters.items() if (m := re.match(r"judge_(?:fault|failed)_(.*)", k))}
    for key, count in {"missing": missing, "outputs": scored.values.size, **why}.items():
        sums[key] = sums.get(key, 0) + count


def _stages(name: str, params: Params) -> Sequence[str]:
    """Where a reward is taken: all stages if it moves with progress; a mixture on another base at its full strength."""
    if name not in REWARDS:
        return ("conserve",)
    return tuple(STAGES) if REWARDS[params.reward].staged else (MIDDLE,)


def _timing_sums(cases: list[Case], predictions: Predictions, theta: float) -> Sums:
    dialogues, references, ids = [c.dialogue for c in cases], [c.line for c in cases], [c.dialogue.id for c in cases]
    tables = [score_predictions(dialogues, references, p, theta).references for p in predictions.values()]
    timings = [t.groupby("dialogue_id").timing for t in tables]
    return np.stack([t.sum()[ids] for t in timings]), np.stack([t.size()[ids] for t in timings])


def _mean_sums(values: np.ndarray, lengths: Sequence[int]) -> Sums:
    """Each policy's mean value in each dialogue above, ones below; missing scores and empty dialogues are left out."""
    starts = np.cumsum([0, *lengths[:-1]])
    total = np.add.reduceat(np.nan_to_num(values), starts)
    count = np.add.reduceat(~np.isnan(values), starts, dtype=float)
    return (total / np.maximum(count, 1)).T, (count > 0).astype(float).T


def _ratios(above: np.ndarray, below: np.ndarray, params: Params) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, low, high by row of `above` and `below` (rows, dialogues); NaN where undefined."""

    def ratios(weights: np.ndarray) -> np.ndarray:
        sums, counts = weights @ above.T, weights @ below.T
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)

    return statistics.bootstrap(ratios, above.shape[1], params.bootstrap, params.seed)[:3]


def fixed_groups(cases: Sequence[Case], params: Params, limit: int) -> list[Group]:
    """At most `limit` groups of the fixed policies' outputs, evenly spaced over the cases' turns."""
    groups = policy_groups(cases, predict(cases, POLICIES, params.seed))
    return [groups[i] for i in evenly(len(groups), limit)]


# What a reward should tell apart: the better policy first.
MARGINS = {
    "punctual": ("oracle", "oracle_late"),
    "speaking": ("oracle_late", "silent"),
    "restraint": ("oracle", "everything_ready"),
    "triggering": ("oracle", "never_ready"),
    "patience": ("oracle", "always_ready"),
}
ORDER = tuple(MARGINS[name] for name in ("punctual", "speaking", "restraint"))  # what a reward of timing must hold


def means(
    table: pd.DataFrame, part: str = "all", stage: str = MIDDLE, policies: Iterable[str] = POLICIES
) -> pd.DataFrame:
    """Rewards (rows) by policies (columns) of one part and stage of the probe, both in their order."""
    chosen = table[(table.part == part) & (table.stage == stage) & table.policy.isin(list(policies))]
    wide = chosen.pivot(index="reward", columns="policy", values="value")
    return wide.loc[chosen.reward.unique(), chosen.policy.unique()]


def stages(table: pd.DataFrame) -> pd.DataFrame:
    """The rewards that move with progress, at each stage (rows: reward, stage), by all policies (columns)."""
    staged = [r for r in table.reward.unique() if r != TIMING and REWARDS[r.split()[0]].staged]
    rows = {(r, s): means(table, stage=s, policies=ALL_POLICIES).reindex([r]).squeeze() for r in staged for s in STAGES}
    return pd.DataFrame(rows).T.dropna(how="all")


def gaming(table: pd.DataFrame) -> pd.DataFrame:
    """What each reward pays, at each stage (rows: reward, stage), to the oracle and to those who look for loopholes."""
    rows = table[(table.part == "all") & (table.reward != TIMING) & table.policy.isin(["oracle", *GAMING_POLICIES])]
    wide = rows.pivot(index=["reward", "stage"], columns="policy", values="value")
    order = rows[["reward", "stage"]].drop_duplicates().itertuples(index=False, name=None)
    return wide.loc[list(order), ["oracle", *GAMING_POLICIES]]


def gamed(table: pd.DataFrame, cases: Sequence[Case]) -> dict[str, list[str]]:
    """By reward: the policies of GAMING_POLICIES that it pays as much as the oracle, at any stage; rewards without one
    are left out. Where no turn has two due references `one_of_two` is the oracle, and not asked about.
    """
    told = gaming(table)
    asked = [p for p in GAMING_POLICIES if p != "one_of_two" or several_due(cases)]
    as_much = {p: told[p] > told.oracle - 1e-9 for p in asked}
    found = {r: [p for p in asked if as_much[p][r].any()] for r in told.index.get_level_values(0).unique()}
    return {reward: policies for reward, policies in found.items() if policies}


def several_due(cases: Iterable[Case]) -> int:
    """At how many turns of the cases two or more needs are due: an output can name each."""
    turns = ((t, c.references) for c in cases for t in range(1, len(c.dialogue.turns) + 1))
    return sum(len(needs([r for r in references if is_due(r, t)], t)) > 1 for t, references in turns)


def break_evens(params: Params) -> dict[str, dict[str, float | str | None]]:
    """The break-even of each reward (adaptive RULER on its other bases too) by stage; see `break_even`."""
    return {
        name: {stage: break_even(chosen, STAGES[stage]) for stage in _stages(name, chosen)}
        for name, chosen in variants(params).items()
    }


def taus(table: pd.DataFrame, part: str = "all") -> dict[str, float | None]:
    """Kendall's tau-b, over the policies, of each reward with opportunity timing; None where it is undefined."""
    wide = means(table, part).round(9)
    found = {reward: kendalltau(wide.loc[reward], wide.loc[TIMING]).statistic for reward in wide.index.drop(TIMING)}
    return {reward: None if np.isnan(tau) else float(tau) for reward, tau in found.items()}


def order(table: pd.DataFrame, part: str = "all", stage: str = MIDDLE) -> pd.DataFrame:
    """Whether each reward puts the better policy of ORDER above the worse: reward, timed, a column per pair, right.

    None where a value is undefined.
    """
    wide = means(table, part, stage).drop(index=TIMING, errors="ignore")
    pairs = {f"{better} > {worse}": _above(wide[better], wide[worse]) for better, worse in ORDER}
    timed = [REWARDS[name.split()[0]].timed for name in wide.index]
    found = pd.DataFrame({"timed": timed} | pairs, index=wide.index)
    right = [False if False in row else None if None in row else True for row in zip(*pairs.values(), strict=True)]
    return found.assign(right=right).reset_index(names="reward")


def _above(better: pd.Series, worse: pd.Series) -> list[bool | None]:
    pairs = zip(better, worse, strict=True)
    return [None if np.isnan(b) or np.isnan(w) else bool(b > w + 1e-9) for b, w in pairs]


def summary(table: pd.DataFrame, cases: Sequence[Case], params: Params) -> dict[str, Any]:
    """The probe as JSON values: `rewards`, `tau`, then what is shown apart, the order's check, and what judged."""
    parts = [p for p in PARTS if p in set(table.part)]
    staged = {s: _named(means(table, stage=s)) for s in STAGES}
    return {
        "rewards": {r: v for r, v in _named(means(table)).items() if r in REWARDS},
        "tau": {r: tau for r, tau in taus(table).items() if r in REWARDS},
        TIMING: _named(means(table))[TIMING],
        "apart": {p: {"rewards": _named(means(table, p)), "tau": taus(table, p)} for p in parts if p != "all"},
        "status": _named(means(table, policies=["oracle", *STATUS_POLICIES])),
        "stages": {r: {s: v[r] for s, v in staged.items() if r in v} for r in staged["conserve"]},
        "gaming": {r: _named(g.droplevel(0)) for r, g in gaming(table).groupby(level=0, sort=False)},
        "gamed": gamed(table, cases),
        "several_due_turns": several_due(cases),
        "break_even": break_evens(params),
        "order": order(table).set_index("reward").to_dict("index"),
        "unscored": table.attrs.get("unscored", {}),
        "judge": judge_name(params),
        "references": {p: sum(len(c.references) for c in part(cases, p)) for p in PARTS},
        "dialogues": len(cases),
    }


def margins(cases: Sequence[Case], params: Params) -> dict[str, dict[str, float]]:
    """How far the reward that `params` names puts the better policy of each pair of MARGINS above the worse.

    Value, low and high of the difference, paired over dialogues, in the middle of training. Raises as `table`.
    """
    kept = _some(cases)
    groups = policy_groups(kept, predict(kept, ALL_POLICIES, params.seed))
    sums, counted = _mean_sums(score(params, groups).values, [len(c.dialogue.turns) for c in kept])
    place = {name: k for k, name in enumerate(ALL_POLICIES)}
    found = {}
    for name, (better, worse) in MARGINS.items():
        both = counted[place[better]] * counted[place[worse]]
        differences = (sums[place[better]] - sums[place[worse]]) * both
        figures = _ratios(differences[None], both[None], params)
        found[name] = {key: float(x[0]) for key, x in zip(("value", "low", "high"), figures, strict=True)}
    return to_json_values(found)


def _named(wide: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    return to_json_values({r: {p: float(v) for p, v in row.items()} for r, row in wide.iterrows()})
