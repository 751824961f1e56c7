"""A measured run as the simulator sees it: service times and workload from the lines that its steps left."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from proactor_lib import agent, progress
from proactor_lib.artf.service import ServiceTimes, Workload
from proactor_lib.artf.simulate import Plan, simulate
from proactor_lib.errors import BadInput
from proactor_lib.files import read_json
from proactor_lib.params import Params
from proactor_lib.report.training import read_steps
from proactor_lib.run import Run

ROUNDS = 4  # of simulating and scaling, until the simulated rollouts take as long as the measured ones


class Measured(NamedTuple):
    """A run as its files tell it."""

    steps: pd.DataFrame  # a row a step: the lines of metrics.jsonl, and `wall_s`
    plan: Plan
    workload: Workload
    service: ServiceTimes


def measured(out: Path | str, last: int | None = None) -> Measured:
    """Service times and workload of a training run, from its steps up to `last` (None: all).

    Raises BadInput: no such run, or fewer than two steps.
    """
    run = Run(read_json(Path(out) / "params.json", Params), Path(out))
    p, steps = run.params, run_steps(run)
    known = steps[steps.step <= (last or math.inf)] if len(steps) else steps
    if len(known) < 2:
        raise BadInput(f"{run.training / 'metrics.jsonl'} has {len(known)} steps, at least 2 are needed: train first")
    plan, workload = Plan(p.servers, 1, p.max_staleness), _workload(run, known)
    times = fit(known, workload, p.name, p.max_num_seqs)
    return Measured(steps, plan, workload, calibrated(times, workload, plan, float(known.rollout_s.mean())))


def calibrated(times: ServiceTimes, workload: Workload, plan: Plan, rollout_s: float) -> ServiceTimes:
    """Servers' times scaled until the plan's simulated rollouts take `rollout_s` seconds a step."""
    for _ in range(ROUNDS):
        ratio = rollout_s / simulate(times, workload, plan, 20).rollout_s
        scaled = {
            name: getattr(times, name) * ratio for name in ("prefill_s", "decode_step_s", "decode_s", "request_s")
        }
        times = times.model_copy(update=scaled)
    return times


def run_steps(run: Run) -> pd.DataFrame:
    """metrics.jsonl with `wall_s`: from the step before to this one, NaN for the first of each start."""
    steps = read_steps(run.training / "metrics.jsonl")
    if len(steps) == 0:
        return steps
    path = run.out / progress.FILE
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    walls = {}
    for before, now in zip(events, events[1:], strict=False):
        if (before["stage"], now["stage"]) == ("grpo", "grpo") and now["done"] == before["done"] + 1:
            walls[int(now["done"])] = now["time"] - before["time"]
    return steps.assign(wall_s=steps.step.map(walls).astype(float))


def fit(steps: pd.DataFrame, workload: Workload, name: str, slots: int = 64) -> ServiceTimes:
    """Service times from a run's steps: least squares, none below zero, so that the means are met.

    One run tells the rollouts' fixed part only as a whole: a prompt token is taken to cost a third of a trained one
    (forward without backward), the rest goes to the iterations: as many as an output may have tokens, over again for
    each round of slots [ours]. `calibrated` makes good what that misses.
    """
    fixed, decode = _line(steps.output_tokens, steps.rollout_s)
    row, train = _line(steps.tokens_packed, steps.train_s)
    rows = workload.dialogues * len(workload.rows())
    prompt = workload.dialogues * workload.prompt_tokens
    prefill = min(train / 3, fixed / prompt)
    rounds = math.ceil(workload.dialogues * workload.turns * workload.k / slots)
    step, record = _outside(steps)
    return ServiceTimes(
        name=name,
        source="measured",
        prefill_s=prefill,
        decode_step_s=(fixed - prefill * prompt) / (workload.max_output * rounds),
        decode_s=decode,
        train_s=train,
        row_s=row / rows,
        step_s=step,
        record_s=record,
        sync_s=float(steps.sync_s.mean()),
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


def _mean(seconds: pd.Series) -> float:
    return max(0.0, float(np.nan_to_num(seconds.mean())))


def _line(x: pd.Series, y: pd.Series) -> tuple[float, float]:
    """Intercept and slope, neither below zero, of the least squares line; it meets the means."""
    from scipy.optimize import nnls

    scale = float(x.mean()) or 1.0
    (a, b), _ = nnls(np.column_stack([np.ones(len(x)), x / scale]), y.to_numpy(float))
    short = float(y.mean()) / (a + b) if a + b else 1.0  # at the bound the line may pass beside the means
    return a * short, b * short / scale


def _workload(run: Run, steps: pd.DataFrame) -> Workload:
    """The mean step. Where the head ends in a prompt is told by its share of the characters."""
    p, groups, outputs = run.params, steps.groups.sum(), steps.outputs.sum()
    visits = groups / (p.turns_per_dialogue or groups / len(steps) / p.dialogues_per_step)
    turns = round(groups / visits)
    trained = outputs * (1 - steps.groups_skipped.sum() / groups) or outputs
    output = float(steps.output_tokens.sum() / outputs)
    mean_prompt = steps.tokens_padded.sum() / trained - output
    share = _head_share(run)
    whole = mean_prompt / (share + (1 - share) / 2)
    prompt = whole * (share + (1 - share) * turns / (turns + 1))
    packed = steps.tokens_packed.sum() / visits - prompt
    cue = Workload.model_fields["cue_tokens"].default
    return Workload(
        dialogues=round(visits / len(steps)),
        turns=turns,
        k=p.num_generations,
        head_tokens=whole * share,
        prompt_tokens=prompt,
        output_tokens=output,
        output_sd=output * _variation(run),
        max_output=p.max_completion_tokens,
        distinct=float(np.clip((packed - turns * cue) / (turns * p.num_generations * output), 0, 1)),
        token_budget=p.token_budget,
    )


def _head_share(run: Run) -> float:
    shares = []
    for dialogue in run.dialogues(run.params.train_split)[:20]:
        head = len(agent.system_text(run.catalog.subset(dialogue.actions)))
        shares.append(head / (head + len(agent.transcript(dialogue, len(dialogue.turns)))))
    return float(np.mean(shares))


def _variation(run: Run) -> float:
    """Standard deviation over mean of the outputs' lengths, in characters; 0.5 where no samples were kept."""
    path = run.training / "samples.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    lengths = [len(text) for line in lines for text in json.loads(line)["texts"]]
    return float(np.std(lengths) / np.mean(lengths)) if lengths and any(lengths) else 0.5
