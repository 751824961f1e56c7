"""Dialogues with references -> groups of outputs -> their scores by a reward."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proactor_lib.agent import Parsed, parse, render
from proactor_lib.artf.training.training_log import SAMPLES, GroupLine, read_groups
from proactor_lib.concurrency import run_async
from proactor_lib.errors import UserError
from proactor_lib.params import Params, validate
from proactor_lib.policies import Policy
from proactor_lib.rewards import REWARDS, Group, make_reward
from proactor_lib.rewards.adaptive_ruler import BASES
from proactor_lib.rewards.params import SERVE
from proactor_lib.rewards.rubric_judge import STAND_IN
from proactor_lib.rewards.schedule import STAGES
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import Case, TurnPrediction

MIDDLE = STAGES["balance"]  # of training
Predictions = dict[str, list[TurnPrediction]]  # by policy; the same turns of the same dialogues in the same order


def predict(cases: Sequence[Case], policies: Mapping[str, Policy], seed: int = 0) -> Predictions:
    """What each policy says at every turn of every case."""
    return {name: [p for c in cases for p in policy(c, seed)] for name, policy in policies.items()}


def policy_groups(cases: Sequence[Case], predictions: Predictions) -> list[Group]:
    """One group per turn, whose K outputs are the policies', through output format and parser as a model's texts go."""
    known = {c.dialogue.id: c for c in cases}
    return [
        _group(known[outputs[0].dialogue_id], outputs[0].turn, tuple(render(o.actions) for o in outputs), MIDDLE)
        for outputs in zip(*predictions.values(), strict=True)
    ]


def sample_groups(samples: Iterable[GroupLine], cases: Iterable[Case], steps: int) -> list[Group]:
    """The groups that a training of `steps` steps drew; UserError for one whose dialogue or turn the data lacks."""
    known = {c.dialogue.id: c for c in cases}
    groups = []
    for s in samples:
        case = known.get(s.dialogue_id)
        if case is None or not 1 <= s.turn <= len(case.dialogue.turns):
            raise UserError(f"a sample is of dialogue {s.dialogue_id!r}, turn {s.turn}, which the data does not have")
        progress = min((s.step - 1) / max(steps - 1, 1), 1.0)  # steps count from 1
        groups.append(_group(case, s.turn, s.texts, progress, s.truncated))
    return groups


def run_groups(run: RunFolder, limit: int) -> list[Group]:
    """At most `limit` groups of a run's training, evenly spaced over it. UserError where it has kept no samples."""
    samples = read_groups(run)
    if not samples:
        raise UserError(f"{run.training / SAMPLES} holds no samples: train first")
    chosen = [samples[i] for i in evenly(len(samples), limit)]
    return sample_groups(chosen, run.split("train"), run.params.max_steps)


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` places of `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(limit, count)).astype(int)).tolist()


def _group(case: Case, turn: int, texts: tuple[str, ...], progress: float, truncated: Sequence[bool] = ()) -> Group:
    """As training scores them: an output that was cut off is unreadable. truncated: none where nobody says."""
    cut = [*truncated, *[False] * (len(texts) - len(truncated))]
    parsed = tuple(Parsed((), unreadable=True) if c else parse(t) for t, c in zip(texts, cut, strict=True))
    return Group(case, turn, texts, parsed, progress)


@dataclass(frozen=True)
class Scored:
    """A reward's values, shape (groups, K), NaN where missing; its counters, and the seconds that it took."""

    values: np.ndarray
    counters: dict[str, float]
    seconds: float


def score(params: Params, groups: Sequence[Group], repeat: int = 0) -> Scored:
    """Score the groups, all of the same K, with the reward that `params` names; another `repeat` asks judges again.

    Judges are as concurrent as the parameters allow. Raises as `make_reward`.
    """
    return run_async(_score(params, groups, repeat))


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
    """The parameters with another reward (and other changes), validated. The lab credits an output at its own turn."""
    return validate({**params.model_dump(), "credit": "turn", "reward": name, **changes}, "the reward lab")


def for_lab(params: Params, folder: Path) -> Params:
    """The parameters with a judge's cache in `folder`, unless they name one: the lab asks the same more than once.

    A judge that a training serves itself is not up here: the programmatic stand-in takes its place, and is named.
    """
    absent = {"judge": "rubric", "judge_url": None} if params.judge_url == SERVE else {}
    return params.model_copy(update={"judge_cache": params.judge_cache or folder, **absent})


def judge_name(params: Params) -> str:
    """Who judges; the programmatic stand-in is called what it is."""
    return STAND_IN if params.judge == "rubric" else params.judge


def variants(params: Params) -> dict[str, Params]:
    """Parameters for each registered reward, and for Adaptive RULER on the other bases that it can have."""
    named = {name: with_reward(params, name) for name in REWARDS}
    others = [base for base in BASES if base != params.ruler_base]
    return named | {f"adaptive_ruler on {b}": with_reward(params, "adaptive_ruler", ruler_base=b) for b in others}


def to_json_values(value: Any) -> Any:
    """JSON values: NaN becomes None."""
    if isinstance(value, dict):
        return {k: to_json_values(v) for k, v in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
