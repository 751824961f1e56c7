"""The reward lab: what each reward pays to policies whose worth is known, before a GPU-week is spent on it [ours].

Fixed policies, or K samples of a real model, are scored turn by turn with every reward: the order of the policies, its
Kendall's tau with opportunity timing, the spread inside groups, the agreement of rewards, a judge's cost and its noise.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel
from scipy.stats import kendalltau

from proactor_lib.agent import parse, render
from proactor_lib.endpoint import in_a_loop_of_its_own
from proactor_lib.errors import BadInput
from proactor_lib.files import read_jsonl
from proactor_lib.metrics.intervals import interval, resamples
from proactor_lib.metrics.scores import score_predictions
from proactor_lib.params import Params, validate
from proactor_lib.policies import POLICIES, STATUS_POLICIES, Policy
from proactor_lib.rewards import REWARDS, Group, make_reward
from proactor_lib.rewards.adaptive_ruler import BASES
from proactor_lib.rewards.rubric_judge import STAND_IN
from proactor_lib.rewards.schedule import STAGES
from proactor_lib.run import Run
from proactor_lib.schema import Catalog, Dialogue, DialogueReferences, ReferenceAction, TurnPrediction

Case = tuple[Dialogue, tuple[ReferenceAction, ...]]
Predictions = dict[str, list[TurnPrediction]]  # by policy; the same turns of the same dialogues in the same order
MIDDLE = "balance"  # the stage in the middle of training

# Where ready equals close, a trigger that is one turn late falls outside the window: lateness cannot show there.
PARTS: dict[str, Callable[[ReferenceAction], bool]] = {
    "all": lambda r: True,
    "ready_before_close": lambda r: r.window.ready < r.window.close,
    "ready_at_close": lambda r: r.window.ready == r.window.close,
}


def cases(dialogues: Iterable[Dialogue], references: Iterable[DialogueReferences]) -> list[Case]:
    """Each dialogue with its references, in the dialogues' order; without a line it has none."""
    known = {r.dialogue_id: r.references for r in references}
    return [(d, known.get(d.id, ())) for d in dialogues]


def part(cases: Iterable[Case], name: str) -> list[Case]:
    """The cases with the references of that part of PARTS only; dialogues that have none of them are left out."""
    kept = [(d, tuple(filter(PARTS[name], references))) for d, references in cases]
    return [(d, references) for d, references in kept if references]


def predict(cases: Sequence[Case], catalog: Catalog, policies: Mapping[str, Policy], seed: int = 0) -> Predictions:
    """What each policy says at every turn of every case."""
    return {name: [p for d, r in cases for p in policy(d, r, catalog, seed)] for name, policy in policies.items()}


def policy_groups(cases: Sequence[Case], catalog: Catalog, predictions: Predictions) -> list[Group]:
    """A group a turn, whose K outputs are the policies', through output format and parser as a model's texts go."""
    known = {d.id: (d, references) for d, references in cases}
    groups = []
    for outputs in zip(*predictions.values(), strict=True):
        dialogue, references = known[outputs[0].dialogue_id]
        texts = tuple(render(o.actions) for o in outputs)
        groups.append(_group(dialogue, outputs[0].turn, references, catalog, texts, STAGES[MIDDLE]))
    return groups


class Sample(BaseModel):
    """A line of training/samples.jsonl; keys that are not used here are let through."""

    step: int
    dialogue_id: str
    turn: int
    texts: tuple[str, ...]


def sample_groups(samples: Iterable[Sample], cases: Iterable[Case], catalog: Catalog, steps: int) -> list[Group]:
    """The groups that a training of `steps` steps drew; BadInput for one whose dialogue or turn the data lacks."""
    known = {d.id: (d, references) for d, references in cases}
    groups = []
    for s in samples:
        dialogue, references = known.get(s.dialogue_id, (None, ()))
        if dialogue is None or not 1 <= s.turn <= len(dialogue.turns):
            raise BadInput(f"a sample is of dialogue {s.dialogue_id!r}, turn {s.turn}, which the data does not have")
        groups.append(_group(dialogue, s.turn, references, catalog, s.texts, min(s.step / max(steps, 1), 1.0)))
    return groups


def run_groups(run: Run, limit: int) -> list[Group]:
    """At most `limit` groups of a run's training, evenly spaced over it. BadInput where it has kept no samples."""
    samples = list(read_jsonl(run.training / "samples.jsonl", Sample))
    if not samples:
        raise BadInput(f"{run.training / 'samples.jsonl'} holds no samples")
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(limit, len(samples))).astype(int))
    known = cases(run.dialogues("train"), run.references("train"))
    return sample_groups([samples[i] for i in chosen], known, run.catalog, run.params.max_steps)


def _group(dialogue, turn, references, catalog, texts: tuple[str, ...], progress: float) -> Group:
    return Group(dialogue, turn, references, catalog, texts, tuple(map(parse, texts)), progress)


# ---- scores


@dataclass(frozen=True)
class Scored:
    """A reward's values, shape (groups, K), NaN where missing; its counters, and the seconds that it took."""

    values: np.ndarray
    counters: dict[str, float]
    seconds: float


def score(params: Params, groups: Sequence[Group], repeat: int = 0) -> Scored:
    """Score the groups, all of the same K, with the reward that `params` names; another `repeat` asks judges anew.

    Judges are as concurrent as the parameters allow. Raises as `make_reward`.
    """
    return in_a_loop_of_its_own(_score(params, groups, repeat))


async def _score(params: Params, groups: Sequence[Group], repeat: int) -> Scored:
    reward = make_reward(params)
    for judge in reward.judges:
        judge.repeat = repeat
    start = time.perf_counter()
    try:
        asks = params.judge != "rubric"  # else nothing waits: no task each
        scores = await asyncio.gather(*map(reward.score, groups)) if asks else [await reward.score(g) for g in groups]
    finally:
        await reward.close()
    values = [[np.nan if s.value is None else s.value for s in group] for group in scores]
    return Scored(np.array(values, dtype=float), reward.counters, time.perf_counter() - start)


def with_reward(params: Params, name: str, **changes: Any) -> Params:
    """The parameters with another reward (and other changes), validated."""
    return validate({**params.model_dump(), "reward": name, **changes}, "the reward lab")


def judge_name(params: Params) -> str:
    """Who judges; the programmatic stand-in is called what it is."""
    return STAND_IN if params.judge == "rubric" else params.judge


def variants(params: Params) -> dict[str, Params]:
    """Parameters for each registered reward, and for Adaptive RULER on the other bases that it can have."""
    named = {name: with_reward(params, name) for name in REWARDS}
    others = [base for base in BASES if base != params.ruler_base]
    return named | {f"adaptive_ruler on {b}": with_reward(params, "adaptive_ruler", ruler_base=b) for b in others}


# ---- the probe

TIMING = "opportunity_timing"  # what rewards are compared with
ALL_POLICIES = POLICIES | STATUS_POLICIES
COLUMNS = ["part", "reward", "stage", "policy", "value", "low", "high"]
Sums = tuple[np.ndarray, np.ndarray]  # per policy and dialogue: what is added up above, and below, the line


def probe(cases: Sequence[Case], catalog: Catalog, params: Params) -> pd.DataFrame:
    """What each policy earns by each reward: columns part, reward, stage, policy, value, low, high.

    Values are means over the turns of a dialogue, then over dialogues; 95% intervals by bootstrap over dialogues. Stage
    `balance` is the middle of training; rewards that move with progress are taken at its start and end too.
    `opportunity_timing` stands beside the rewards to compare with. Raises BadInput where no dialogue has a reference.
    """
    if not part(cases, "all"):
        raise BadInput(f"none of the {len(cases)} dialogues has a reference; the probe needs some")
    rows = []
    for name in PARTS:
        if kept := part(cases, name):
            weights = resamples(len(kept), params.bootstrap, params.seed)
            rows += [
                (name, reward, stage, policy, *_ratio(above, below, weights))
                for (reward, stage), sums in _sums(kept, catalog, params, whole=name == "all").items()
                for policy, above, below in zip(ALL_POLICIES, *sums, strict=True)
            ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _sums(cases: list[Case], catalog: Catalog, params: Params, whole: bool) -> dict[tuple[str, str], Sums]:
    """By reward and stage, for opportunity timing and every reward; `whole`: with all variants and stages."""
    predictions = predict(cases, catalog, ALL_POLICIES, params.seed)
    groups = policy_groups(cases, catalog, predictions)
    lengths = [len(d.turns) for d, _ in cases]
    found = {(TIMING, MIDDLE): _timing_sums(cases, predictions, params.theta)}
    for name, chosen in variants(params).items():
        for stage in _stages(name, chosen) if whole else (MIDDLE,) * (name in REWARDS):
            values = score(chosen, [replace(g, progress=STAGES[stage]) for g in groups]).values
            found[name, stage] = _mean_sums(values, lengths)
    return found


def _stages(name: str, params: Params) -> Sequence[str]:
    """Where a reward is taken: all stages if it moves with progress; a mixture on another base at its full strength."""
    if name not in REWARDS:
        return ("conserve",)
    return tuple(STAGES) if REWARDS[params.reward].staged else (MIDDLE,)


def _timing_sums(cases: list[Case], predictions: Predictions, theta: float) -> Sums:
    references = [DialogueReferences(dialogue_id=d.id, references=r) for d, r in cases]
    tables = [score_predictions([d for d, _ in cases], references, p, theta).dialogues for p in predictions.values()]
    ordered = [t.set_index("dialogue_id").loc[[d.id for d, _ in cases]] for t in tables]
    return np.stack([t.timing for t in ordered]), np.stack([t.references for t in ordered])


def _mean_sums(values: np.ndarray, lengths: Sequence[int]) -> Sums:
    """Each policy's mean value in each dialogue above, ones below; missing scores and empty dialogues are left out."""
    starts = np.cumsum([0, *lengths[:-1]])
    total = np.add.reduceat(np.nan_to_num(values), starts)
    count = np.add.reduceat(~np.isnan(values), starts, dtype=float)
    return (total / np.maximum(count, 1)).T, (count > 0).astype(float).T


def _ratio(above: np.ndarray, below: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Value, low, high; NaN where undefined."""
    sums = weights @ np.column_stack([above, below])
    samples = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    low, high = interval(samples)
    return (above.sum() / below.sum() if below.sum() else np.nan), float(low), float(high)


# ---- what the probe says

ORDER = (("oracle", "oracle_late"), ("oracle_late", "silent"), ("oracle", "everything_ready"))  # better, worse


def means(
    table: pd.DataFrame, part: str = "all", stage: str = MIDDLE, policies: Iterable[str] = POLICIES
) -> pd.DataFrame:
    """Rewards (rows) by policies (columns) of one part and stage of the probe, both in their order."""
    chosen = table[(table.part == part) & (table.stage == stage) & table.policy.isin(list(policies))]
    wide = chosen.pivot(index="reward", columns="policy", values="value")
    return wide.loc[chosen.reward.unique(), chosen.policy.unique()]


def taus(table: pd.DataFrame, part: str = "all") -> dict[str, float | None]:
    """Kendall's tau-b, over the policies, of each reward with opportunity timing; None where it is undefined."""
    wide = means(table, part).round(9)
    found = {reward: kendalltau(wide.loc[reward], wide.loc[TIMING]).statistic for reward in wide.index.drop(TIMING)}
    return {reward: None if np.isnan(tau) else float(tau) for reward, tau in found.items()}


def order(table: pd.DataFrame, part: str = "all", stage: str = MIDDLE) -> pd.DataFrame:
    """Whether each reward puts the better policy of ORDER above the worse: reward, timed, a column a pair, right."""
    wide = means(table, part, stage).drop(index=TIMING, errors="ignore")
    pairs = {f"{better} > {worse}": wide[better] > wide[worse] + 1e-9 for better, worse in ORDER}
    timed = [REWARDS[name.split()[0]].timed for name in wide.index]
    found = pd.DataFrame({"timed": timed} | pairs)
    return found.assign(right=found[list(pairs)].all(axis=1)).reset_index(names="reward")


def probe_summary(table: pd.DataFrame, cases: Sequence[Case], params: Params) -> dict[str, Any]:
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
        "order": order(table).set_index("reward").to_dict("index"),
        "judge": judge_name(params),
        "references": {p: sum(len(r) for _, r in part(cases, p)) for p in PARTS},
        "dialogues": len(cases),
    }


def _named(wide: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    return _plain({r: {p: float(v) for p, v in row.items()} for r, row in wide.iterrows()})


# ---- groups: what a gradient would see

FLAT = 1e-6  # a standard deviation below this is no spread: such a group is not trained


def advantages(values: np.ndarray) -> np.ndarray:
    """(r - mean) / standard deviation inside each group, shape (groups, K): 0 without spread, NaN if missing."""
    centred = values - _rowwise(np.nanmean, values)
    deviation = _rowwise(np.nanstd, values)
    return np.divide(centred, deviation, out=np.where(np.isnan(values), np.nan, 0.0), where=deviation > FLAT)


def _rowwise(function, values: np.ndarray) -> np.ndarray:
    present = ~np.isnan(values).all(axis=1, keepdims=True)
    return function(np.where(present, values, 0.0), axis=1, keepdims=True)


def spread(scored: Mapping[str, Scored]) -> pd.DataFrame:
    """A row a reward: its mean, groups_with_spread (a share: no spread, no gradient), the mean deviation inside groups,
    the share of scores missing, and milliseconds a group.
    """
    rows = []
    for name, s in scored.items():
        deviation = _rowwise(np.nanstd, s.values)[:, 0]
        missing = float(np.isnan(s.values).mean())
        average = float(np.nanmean(s.values)) if missing < 1 else np.nan
        rows.append(
            (name, average, (deviation > FLAT).mean(), deviation.mean(), missing, 1e3 * s.seconds / len(s.values))
        )
    return pd.DataFrame(rows, columns=["reward", "mean", "groups_with_spread", "deviation", "missing", "ms_per_group"])


def agreement(scored: Mapping[str, Scored]) -> pd.DataFrame:
    """How far two rewards push the same way: the cosine, in [-1, 1], of their advantages over all samples.

    Rewards by rewards. A group in which only one of the two has spread lowers it. NaN for a reward without any spread.
    """
    pushed = np.nan_to_num(np.stack([advantages(s.values).ravel() for s in scored.values()]))
    norms = np.linalg.norm(pushed, axis=1)
    scale = np.outer(norms, norms)
    cosine = np.divide(pushed @ pushed.T, scale, out=np.full_like(scale, np.nan), where=scale > 0)
    return pd.DataFrame(cosine, index=list(scored), columns=list(scored))


def judge_cost(scored: Scored) -> dict[str, float]:
    """Calls, tokens, cost and seconds for 1,000 groups, from what scoring these groups took."""
    share = 1000 / len(scored.values)
    counted = {k: scored.counters.get(f"judge_{k}", 0.0) for k in ("calls", "prompt_tokens", "output_tokens", "cost")}
    return {k: v * share for k, v in counted.items()} | {"seconds": scored.seconds * share}


def judge_noise(params: Params, groups: Sequence[Group], repeats: int = 3) -> dict[str, float]:
    """A judge asked again, `repeats` times: how far it contradicts itself. NaN where nothing could be compared.

    `noise`: the mean deviation of an output's value over the repeats; `spread`: the mean deviation inside groups, to
    compare it with; `agreement`: the mean cosine between the repeats' advantages.
    """
    runs = {str(i): score(params, groups, repeat=i) for i in range(repeats)}
    stacked = np.stack([r.values for r in runs.values()])
    both = ~np.isnan(stacked).any(axis=0)
    cosine = agreement(runs).to_numpy()[np.triu_indices(repeats, 1)]
    return {
        "noise": float(stacked.std(axis=0)[both].mean()) if both.any() else np.nan,
        "spread": float(spread(runs).deviation.mean()),
        "agreement": float(cosine.mean()),
    }


@dataclass(frozen=True)
class Examined:
    """What groups say of the rewards: tables of `spread` and `agreement`; cost and noise by reward that asks judges."""

    spread: pd.DataFrame
    agreement: pd.DataFrame
    judge: str
    judge_cost: dict[str, dict[str, float]]
    judge_noise: dict[str, dict[str, float]]

    def summary(self) -> dict[str, Any]:
        """JSON values; what is undefined is null."""
        tables = {"spread": self.spread.set_index("reward").T, "agreement": self.agreement}
        told = {"judge": self.judge, "judge_cost_per_1000_groups": self.judge_cost, "judge_noise": self.judge_noise}
        return _plain({name: table.to_dict() for name, table in tables.items()} | told)


def examine(groups: Sequence[Group], params: Params, repeats: int = 3) -> Examined:
    """Score the groups, all of the same K, with every reward; judges are asked `repeats` times. Raises as `score`."""
    chosen = {name: p for name, p in variants(params).items() if name in REWARDS}
    scored = {name: score(p, groups) for name, p in chosen.items()}
    judged = [name for name, s in scored.items() if "ruler_groups" in s.counters]
    return Examined(
        spread(scored),
        agreement(scored),
        judge_name(params),
        {name: judge_cost(scored[name]) for name in judged},
        {name: judge_noise(chosen[name], groups, repeats) for name in judged},
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
