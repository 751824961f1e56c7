"""The trainer's steps on rollouts that are there already: what moves the weights, what does not, and what is noted."""

import queue

import numpy as np
import pytest
import torch
from proactor_lib import models
from proactor_lib.artf.training import losses
from proactor_lib.artf.training.rollouts import StepBatch
from proactor_lib.artf.training.train import grpo_config
from proactor_lib.bench.shapes import Shape, samples
from proactor_lib.params import Params

from support.late import Late

head, rows, sft, trainer = (Late(f"proactor_lib.artf.training.{name}") for name in ("head", "rows", "sft", "trainer"))

SHAPE = Shape(turns=2, k=2, output=3, catalog=10, turn=4, token_budget=60, model=models.TINY)


def outputs(**changes) -> list[dict]:
    return [s | changes for s in samples(SHAPE, vocabulary=1000)]


def supervised(weight: float) -> list[dict]:
    """The same outputs as if they were the references'."""
    return [s | {"old_log_probs": np.full_like(s["old_log_probs"], np.nan), "advantage": weight} for s in outputs()]


class Given:
    """A worker whose steps are there already."""

    def __init__(self, steps):
        self.rollout_buffer, self.metrics_queue, self._steps = queue.Queue(), queue.Queue(), list(steps)

    def next_step(self) -> StepBatch:
        return StepBatch(0, 0, [], self._steps.pop(0), seconds=0.0)

    start = stop = lambda self: None
    leased_versions = lambda self: set()  # noqa: E731
    update_model_version = lambda self, version: None  # noqa: E731


class Published:
    in_place, held = False, ()
    publish = lambda self, *_: None  # noqa: E731


def trained(folder, steps, rule=None, before=lambda learner: None):
    """The trainer after the steps, each step's statistics, and the weights before the first and after each."""
    params = Params(model=models.TINY, quantization="none", max_steps=len(steps), device="cpu", learning_rate=1e-2)
    base, notes, weights = sft.trainer_base(models.resolve(models.TINY), params), [], []

    def on_step(batch, statistics):
        notes.append(statistics)
        weights.append(snapshot(learner.model))

    learner = trainer.DialogueTrainer(
        model=base.path, args=grpo_config(params, folder, base), peft_config=sft.lora_config(params), rule=rule,
        processing_class=models.load_tokenizer(models.resolve(models.TINY)), worker=Given(steps), sync=Published(),
        start_from=None, on_step=on_step,
    )  # fmt: skip
    before(learner)
    weights.append(snapshot(learner.model))
    learner.train()
    return learner, notes, weights


def snapshot(model) -> torch.Tensor:
    return torch.cat([w.detach().flatten() for w in trainer.trained_weights(model)])


def test_a_step_without_gradient_does_not_move_the_weights(tmp_path):
    """Adam's momentum of the first step would, in the second; the third, without a row, neither."""
    _, notes, weights = trained(tmp_path, [outputs(), outputs(advantage=0.0), [], outputs()])
    assert notes[0]["grad_norm"] > 0 and notes[3]["grad_norm"] > 0
    assert [n["grad_norm"] for n in notes[1:3]] == [0, 0]
    assert not weights[0].equal(weights[1]) and not weights[3].equal(weights[4])
    assert weights[1].equal(weights[2]) and weights[2].equal(weights[3])
    assert notes[1]["kl"] > 0 and notes[2]["kl"] is None and notes[2]["anchor_loss"] is None
    assert all(n["kl_start"] is None for n in notes)  # nobody asked for it


def test_the_supervised_term_is_the_mean_over_the_references_tokens(tmp_path):
    """Beside outputs without advantage: its gradient is that of the plain log-probabilities."""
    found = {}

    def expect(learner):
        row = rows.DialogueRow()
        for s in supervised(1.0):
            row.add(s)
        loss = -head.row_log_probs(learner.model, row.pack()).mean()
        loss.backward()
        found["loss"] = loss.item()
        found["norm"] = torch.nn.utils.get_total_norm(
            [w.grad for w in trainer.trained_weights(learner.model) if w.grad is not None]
        )
        learner.model.zero_grad()

    step = [s for pair in zip(outputs(advantage=0.0), supervised(1.0), strict=True) for s in pair]
    _, notes, _ = trained(tmp_path, [step], losses.Rule(anchor=0.5), before=expect)
    assert notes[0]["anchor_loss"] == pytest.approx(found["loss"], rel=2e-3)
    assert notes[0]["grad_norm"] == pytest.approx(0.5 * found["norm"].item(), rel=2e-2)
    assert notes[0]["entropy"] > 0  # of the sampled tokens


def test_the_kl_is_to_the_start_and_pulls_back(tmp_path):
    """At the start it is 0; afterwards it alone moves the weights, towards where they came from."""
    rule = losses.Rule(kl_beta=1.0)
    _, notes, weights = trained(tmp_path, [outputs(), outputs(advantage=0.0), outputs(advantage=0.0)], rule)
    assert notes[0]["kl_start"] == pytest.approx(0, abs=1e-6) and notes[1]["kl_start"] > 1e-4
    assert notes[1]["grad_norm"] > 0 and not weights[1].equal(weights[2])
    assert notes[2]["kl_start"] < notes[1]["kl_start"]
