"""What groups say of the rewards: is there a gradient, do rewards agree, what does a judge cost, how sure is it?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from proactor_lib.artf.training.training_log import read_groups
from proactor_lib.params import Params
from proactor_lib.reward_lab.scoring import Scored, judge_name, score, to_json_values, variants
from proactor_lib.rewards import REWARDS, Group
from proactor_lib.run_folder import RunFolder

FLAT = 1e-6  # a standard deviation below this is no spread: such a group is not trained


def components(run: RunFolder) -> pd.DataFrame:
    """What a training's reward was made of: `step`, and each component's mean over that step's outputs that have it.

    No row where the run kept no samples.
    """
    rows = [{"step": s.step, **c} for s in read_groups(run) for c in s.components]
    return pd.DataFrame(rows, columns=None if rows else ["step"]).groupby("step").mean().reset_index()


def advantages(values: np.ndarray) -> np.ndarray:
    """(r - mean) / standard deviation inside each group, shape (groups, K): 0 without spread, NaN if missing."""
    centred = values - _rowwise(np.nanmean, values)
    deviation = _rowwise(np.nanstd, values)
    return np.divide(centred, deviation, out=np.where(np.isnan(values), np.nan, 0.0), where=deviation > FLAT)


def _rowwise(function, values: np.ndarray) -> np.ndarray:
    present = ~np.isnan(values).all(axis=1, keepdims=True)
    return function(np.where(present, values, 0.0), axis=1, keepdims=True)


def spread(scored: Mapping[str, Scored]) -> pd.DataFrame:
    """One row per reward: its mean, groups_with_spread (a share: no spread, no gradient), the mean deviation inside
    groups, the share of scores missing, and milliseconds per group.
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
    """Calls, tokens, cost and seconds for 1,000 groups, from what scoring these groups took.

    NaN where a cache answered some of it: then nobody knows what that took.
    """
    share = np.nan if scored.counters.get("judge_cached") else 1000 / len(scored.values)
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

    def of(self, reward: str) -> dict[str, Any]:
        """JSON values of one reward: its row of `spread`, and its judge's cost and noise where it asks one."""
        row = self.spread.set_index("reward").loc[reward].drop("ms_per_group").to_dict()
        told = {"cost_per_1000_groups": self.judge_cost, "noise": self.judge_noise}
        return to_json_values(
            row | {name: by_reward[reward] for name, by_reward in told.items() if reward in by_reward}
        )

    def summary(self) -> dict[str, Any]:
        """JSON values; what is undefined is null."""
        tables = {"spread": self.spread.set_index("reward").T, "agreement": self.agreement}
        told = {"judge": self.judge, "judge_cost_per_1000_groups": self.judge_cost, "judge_noise": self.judge_noise}
        return to_json_values({name: table.to_dict() for name, table in tables.items()} | told)


def examine(groups: Sequence[Group], params: Params, repeats: int = 3) -> Examined:
    """Score the groups, all of the same K, with every reward; judges are asked `repeats` times. Raises as `score`."""
    chosen = {name: p for name, p in variants(params).items() if name in REWARDS}
    scored = {name: score(p, [replace(g, shared={}) for g in groups]) for name, p in chosen.items()}  # each in full
    judged = [name for name, s in scored.items() if "ruler_groups" in s.counters]
    return Examined(
        spread(scored),
        agreement(scored),
        judge_name(params),
        {name: judge_cost(scored[name]) for name in judged},
        {name: judge_noise(chosen[name], groups, repeats) for name in judged},
    )
