"""TRL's async GRPO trainer with what it lacks: whole-step batches, dialogue rows, any policy sync, safe checkpoints.

Kept of TRL: the model's set-up, the clipped loss and its statistics, the optimiser loop. Replaced: the dataloader (a
step is emitted when its last group arrives, nothing is read ahead), the attention and the head, the sync of weights,
and how a checkpoint gets its name (written aside, then renamed).
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list

from datasets import Dataset
from proactor_lib.artf.serving.policy_sync import PolicySync
from proactor_lib.artf.training import head, tree_attention
from proactor_lib.artf.training.rollouts import RolloutWorker, StepBatch
from proactor_lib.artf.training.sft import take_input_as_it_is
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


class DialogueTrainer(AsyncGRPOTrainer):
    """AsyncGRPOTrainer over StepBatches. `on_step(batch, metrics)` gets each trained step, on rank 0.

    attention: the name of its rows' attention; before_row: called before each row's forward.
    """

    attention = tree_attention.TREE_ATTENTION
    before_row: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *, worker: RolloutWorker | None, sync: PolicySync | None, start_from: Path | None,
                 on_step: Callable[[StepBatch, dict], None], **kwargs):  # fmt: skip
        self._policy_sync, self._on_step = sync, on_step
        self._batch: StepBatch | None = None
        self._waited = self._synced = self._began = 0.0
        super().__init__(
            train_dataset=Dataset.from_dict({"prompt": [""]}),  # never read: the worker brings the data
            rollout_worker=worker,
            weight_transfer=NoTransfer(),
            **kwargs,
        )
        self.model.set_attn_implementation(self.attention)
        take_input_as_it_is(self.model)
        if start_from is not None:
            load_adapter(self.model, start_from)

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
        return micro_batches(rows, self.accelerator.num_processes, self.processing_class.pad_token_id)

    def rows(self, samples: list[dict]) -> list[tree_attention.DialogueRow]:
        """How a step's samples become rows."""
        return tree_attention.dialogue_rows(samples, self.args.token_budget)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Forward and backward of the step's rows, one after another; the loss is the mean over the step's tokens."""
        began, total = time.perf_counter(), 0.0
        rows = inputs["rows"]
        model.train()
        for n, row in enumerate(rows):
            self.before_row()
            row = self._prepare_inputs(row)
            last = n + 1 == len(rows)
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = self.compute_loss(model, row)
                self.accelerator.backward(loss)
            total += loss.detach()
        self._step_microbatches += len(rows)
        self._current_train_step_time += time.perf_counter() - began
        return total

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
        if self.accelerator.is_main_process:
            sink = self._metrics["train"]
            statistics = {k: sum(v) / len(v) for k, v in sink.items() if v and not isinstance(v[0], tuple)}
            statistics |= {"rollout_wait_s": self._waited, "train_s": self._current_train_step_time,
                           "sync_s": self._synced, "tokens_packed": self._step_forward_tokens,
                           "elapsed_s": time.monotonic() - self._began,
                           "ranks": self.accelerator.num_processes}  # fmt: skip
            self._on_step(self._batch, statistics)
        self._metrics["train"].clear()
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


def micro_batches(
    rows: list[tree_attention.DialogueRow], ranks: int, pad_token_id: int
) -> list[dict[str, torch.Tensor]]:
    """Rows in micro-batches of one a rank, heaviest first; idle ranks get a row that weighs nothing in the loss."""
    rows = sorted(rows, key=lambda row: row.load, reverse=True)
    trained = sum(row.trained for row in rows)
    collate, batches = DataCollatorForRollout(pad_token_id, num_processes=ranks), []
    for start in range(0, len(rows), ranks):
        share = rows[start : start + ranks]
        batch = collate.torch_call([share + [share[-1]] * (ranks - len(share))])
        batch["advantages"][len(share) :] = 0.0
        batch["global_n_tokens"].fill_(float(trained))
        batches.append(batch)
    return batches


def save_adapter(model, folder: Path) -> None:
    """The model's LoRA adapter as a PEFT folder, whole or absent."""
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)


def copy_adapter(checkpoint: Path, folder: Path) -> None:
    """A checkpoint's adapter as a PEFT folder, whole or absent."""
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(checkpoint / name, aside)
    os.replace(aside, folder)


def load_adapter(model, folder: Path) -> None:
    """Put the weights of a saved adapter into the model's own. ValueError if some of them have no place in it."""
    from peft import load_peft_weights, set_peft_model_state_dict

    result = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    if result.unexpected_keys:
        raise ValueError(f"{folder} holds weights that the model lacks: {result.unexpected_keys[:3]}")


__all__ = ["AsyncGRPOConfig", "DialogueTrainer", "last_checkpoint", "load_adapter", "save_adapter"]
