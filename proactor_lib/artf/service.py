"""What the simulator is fed with: how long servers and trainer take for what, and what a training step consists of.

Measured: fitted to the lines that a run's steps left (`fit`), or read from a file. Estimated: from a GPU's data sheet
(`estimate`), with the shares of its peaks that are assumed; an estimate says that it is one.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from proactor_lib import agent, progress
from proactor_lib.errors import BadInput
from proactor_lib.report.training import read_steps
from proactor_lib.run import Run
from proactor_lib.schema import Record

Seconds = Annotated[float, Field(ge=0)]


class ServiceTimes(Record):
    """Seconds of one server and of one trainer process on a machine, for one model."""

    name: str
    source: Literal["measured", "estimated"]
    prefill_s: Seconds  # a prompt token that is in no cache
    decode_step_s: Seconds  # one decoding iteration, however many sequences
    decode_s: Seconds  # each sequence in it more
    request_s: Seconds = 0.0  # a request's overhead on its server
    score_s: Seconds = 0.0  # scoring a group; groups are scored at once
    train_s: Seconds  # a forwarded token, forward and backward, on one trainer process
    row_s: Seconds = 0.0  # a row more
    step_s: Seconds = 0.0  # an optimiser step more: optimiser, records, checkpoints
    sync_s: Seconds  # bringing a new version to the servers
    switch_s: Seconds = 0.0  # where the same GPUs serve and train in turn: from one to the other and back
    in_place: bool = True  # whether rollouts stop for it (merged weights; an adapter has its own name)
    slots: Annotated[int, Field(ge=1)] = 64  # sequences that a server decodes at once
    overlap: Annotated[float, Field(ge=1)] = 1.0  # serving and training, both running, take so many times longer


class Workload(Record):
    """What a step consists of. Tokens are means."""

    dialogues: Annotated[int, Field(ge=1)]  # a step
    turns: Annotated[int, Field(ge=1)]  # asked of each dialogue
    k: Annotated[int, Field(ge=1)]  # outputs a turn
    head_tokens: Annotated[float, Field(ge=0)]  # instructions and catalog, before the first turn
    prompt_tokens: Annotated[float, Field(ge=1)]  # up to the last turn that is asked, head included
    cue_tokens: Annotated[float, Field(ge=0)] = 5
    output_tokens: Annotated[float, Field(ge=1)]
    output_sd: Annotated[float, Field(ge=0)] = 0.0  # standard deviation of an output's tokens
    max_output: Annotated[int, Field(ge=1)]  # an output's limit
    distinct: Annotated[float, Field(ge=0, le=1)] = 1.0  # share of output tokens that packing keeps
    token_budget: Annotated[int, Field(ge=1)] = 16384  # packed tokens of a row

    def rows(self, packed: bool = True) -> list[float]:
        """Forwarded tokens of the rows of one dialogue: prefix trees within the budget, or padded samples."""
        prompts = np.linspace(self.head_tokens, self.prompt_tokens, self.turns + 1)[1:].tolist()
        if not packed:
            return [p + self.cue_tokens + self.max_length for p in prompts for _ in range(self.k)]
        branches = self.turns * (self.cue_tokens + self.k * self.output_tokens * self.distinct)
        room = max(self.token_budget - self.prompt_tokens, branches / self.turns)
        count = min(self.turns, math.ceil(branches / room))
        return [prompts[-(-self.turns * (i + 1) // count) - 1] + branches / count for i in range(count)]

    @property
    def max_length(self) -> float:
        """Tokens that a padded output is brought to: the longest of K [ours: mean + 1.5 standard deviations]."""
        return min(self.max_output, self.output_tokens + 1.5 * self.output_sd)

    def lengths(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` output lengths from 1 to `max_output`: a Beta distribution with this mean and deviation."""
        span = self.max_output - 1
        mean = (self.output_tokens - 1) / span if span else 0.0
        spread = (self.output_sd / span) ** 2 if span else 0.0
        if not 0 < mean < 1 or spread == 0:
            return np.full(count, round(self.output_tokens))
        weight = max(mean * (1 - mean) / min(spread, 0.95 * mean * (1 - mean)) - 1, 1e-3)
        return 1 + np.rint(span * rng.beta(mean * weight, (1 - mean) * weight, count)).astype(int)


PAPER = Workload(
    dialogues=4, turns=47, k=8, head_tokens=2500, prompt_tokens=2500 + 47 * 45, output_tokens=60, output_sd=30,
    max_output=120,
)  # fmt: skip


# measured


class Measured(NamedTuple):
    """A run as its files tell it."""

    steps: pd.DataFrame  # a row a step: the lines of metrics.jsonl, and `wall_s`
    workload: Workload
    service: ServiceTimes


def measured(out: Path | str, last: int | None = None) -> Measured:
    """Service times and workload of a training run, from its steps up to `last` (None: all).

    Raises BadInput: no such run, or fewer than two steps.
    """
    from proactor_lib.files import read_json
    from proactor_lib.params import Params

    run = Run(read_json(Path(out) / "params.json", Params), Path(out))
    steps = run_steps(run)
    known = steps[steps.step <= (last or math.inf)]
    if len(known) < 2:
        raise BadInput(f"{run.training / 'metrics.jsonl'} has {len(known)} steps, at least 2 are needed: train first")
    workload = _workload(run, known)
    return Measured(steps, workload, fit(known, workload, run.params.name, run.params.max_num_seqs))


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
    (forward without backward), the rest goes to the iterations [ours].
    """
    fixed, decode = _line(steps.output_tokens, steps.rollout_s)
    row, train = _line(steps.tokens_packed, steps.train_s)
    rows = workload.dialogues * len(workload.rows())
    prompt = workload.dialogues * workload.prompt_tokens
    prefill = min(train / 3, fixed / prompt)
    outside = steps.wall_s - steps.rollout_wait_s - steps.train_s - steps.sync_s
    return ServiceTimes(
        name=name,
        source="measured",
        prefill_s=prefill,
        decode_step_s=(fixed - prefill * prompt) / workload.max_output,
        decode_s=decode,
        train_s=train,
        row_s=row / rows,
        step_s=max(0.0, float(np.nan_to_num(outside.mean()))),
        sync_s=float(steps.sync_s.mean()),
        slots=slots,
    )


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


# estimated


class Gpu(NamedTuple):
    """A data sheet's figures."""

    name: str
    memory: float  # bytes
    bandwidth: float  # bytes a second
    flops: float  # bf16, dense, a second


GPUS = {
    "H100": Gpu("H100", 80e9, 3.35e12, 989e12),
    "H200": Gpu("H200", 141e9, 4.8e12, 989e12),
}


def estimate(gpu: str, workload: Workload = PAPER, parameters: float = 14.8e9, kv_bytes: float = 196_608,
             bits: float = 4.5, mfu: float = 0.4, bandwidth_share: float = 0.6) -> ServiceTimes:  # fmt: skip
    """Service times of a 4-bit model with LoRA on one GPU: an estimate, nothing measured [ours].

    Decoding is bound by reading weights and KV cache at `bandwidth_share` of the data sheet's bandwidth, prompts and
    training by arithmetic at `mfu` of its peak: 2 FLOPs a parameter and token forward; training recomputes the forward
    pass and propagates through frozen weights, 6 in all. Defaults: Qwen2.5-14B (48 layers, 8 KV heads of 128).
    """
    card = GPUS[gpu]
    bandwidth, flops = card.bandwidth * bandwidth_share, card.flops * mfu
    weights = parameters * bits / 8
    room = (0.9 * card.memory - weights) / (kv_bytes * workload.max_output)  # prompts share their prefixes
    return ServiceTimes(
        name=f"{gpu}, {parameters / 1e9:.1f}B parameters in {bits:g} bits",
        source="estimated",
        prefill_s=2 * parameters / flops,
        decode_step_s=weights / bandwidth,
        decode_s=kv_bytes * workload.prompt_tokens / bandwidth + 2 * parameters / flops,
        request_s=0.002,
        score_s=0.05,
        train_s=6 * parameters / flops,
        step_s=1.0,
        sync_s=2.0,
        switch_s=20.0,  # a server sleeps and wakes, the trainer's weights and states leave the GPU and return
        in_place=False,
        slots=max(1, min(256, int(room))),
    )
