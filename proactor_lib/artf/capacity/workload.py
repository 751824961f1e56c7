"""What the simulator is fed with: how long servers and trainer take for what, and what a training step consists of.

Measured times come from a run (fit.py) or a file. Estimates come from a GPU's data sheet, with the shares of its
peaks that are assumed; an estimate says that it is one.
"""

import math
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

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
    step_s: Seconds = 0.0  # an optimiser step more, before the sync: optimiser, packing
    record_s: Seconds = 0.0  # and after it, while the next rollouts go on: records, checkpoints
    sync_s: Seconds  # bringing a new version to the servers
    switch_s: Seconds = 0.0  # where the same GPUs serve and train in turn: from one to the other and back
    in_place: bool = True  # whether rollouts stop for it (merged weights; an adapter has its own name)
    slots: Annotated[int, Field(ge=1)] = 64  # sequences that a server decodes at once
    overlap: Annotated[float, Field(ge=1)] = 1.0  # serving and training, both running, take so many times longer


class Step(NamedTuple):
    """What one measured step consisted of."""

    rounds: int  # of visits, until a group had variance
    output_tokens: float  # mean of its outputs
    packed_tokens: float  # forwarded by the trainer


class Workload(Record):
    """What a step consists of; tokens are means. `seen`: the steps of a run, which simulated ones repeat in order."""

    dialogues: Annotated[int, Field(ge=1)]  # a step
    turns: Annotated[int, Field(ge=1)]  # asked of each dialogue
    k: Annotated[int, Field(ge=1)]  # outputs a turn
    head_tokens: Annotated[float, Field(ge=0)]  # instructions and catalog, before the first turn
    prompt_tokens: Annotated[float, Field(ge=1)]  # up to the last turn that is asked, head included
    cue_tokens: Annotated[float, Field(ge=0)] = 5
    output_tokens: Annotated[float, Field(ge=1)]
    output_sd: Annotated[float, Field(ge=0)] = 0.0  # standard deviation of an output's tokens
    max_output: Annotated[int, Field(ge=1)]  # an output's limit
    token_budget: Annotated[int, Field(ge=1)] = 16384  # packed tokens of a row
    question_tokens: Annotated[float, Field(ge=0)] = 0  # what a judge reads of a turn that it has not read before
    answer_tokens: Annotated[int, Field(ge=0)] = 0  # what it says about a turn; 0: no model judges
    judge_calls: Annotated[int, Field(ge=0)] = 0  # to a judge, in flight at most; 0: all turns at once
    seen: tuple[Step, ...] = ()

    def step(self, number: int) -> Step:
        """Step `number` (from 0): one that was seen, else the mean one."""
        if self.seen:
            return self.seen[number % len(self.seen)]
        return Step(1, self.output_tokens, self.dialogues * sum(self.rows()))

    def rows(self, packed: bool = True) -> list[float]:
        """Forwarded tokens of the rows of one dialogue: prefix trees within the budget, or padded samples."""
        prompts = np.linspace(self.head_tokens, self.prompt_tokens, self.turns + 1)[1:].tolist()
        if not packed:
            return [p + self.cue_tokens + self.max_length for p in prompts for _ in range(self.k)]
        branches = self.turns * (self.cue_tokens + self.k * self.output_tokens)
        room = max(self.token_budget - self.prompt_tokens, branches / self.turns)
        count = min(self.turns, math.ceil(branches / room))
        return [prompts[-(-self.turns * (i + 1) // count) - 1] + branches / count for i in range(count)]

    @property
    def max_length(self) -> float:
        """Tokens that a padded output is brought to: the longest of K [ours: mean + 1.5 standard deviations]."""
        return min(self.max_output, self.output_tokens + 1.5 * self.output_sd)

    def lengths(self, mean_tokens: float, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` output lengths from 1 to `max_output`: a Beta distribution with this mean and relative deviation."""
        span = self.max_output - 1
        mean = (mean_tokens - 1) / span if span else 0.0
        spread = (self.output_sd * mean_tokens / self.output_tokens / span) ** 2 if span else 0.0
        if not 0 < mean < 1 or spread == 0:
            return np.full(count, max(1, round(mean_tokens)))
        weight = max(mean * (1 - mean) / min(spread, 0.95 * mean * (1 - mean)) - 1, 1e-3)
        return 1 + np.rint(span * rng.beta(mean * weight, (1 - mean) * weight, count)).astype(int)


PAPER = Workload(
    dialogues=4, turns=47, k=8, head_tokens=2500, prompt_tokens=2500 + 47 * 45, output_tokens=60, output_sd=30,
    max_output=120,
)  # fmt: skip


def judged(workload: Workload, calls: int = 0) -> Workload:
    """With a judge that reads the K outputs of each turn and answers each with a sentence and four marks [ours].

    calls: how many turns it is asked about at once (parameter `judge_concurrency`); 0: all.
    """
    question, answer = workload.k * (workload.output_tokens + 10), 60 * workload.k
    return workload.model_copy(update={"question_tokens": question, "answer_tokens": answer, "judge_calls": calls})


class Gpu(NamedTuple):
    """A data sheet's figures."""

    name: str
    memory: float  # bytes
    bandwidth: float  # bytes a second
    flops: float  # bf16, dense, a second


GPUS = {
    name: Gpu(name, memory, bandwidth, flops)
    for name, memory, bandwidth, flops in (
        ("H100", 80e9, 3.35e12, 989e12), ("H200", 141e9, 4.8e12, 989e12), ("B200", 180e9, 8e12, 2250e12),
        ("A100", 80e9, 2.04e12, 312e12), ("L40S", 48e9, 864e9, 362e12), ("L4", 24e9, 300e9, 121e12),
        ("A10", 24e9, 600e9, 125e12), ("4090", 24e9, 1.01e12, 165e12), ("3090", 24e9, 936e9, 71e12),
    )
}  # fmt: skip


def gpu_named(name: str) -> Gpu | None:
    """The data sheet of a GPU by the name that its driver gives it, such as `NVIDIA H100 80GB HBM3`; None: unknown."""
    words = name.replace("-", " ").upper().split()
    return next((gpu for known, gpu in GPUS.items() if known in words), None)


# Operations a second of one core, training and serving, by whether it has bfloat16: of the 135M model [LOG.md].
CORE = {False: (75e9, 20e9), True: (144e9, 69e9)}


def estimate_cpu(serving: float, training: float, parameters: float, bfloat16: bool) -> ServiceTimes:
    """Service times of a server and a trainer on so many cores each: from what a core did with a small model [ours]."""
    train, serve = CORE[bfloat16]
    token = 2 * parameters / (serve * serving)
    return ServiceTimes(
        name=f"{parameters / 1e9:.2f}B parameters, cores that train: {training:g}",
        source="estimated",
        prefill_s=token / 4,
        decode_step_s=0.01,
        decode_s=token,
        request_s=0.01,
        train_s=6 * parameters / (train * training),
        step_s=0.5,
        record_s=0.2,
        sync_s=2.0,
    )


def estimate(gpu: str, workload: Workload = PAPER, parameters: float = 14.8e9, kv_bytes: float = 196_608,
             served_bits: float = 16.0, mfu: float = 0.4, bandwidth_share: float = 0.6) -> ServiceTimes:  # fmt: skip
    """Service times of a model with LoRA on one GPU: an estimate, nothing measured [ours].

    The trainer holds the model in 4 bits, a server what `serve_weights` says: its bfloat16 export (`served_bits` 16),
    or the same 4 bits with their scales (4.5, embeddings and head apart).

    Decoding is bound by reading weights and KV cache at `bandwidth_share` of the data sheet's bandwidth, prompts and
    training by arithmetic at `mfu` of its peak: 2 FLOPs a parameter and token forward; training recomputes the forward
    pass and propagates through frozen weights, 6 in all. Defaults: Qwen2.5-14B (48 layers, 8 KV heads of 128).
    """
    card = GPUS[gpu]
    bandwidth, flops = card.bandwidth * bandwidth_share, card.flops * mfu
    weights = parameters * served_bits / 8
    room = (0.9 * card.memory - weights) / (kv_bytes * workload.max_output)  # prompts share their prefixes
    return ServiceTimes(
        name=f"{gpu}, {parameters / 1e9:.1f}B parameters, served in {served_bits:g} bits",
        source="estimated",
        prefill_s=2 * parameters / flops,
        decode_step_s=weights / bandwidth,
        decode_s=kv_bytes * workload.prompt_tokens / bandwidth + 2 * parameters / flops,
        request_s=0.002,
        score_s=0.05,
        train_s=6 * parameters / flops,
        step_s=0.5,
        record_s=0.5,
        sync_s=2.0,
        switch_s=20.0,  # a server sleeps and wakes, the trainer's weights and states leave the GPU and return
        in_place=False,
        slots=max(1, min(256, int(room))),
    )
