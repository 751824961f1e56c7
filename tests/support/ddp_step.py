"""Ten optimiser steps of DialogueTrainer on recorded rollouts, alone or as one of several ranks; see test_ranks."""

import queue
from pathlib import Path

import torch
from proactor_lib import models
from proactor_lib.artf.training.rollouts import StepBatch
from proactor_lib.artf.training.sft import lora_config, trainer_base
from proactor_lib.artf.training.train import grpo_config
from proactor_lib.artf.training.trainer import DialogueTrainer
from proactor_lib.bench.shapes import Shape, samples
from proactor_lib.params import Params
from transformers import TrainerCallback

# Three rows (two ranks: one idles once), of unequal length; the model is sampled from afar, so that clipping occurs.
SHAPE = Shape(turns=4, k=2, output=3, catalog=10, turn=4, token_budget=34, model=models.TINY)


STEPS = 10


class Given:
    """A worker whose rollouts are there already."""

    def __init__(self):
        self.rollout_buffer, self.metrics_queue, self.handed_out = queue.Queue(), queue.Queue(), 0

    def next_step(self) -> StepBatch:
        self.handed_out += 1
        return StepBatch(0, 0, [], samples(SHAPE, vocabulary=1000, seed=self.handed_out), seconds=0.0)

    start = stop = lambda self: None
    leased_versions = lambda self: set()  # noqa: E731
    update_model_version = lambda self, version: None  # noqa: E731


class Published:
    """A policy sync that counts."""

    in_place, versions, held = False, 0, ()

    def publish(self, version: int, adapter: Path, leased=()) -> None:
        self.versions += 1


class Gradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        if state.global_step > 0:
            return
        self.taken = {n.removeprefix("module."): p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def main(out: Path) -> None:
    """Rank 0 writes the steps' losses, the first one's gradients, and statistics to OUT/steps.pt."""
    params = Params(model=models.TINY, quantization="none", max_steps=STEPS, token_budget=SHAPE.token_budget,
                    device="cpu", trainer_dtype="float32")  # fmt: skip
    kept, worker, sync, gradients = [], Given(), Published(), Gradients()
    base = trainer_base(models.resolve(models.TINY), params)
    trainer = DialogueTrainer(
        model=base.path, args=grpo_config(params, out, base), peft_config=lora_config(params),
        processing_class=models.load_tokenizer(models.resolve(models.TINY)), worker=worker, sync=sync,
        start_from=None, on_step=lambda batch, statistics: kept.append(statistics), callbacks=[gradients],
    )  # fmt: skip
    torch.manual_seed(1)
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    trainer.train()
    rank = trainer.accelerator.process_index
    assert (worker.handed_out, sync.versions > 0) == ((STEPS, True) if rank == 0 else (0, False))
    if rank == 0:
        loss = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        torch.save(
            {
                "loss": loss,
                "gradients": gradients.taken,
                "statistics": kept,
                "ranks": trainer.accelerator.num_processes,
            },
            out / "steps.pt",
        )
