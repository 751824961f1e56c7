"""Supervised warm start: the references' outputs of all turns of a dialogue, in the rows that GRPO trains on [ours].

TRL's SFTTrainer would forward the dialogue once a turn; a dialogue row forwards it once.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from proactor_lib import allocator, models
from proactor_lib.artf.serving.placement import on_gpu
from proactor_lib.artf.training import head, lean_layers, parts, ranks, tree_attention
from proactor_lib.artf.training.adapter import save_adapter
from proactor_lib.artf.training.early_stopping import EarlyStopping
from proactor_lib.artf.training.episodes import DialogueSampler, Episode
from proactor_lib.artf.training.rows import DialogueRow
from proactor_lib.artf.training.sft_state import SftState, keep_lines
from proactor_lib.artf.training.tokens import DialogueTokens, reference_tokens
from proactor_lib.params import Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def lora_config(params: Params, dropout: float = 0.0):
    """LoRA on q/k/v/o and gate/up/down [paper]."""
    from peft import LoraConfig

    return LoraConfig(
        r=params.lora_rank,
        lora_alpha=params.lora_alpha,
        lora_dropout=dropout,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )


def trainable_model(path: str, params: Params):
    """The frozen base with a fresh LoRA adapter, tree attention and the frozen head, on the run's device."""
    from peft import get_peft_model

    tree_attention.register()
    torch.manual_seed(params.seed)
    base = trainer_base(path, params)
    model = models.load_base(*base, attn_implementation=tree_attention.TREE_ATTENTION)
    head.attach_head(model)
    model = get_peft_model(model, lora_config(params, params.lora_dropout))
    lean(model)
    if params.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.to("cuda" if on_gpu(params.device) else "cpu").train()


def trainer_base(path: str, params: Params) -> models.TrainerBase:
    """What this run's trainer loads its base from."""
    return models.trainer_base(path, params.quantization, on_gpu(params.device), params.trainer_dtype)


def lean(model) -> None:
    """Have its layers keep less for their backward, and LoRA layers leave their input's type to autocast.

    PEFT looks autocast up for CUDA only: on a CPU it makes each input float32, and autocast makes it bfloat16 again.
    """
    lean_layers.install(model)
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.cast_input_dtype_enabled = False


def reference_row(visit: Episode, trunk: DialogueTokens, tokenizer) -> DialogueRow:
    """All turns of the visit with what the references say there, as one row."""
    row = DialogueRow()
    for turn in visit.turns:
        prompt = trunk.prompt(turn)
        output = reference_tokens(tokenizer, visit.references, turn)
        mask = np.array([0] * len(prompt) + [1] * len(output))
        row.add({"input_ids": np.array(prompt + output), "completion_mask": mask, "group_id": turn, "metrics": {},
                 "old_log_probs": np.zeros(len(mask), dtype=np.float32), "advantage": 1.0})  # fmt: skip
    return row


def _loss(model, total: int, row: dict[str, torch.Tensor]) -> torch.Tensor:
    return -head.row_log_probs(model, row).sum() / total


def backward(model, rows: list[dict[str, torch.Tensor]], weights: list[torch.nn.Parameter], budget: int) -> float:
    """Gradients of the rows' mean loss a trained token, the rows shared out among the ranks; the loss, in nats.

    budget: tokens of a row that are forwarded at once.
    """
    total, loss = sum(len(row["token_index"]) for row in rows), torch.zeros((), device=weights[0].device)
    for row in rows[ranks.number() :: ranks.count()]:
        cut = parts.split(row, budget)
        loss += float(parts.backward(cut, partial(_loss, model, total), partial(head.row_log_probs, model)))
    for weight in weights:
        if weight.grad is None:  # a rank without a row
            weight.grad = torch.zeros_like(weight)
    ranks.sum_over_all([loss, *(weight.grad for weight in weights)])
    return loss.item()


def mean_loss(model, rows: list[dict[str, torch.Tensor]], budget: int) -> float:
    """The rows' mean loss per trained token, in nats, without gradients or dropout; shared out as in `backward`."""
    total, loss = sum(len(row["token_index"]) for row in rows), torch.zeros((), device=model.device)
    model.eval()
    for row in rows[ranks.number() :: ranks.count()]:
        loss += parts.value(parts.split(row, budget), partial(_loss, model, total), partial(head.row_log_probs, model))
    model.train()
    ranks.sum_over_all([loss])
    return loss.item()


@dataclass(frozen=True)
class Lessons:
    """What is taught: packed rows of references. `visits`: endless, of train; `dev`: where early stopping looks."""

    visits: DialogueSampler
    dev: Sequence[Episode]
    trunk: Callable[[Episode], DialogueTokens]
    tokenizer: "PreTrainedTokenizerBase"

    def rows(self, visits: Iterable[Episode]) -> list[dict[str, torch.Tensor]]:
        """All turns of each visit with what the references say there."""
        return [reference_row(v, self.trunk(v), self.tokenizer).pack() for v in visits]

    def step(self, number: int, dialogues: int) -> list[dict[str, torch.Tensor]]:
        """The rows of a step (from 0)."""
        return self.rows(self.visits[n] for n in range(number * dialogues, (number + 1) * dialogues))


def rate(done: int, steps: int) -> float:
    """The share of the learning rate for the step after `done`: up over a tenth of the steps, then down, never 0."""
    warmup = max(1, steps // 10)
    return min((done + 1) / (warmup + 1), (steps + 1 - done) / (steps + 1 - warmup))


def fine_tune(params: Params, path: str, lessons: Lessons, out: Path, steps: int,
              on_step: Callable[[int, float], None]) -> None:  # fmt: skip
    """Train `steps` steps, the learning rate warmed up, then falling linearly; the adapter goes to `out`.

    With `params.sft_check` training ends early where the loss on dev no longer falls, and the best adapter is kept.
    `on_step(step, loss)`: loss in nats a token. Each step's line goes to `out`.jsonl beside it, and every
    `params.save_steps` steps where it stands to `out`.pt: a call after one that was ended goes on there. Every rank
    calls it; rank 0 writes.
    """
    model = trainable_model(path, params)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=params.sft_learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(rate, steps=steps))
    stopping = _stopping(params, model, weights, lessons, steps) if params.sft_check else None
    state = SftState(out.with_suffix(".pt"), weights, optimizer, schedule, stopping)
    out.parent.mkdir(parents=True, exist_ok=True)
    done, writes = state.restore(), ranks.number() == 0
    ranks.wait_for_all()  # until each has read what rank 0 will write anew
    if writes:
        keep_lines(out.with_suffix(".jsonl"), done)
    with open(out.with_suffix(".jsonl") if writes else os.devnull, "a") as lines:
        for step in range(done, steps):
            if stopping and stopping.over:
                break
            torch.manual_seed(params.seed + step)  # dropout's, the same whichever process takes the step
            began, rows = time.monotonic(), lessons.step(step, params.sft_dialogues_per_step)
            loss = backward(model, rows, weights, params.token_budget)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            allocator.after_step(step + 1)
            seconds, tokens = time.monotonic() - began, sum(len(row["input_ids"]) for row in rows)
            line = {"step": step + 1, "loss": loss, "seconds": seconds, "tokens": tokens}
            if stopping and (dev_loss := stopping.look(step + 1)) is not None:
                line |= {"dev_loss": dev_loss, "dev_seconds": time.monotonic() - began - seconds}
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            if writes:
                on_step(step + 1, loss)
            if writes and (step + 1) % params.save_steps == 0:
                state.save(step + 1)
    if stopping:
        stopping.restore()
    if writes:
        save_adapter(model, out)
        state.forget()


def _stopping(params: Params, model, weights: list[torch.nn.Parameter], lessons: Lessons, steps: int) -> EarlyStopping:
    loss = partial(mean_loss, model, lessons.rows(lessons.dev), params.token_budget)
    return EarlyStopping(loss, weights, params.sft_check, params.sft_patience, steps)
