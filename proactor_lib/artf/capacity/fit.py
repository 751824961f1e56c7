"""A measured run as the simulator sees it: service times and workload from the lines that its steps left."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from proactor_lib import agent, progress
from proactor_lib.artf.capacity.simulate import Plan, simulate
from proactor_lib.artf.capacity.workload import ServiceTimes, Step, Workload
from proactor_lib.artf.training.training_log import METRICS, read_groups, read_steps
from proactor_lib.errors import UserError
from proactor_lib.run_folder import RunFolder

ROUNDS = 4  # of simulating and scaling, until the simulated rollouts take as long as the measured ones


class Measured(NamedTuple):
    """A run as its files tell it."""

    steps: pd.DataFrame  # one row per step: the lines of metrics.jsonl, and `wall_s`
    plan: Plan
    workload: Workload
    service: ServiceTimes


def measured(out: Path | str, first: int = 0, last: int | None = None) -> Measured:
    """Service times and workload of a training run, from its steps number `first` to `last` - 1, as they are counted
    from 0 (None: to the end).

    The steps that are sampled before the first one was trained find a cold server, and are left out where enough others
    are left [ours]. Raises UserError: no such run, or fewer than two steps.
    """
    run = RunFolder.read(Path(out))
    p, every = run.params, run_steps(run)
    steps = every.iloc[first:last]
    cold = max(0, 1 + p.max_staleness - first)
    steps = steps.iloc[cold:] if len(steps) >= cold + 4 else steps
    if len(steps) < 2:
        raise UserError(f"{run.training / METRICS} has {len(steps)} steps, at least 2 are needed: train first")
    turns = p.turns_per_dialogue or max(1, round(float(every.groups.median()) / p.dialogues_per_step))
    plan, workload = Plan(p.servers, 1, p.max_staleness), _workload(run, steps, turns)
    times = fit(steps, workload, p.name, p.max_num_seqs)
    return Measured(steps, plan, workload, calibrated(times, workload, plan, float(steps.rollout_s.mean())))


def calibrated(times: ServiceTimes, workload: Workload, plan: Plan, rollout_s: float) -> ServiceTimes:
    """Servers' times scaled until the plan's simulated rollouts take `rollout_s` seconds a step."""
    for _ in range(ROUNDS):
        ratio = rollout_s / simulate(times, workload, plan, len(workload.seen)).rollout_s
        scaled = {
            name: getattr(times, name) * ratio for name in ("prefill_s", "decode_step_s", "decode_s", "request_s")
        }
        times = times.model_copy(update=scaled)
    return times


def run_steps(run: RunFolder) -> pd.DataFrame:
    """metrics.jsonl with `wall_s`: from the step before to this one, NaN for the first of each start."""
    steps = read_steps(run)
    if len(steps) == 0:
        return steps
    events, walls = progress.read(run.out), {}
    for before, now in zip(events, events[1:], strict=False):
        if (before.stage, now.stage) == ("grpo", "grpo") and now.done == before.done + 1:
            walls[int(now.done)] = now.time - before.time
    return steps.assign(wall_s=steps.step.map(walls).astype(float))


def fit(steps: pd.DataFrame, workload: Workload, name: str, slots: int = 64) -> ServiceTimes:
    """Service times from a run's steps: least squares, none below zero, so that the means are met.

    One run tells the rollouts' fixed part only as a whole: a prompt token is taken to cost a third of a trained one
    (forward without backward), the rest goes to the iterations: as many as an output may have tokens, over again for
    each round of slots [ours]. `calibrated` makes good what that misses.
    """
    rounds = np.array([step.rounds for step in workload.seen])
    fixed, decode = _fit(steps.rollout_s, rounds, steps.output_tokens)
    row, train = _fit(steps.train_s, np.ones(len(steps)), steps.tokens_packed)
    rows = workload.dialogues * len(workload.rows())
    prompt = workload.dialogues * workload.prompt_tokens
    prefill = min(train / 3, fixed / prompt)
    full = math.ceil(workload.dialogues * workload.turns * workload.k / slots)
    step, record = _outside(steps)
    return ServiceTimes(
        name=name,
        source="measured",
        prefill_s=prefill,
        decode_step_s=(fixed - prefill * prompt) / (workload.max_output * full),
        decode_s=decode,
        train_s=train,
        row_s=row / rows,
        step_s=step,
        record_s=record,
        sync_s=_sync(steps),
        slots=slots,
    )


def _outside(steps: pd.DataFrame) -> tuple[float, float]:
    """What a step takes besides waiting, training and sync: before the sync, and after it, beside the next rollouts.

    Where no sample is stale a step begins with its rollouts, so that the second part hides in them.
    """
    apart = steps.train_s + steps.sync_s
    outside = _mean(steps.wall_s - steps.rollout_wait_s - apart)
    before = _mean(steps.wall_s - steps.rollout_s - apart) if (steps.staleness == 0).all() else outside
    return min(before, outside), max(0.0, outside - before)


def _sync(steps: pd.DataFrame) -> float:
    """What a sync takes that waits for nobody. Beside rollouts it may wait for them, which the simulator adds itself:
    then the lower quartile [ours]."""
    return float(steps.sync_s.mean() if (steps.staleness == 0).all() else steps.sync_s.quantile(0.25))


def _mean(seconds: pd.Series) -> float:
    return max(0.0, float(np.nan_to_num(seconds.mean())))


def _fit(seconds: pd.Series, *causes: np.ndarray | pd.Series) -> list[float]:
    """What one of each cause takes: least squares, none below zero, scaled so that the sum is met."""
    from scipy.optimize import nnls

    table = np.column_stack([np.asarray(c, float) for c in causes])
    scale = table.mean(axis=0)
    found = nnls(table / scale, seconds.to_numpy(float))[0] / scale
    total = float((table @ found).sum())
    return (found * (seconds.sum() / total if total else 1.0)).tolist()


def _workload(run: RunFolder, steps: pd.DataFrame, turns: int) -> Workload:
    """The mean step, and all of them. Where the head ends in a prompt is told by its share of the characters."""
    p = run.params
    rounds = (steps.groups / (turns * p.dialogues_per_step)).round().clip(lower=1).astype(int)
    trained = steps.groups - steps.groups_skipped
    samples = trained.where(trained > 0, 1) * p.num_generations  # a step without variance trains one group
    sampled = steps.outputs_sampled.fillna(steps.outputs) if "outputs_sampled" in steps else steps.outputs
    output = steps.output_tokens / sampled
    mean_prompt = float((steps.tokens_padded / samples - output).mean())
    share = _head_share(run)
    whole = mean_prompt / (share + (1 - share) / 2)
    mean_output = float(steps.output_tokens.sum() / sampled.sum())
    return Workload(
        dialogues=p.dialogues_per_step,
        turns=turns,
        k=p.num_generations,
        head_tokens=whole * share,
        prompt_tokens=whole * (share + (1 - share) * turns / (turns + 1)),
        output_tokens=mean_output,
        output_sd=mean_output * _variation(run),
        max_output=p.max_completion_tokens,
        token_budget=p.token_budget,
        seen=tuple(Step(*each) for each in zip(rounds.tolist(), output, steps.tokens_packed, strict=True)),
    )


def _head_share(run: RunFolder) -> float:
    shares = []
    for case in run.split("train")[:20]:
        head = len(agent.system_text(case.catalog))
        shares.append(head / (head + len(agent.transcript(case.dialogue, len(case.dialogue.turns)))))
    return float(np.mean(shares))


def _variation(run: RunFolder) -> float:
    """Standard deviation over mean of the outputs' lengths, in characters; 0.5 where no samples were kept."""
    lengths = [len(text) for group in read_groups(run) for text in group.texts]
    return float(np.std(lengths) / np.mean(lengths)) if lengths and any(lengths) else 0.5
