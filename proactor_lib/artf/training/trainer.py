"""TRL's async GRPO trainer with what it lacks: whole-step batches, dialogue rows, any policy sync, safe checkpoints.

Kept of TRL: the model's set-up, the optimiser loop. Replaced: the dataloader (a step is emitted when its last group
arrives, nothing is read ahead), the attention and the head, the loss, the sync of weights, and how a checkpoint gets
its name (written aside, then renamed). A step without a gradient moves nothing: Adam's momentum would.
"""

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from proactor_lib import allocator
from proactor_lib.artf.serving.policy_sync import PolicySync
from proactor_lib.artf.training import head, losses, parts, tree_attention
from proactor_lib.artf.training.adapter import load_adapter, save_adapter
from proactor_lib.artf.training.rollouts import RolloutWorker, StepBatch
from proactor_lib.artf.training.rows import DialogueRow, dialogue_rows
from proactor_lib.artf.training.sft import lean
from proactor_lib.artf.training.trl_async import (
    AsyncGRPOConfig,
    AsyncGRPOTrainer,
    DataCollatorForRollout,
    async_grpo_trainer,
)
from proactor_lib.files import disk_failed

log = logging.getLogger(__name__)

# TRL's own versions need CUDA, or score every position of a row.
async_grpo_trainer.register_tree_attention = tree_attention.register
async_grpo_trainer.add_fused_lm_head = head.attach_head


class NoTransfer:
    """Tells TRL that it must not send weights itself; `_sync_weight` below does."""

    init_weight_transfer = pause = resume = destroy = lambda self: None

    def send_weights(self, iterator) -> None: ...


class StepLoader:
    """Yields one optimiser step at a time: rank 0 packs it into rows and hands every rank its own."""

    def __init__(self, trainer: "DialogueTrainer"):
        self._trainer = trainer

    def __iter__(self) -> Iterator[dict]:
        accelerator = self._trainer.accelerator
        while True:
            payload = [self._trainer.take_step() if accelerator.is_main_process else None]
            if accelerator.num_processes > 1:
                broadcast_object_list(payload)
            yield {"rows": [_share(batch, accelerator.process_index) for batch in payload[0]]}


def _share(batch: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    return {key: value[rank : rank + 1] for key, value in batch.items()}


def _parts(row: dict[str, torch.Tensor], token_budget: int) -> list[dict[str, torch.Tensor]]:
    """A rank's row (each tensor (1, ...)) in parts that fit into memory. Several ranks' rows fit, and are padded."""
    packed = {key: value[0] for key, value in row.items()}
    if len(row["attention_mask"][0]) <= token_budget:
        return [row]
    cut = parts.split(packed, token_budget)
    for n, part in enumerate(cut):
        part["attention_mask"] = torch.ones_like(part["input_ids"])
        counts = n == min(1, len(cut) - 1)  # once, by the first part that has a loss
        part["global_n_forward_tokens"] = packed["global_n_forward_tokens"] * counts
    return [{key: value[None] for key, value in part.items()} for part in cut]


class DialogueTrainer(AsyncGRPOTrainer):
    """AsyncGRPOTrainer over StepBatches. `on_step(batch, metrics)` gets each trained step, on rank 0.

    rule: how its tokens become a loss; attention: the name of its rows' attention; before_row: called before each
    forward of a row or of a part of one.
    """

    attention = tree_attention.TREE_ATTENTION
    before_row: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *, worker: RolloutWorker | None, sync: PolicySync | None, start_from: Path | None,
                 on_step: Callable[[StepBatch, dict], None], rule: losses.Rule | None = None, **kwargs):  # fmt: skip
        self._policy_sync, self._on_step, self._rule = sync, on_step, rule or losses.Rule()
        self._sums, self._grad_norm = torch.zeros(len(losses.SUMS)), 0.0
        self._batch: StepBatch | None = None
        self._waited = self._synced = self._began = 0.0
        super().__init__(
            train_dataset=Dataset.from_dict({"prompt": [""]}),  # never read: the worker brings the data
            rollout_worker=worker,
            weight_transfer=NoTransfer(),
            **kwargs,
        )
        self.model.set_attn_implementation(self.attention)
        lean(self.model)
        if start_from is not None:
            load_adapter(self.model, start_from)
        self._start = [w.detach().clone() for w in trained_weights(self.model)] if self._rule.kl_beta else None

    # data

    def get_train_dataloader(self):
        """The loader of whole steps, on every rank."""
        return StepLoader(self)

    def take_step(self) -> list[dict[str, torch.Tensor]]:
        """Wait for the next step's batch and pack it: a list of micro-batches, each one row a rank."""
        began = time.monotonic()
        self._batch = self.rollout_worker.next_step()
        self._waited = time.monotonic() - began
        rows = self.rows(self._batch.samples)
        alike = self._batch.outputs_alike
        return micro_batches(rows, self.accelerator.num_processes, self.processing_class.pad_token_id, alike)

    def rows(self, samples: list[dict]) -> list[DialogueRow]:
        """How a step's samples become rows: whole dialogues, which are cut into parts (`parts.py`) as they are trained.

        On several ranks, and where the start's policy is forwarded too, they are what each can hold.
        """
        whole = self.accelerator.num_processes == 1 and self._start is None
        return dialogue_rows(samples, math.inf if whole else self.args.token_budget)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Forward and backward of the step's rows, one after another; their losses add up to the step's."""
        began, total = time.perf_counter(), 0.0
        rows, loss, forward = inputs["rows"], partial(self._loss, model), partial(self._forward, model)
        model.train()
        for n, row in enumerate(rows):
            last = n + 1 == len(rows)
            with nullcontext() if last else self.accelerator.no_sync(model):
                cut = _parts(self._prepare_inputs(row), self.args.token_budget)
                total += parts.backward(cut, loss, forward, self.accelerator.backward)
        self._grad_norm = gradient_norm(trained_weights(model))
        if self._grad_norm == 0:
            model.zero_grad(set_to_none=True)  # so that the optimiser passes over all of them
        self._step_microbatches += len(rows)
        self._current_train_step_time += time.perf_counter() - began
        return torch.as_tensor(total, device=self.args.device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This row's share of the step's loss, times the ranks: DDP takes their mean. Notes the row's sums."""
        row, size = unpadded(inputs), losses.StepSize(*inputs["step_size"][0].tolist())
        log_probs, entropy = self._log_probs(model, row)
        start = None
        if self._start is not None:
            with torch.no_grad(), exchanged(trained_weights(model), self._start):
                start, _ = self._log_probs(model, row)
        loss, sums = losses.row_loss(log_probs, entropy, row, size, self._rule, start)
        real = inputs["real"][0]  # 0: the row of a rank that has nothing to do
        found = torch.stack([sums.get(name, loss.new_full((), math.nan)) for name in losses.SUMS]) * real
        self._sums = self._sums + self.accelerator.reduce(found, reduction="sum").cpu()
        self._step_forward_tokens += float(inputs["global_n_forward_tokens"][0])
        return loss * real * self.accelerator.num_processes

    def _log_probs(self, model, row: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies (M,) of the row's loss terms."""
        trunk, block = row["tree_max_seqlens"].tolist()
        out = model(
            **{key: row[key][None] for key in ROW}, **{key: row[key] for key in TREE}, fused_lm_head=True,
            tree_max_seqlen_q=trunk, tree_max_seqlen_k=block,
        )  # fmt: skip
        return out.log_probs.flatten()[row["token_index"]], out.entropy.flatten()[row["token_index"]]

    def _loss(self, model, part: dict[str, torch.Tensor]) -> torch.Tensor:
        self.before_row()
        with self.compute_loss_context_manager():
            return self.compute_loss(model, part)

    def _forward(self, model, trunk: dict[str, torch.Tensor]) -> None:
        self.before_row()
        with self.compute_loss_context_manager():
            self._log_probs(model, unpadded(trunk))

    # policy

    def _sync_weight(self):
        began = time.monotonic()
        self._began = self._began or began
        version = self.state.global_step
        adapter = Path(self.args.output_dir) / "published" / f"v{version}"
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            save_adapter(self.accelerator.unwrap_model(self.model), adapter)
            if self._policy_sync.in_place:
                self.rollout_worker.drain()
            self._policy_sync.publish(version, adapter, self.rollout_worker.leased_versions())
            self.model_version = version
            self.rollout_worker.update_model_version(version)
            for old in (Path(self.args.output_dir) / "published").glob("v*"):
                if int(old.name[1:]) not in self._policy_sync.held:  # those are for servers that join
                    shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        self._synced = time.monotonic() - began

    # records

    def _log_step_metrics(self) -> None:
        """Called by TRL after each optimiser step: hand the step's batch and its statistics on."""
        allocator.after_step(self.state.global_step)
        if self.accelerator.is_main_process:
            statistics = step_statistics(self._sums) | {"grad_norm": self._grad_norm}
            statistics |= {"rollout_wait_s": self._waited, "train_s": self._current_train_step_time,
                           "sync_s": self._synced, "tokens_packed": self._step_forward_tokens,
                           "elapsed_s": time.monotonic() - self._began,
                           "ranks": self.accelerator.num_processes}  # fmt: skip
            self._on_step(self._batch, statistics)
        self._metrics["train"].clear()
        self._sums = torch.zeros(len(losses.SUMS))
        self._current_train_step_time, self._step_microbatches = 0.0, 0
        for counter in ("_step_forward_tokens", "_step_trained_tokens", "_step_seq_len_weighted", "_step_samples"):
            setattr(self, counter, 0.0)

    # checkpoints

    def _get_output_dir(self, trial):
        return self._staging or super()._get_output_dir(trial)

    _staging: str | None = None

    def _save_checkpoint(self, model, trial):
        """Write the checkpoint aside and rename it. A disk that is full leaves the last good one, and is logged."""
        name = f"checkpoint-{self.state.global_step}"
        final = Path(self.args.output_dir) / name
        self._staging = os.path.join(self.args.output_dir, ".staging")
        if self.accelerator.is_main_process:
            shutil.rmtree(self._staging, ignore_errors=True)  # a killed run's
        self.accelerator.wait_for_everyone()
        whole = True
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            if not disk_failed(error):
                raise
            whole = False
            log.error("checkpoint %s was not written (%s); the last good one stays", name, error)
        self.accelerator.wait_for_everyone()  # every rank has its part in it
        if self.accelerator.is_main_process:
            if whole and not final.exists():
                os.replace(Path(self._staging) / name, final)
                _forget_all_but(2, self.args.output_dir)
            shutil.rmtree(self._staging, ignore_errors=True)
        self._staging = None


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a training folder."""
    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    return found[-1] if found else None


def _forget_all_but(count: int, folder: str) -> None:
    kept = sorted(Path(folder).glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    for old in kept[:-count]:
        shutil.rmtree(old)


def step_statistics(sums: torch.Tensor) -> dict[str, float | None]:
    """A step's means from its sums (losses.SUMS): shares of sampled tokens, nats per token; None without a token."""
    found = dict(zip(losses.SUMS, sums.tolist(), strict=True))
    sampled, supervised = found["tokens"], found["supervised"]
    means = {name: found[name] / sampled if sampled else None for name in ("kl", "entropy", "kl_start")}
    if math.isnan(found["kl_start"]):  # nobody asked
        means["kl_start"] = None
    means |= {f"{name}_share": found[name] / sampled if sampled else None for name in ("clipped", "corrected")}
    return means | {"anchor_loss": found["supervised_nats"] / supervised if supervised else None}


ROW = ("input_ids", "position_ids", "shift_labels")  # of N tokens
TREE = ("tree_kv_index", "tree_cu_seqlens_q", "tree_cu_seqlens_k")


def unpadded(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """This rank's row of a micro-batch as it was packed."""
    row = {key: batch[key][batch["attention_mask"].bool()] for key in ROW}
    row |= {key: batch[key][batch[key] >= 0] for key in TREE}
    row |= {key: batch[key][batch["token_index"] >= 0] for key in parts.TERMS}
    return row | {"tree_max_seqlens": batch["tree_max_seqlens"][0]}


def trained_weights(model) -> list[torch.nn.Parameter]:
    """The parameters that are trained, in order."""
    return [w for w in model.parameters() if w.requires_grad]


def gradient_norm(weights: list[torch.nn.Parameter]) -> float:
    """The norm of all gradients, before they are clipped; 0 without any."""
    return float(torch.nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None]))


@contextmanager
def exchanged(weights: list[torch.nn.Parameter], others: list[torch.Tensor]):
    """The weights hold the others' values while the block runs."""
    own = [w.detach().clone() for w in weights]
    try:
        for weight, other in zip(weights, others, strict=True):
            weight.data.copy_(other)
        yield
    finally:
        for weight, value in zip(weights, own, strict=True):
            weight.data.copy_(value)


def step_size(rows: list[DialogueRow], alike: int = 0) -> list[float]:
    """`losses.StepSize` of a step's rows and of `alike` outputs that are in none, as numbers."""
    outputs = [s["old_log_probs"][s["completion_mask"] > 0] for row in rows for s in row.samples]
    sampled = [len(o) for o in outputs if not np.isnan(o).any()]
    return [float(sum(sampled)), float(len(sampled) + alike), float(sum(map(len, outputs)) - sum(sampled))]


def micro_batches(
    rows: list[DialogueRow], ranks: int, pad_token_id: int, alike: int = 0
) -> list[dict[str, torch.Tensor]]:
    """Rows in micro-batches of one a rank, heaviest first; idle ranks get a row that weighs nothing: `real` is 0.

    alike: `StepBatch.outputs_alike`.
    """
    rows = sorted(rows, key=lambda row: row.load, reverse=True)
    size = torch.tensor([step_size(rows, alike)] * ranks)
    collate, batches = DataCollatorForRollout(pad_token_id, num_processes=ranks), []
    for start in range(0, len(rows), ranks):
        share = rows[start : start + ranks]
        batch = collate.torch_call([share + [share[-1]] * (ranks - len(share))])
        batch["real"] = torch.tensor([float(n < len(share)) for n in range(ranks)])
        batch["step_size"] = size
        batches.append(batch)
    return batches


__all__ = ["AsyncGRPOConfig", "DialogueTrainer", "last_checkpoint"]
