"""Random steps of training in packed rows against a plain forward of each output and the losses as published."""

import math
import random
from contextlib import nullcontext
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from proactor_lib.artf.training import cpu_attention, losses
from proactor_lib.bench.packing import tiny_float32

from support.late import Late
from support.naive_losses import Setting, policy_loss, supervised_loss

rows, trainer = (Late(f"proactor_lib.artf.training.{name}") for name in ("rows", "trainer"))

END, ANCHOR, LIMIT = 2, 0.5, 40  # the token that ends an output; the anchor's weight; tokens that an output may have
UNBOUNDED = 10**9
IMPORTANCE = ("none", "truncate", "mask")
CASES = [(loss, importance) for loss in losses.LOSSES for importance in IMPORTANCE]


class Output(NamedTuple):
    """What was said at one turn of a dialogue; a supervised one is a reference's, which nobody sampled."""

    dialogue: str
    turn: int
    prompt: list[int]
    tokens: list[int]
    weight: float  # its advantage, or what it counts as a supervised one
    supervised: bool = False


class Step(NamedTuple):
    """The outputs of one step, and how they are packed and forwarded."""

    outputs: list[Output]
    budget: int  # tokens that are forwarded at once
    cut: bool  # rows are whole dialogues, forwarded in parts; else they are what the budget holds
    run: int  # cpu_attention.RUN


def random_steps(loss: str, importance: str) -> list[Step]:
    """A step whose rows are cut, and one whose rows are not."""
    dice = random.Random(f"{loss} {importance}")
    cut, uncut = random_outputs(dice), random_outputs(dice)
    budget = dice.choice([1, longest(cut) // 2, longest(cut)])
    within = dice.choice([UNBOUNDED, longest(uncut), longest(uncut) + 5])
    return [Step(cut, budget, True, dice.choice([256, 8, 1])), Step(uncut, within, False, dice.choice([256, 8, 1]))]


def longest(outputs: list[Output]) -> int:
    return max(len(o.prompt) + len(o.tokens) for o in outputs)


def random_outputs(dice: random.Random) -> list[Output]:
    """Of one to three dialogues that begin alike. Few different tokens make prefixes that agree by accident."""
    vocabulary = range(10, 10 + dice.choice([3, 5, 60]))
    head, cue = (dice.choices(vocabulary, k=dice.choice(counts)) for counts in ([1, 6, 30], [1, 2, 3]))
    names, anchored = [f"d{n}" for n in range(dice.choice([1, 2, 3]))], dice.random() < 0.4
    return [o for name in names for o in random_dialogue(dice, name, head, cue, vocabulary, anchored)]


def random_dialogue(dice, name, head, cue, vocabulary, anchored) -> list[Output]:
    """At some turns nothing was sampled. Its turns may begin as prompts end: then an output may be its next words."""
    opening = dice.choice([[], cue])
    turns = [dice.choices(vocabulary, k=dice.choice([1, 4, 12])) for _ in range(dice.choice([1, 2, 4]))]
    text, outputs, sampled_at = list(head), [], dice.randrange(len(turns))
    group = dice.choice([2, 3])
    for turn, (words, following) in enumerate(zip(turns, [*turns[1:], []], strict=True)):
        text = text + opening + words
        if turn == sampled_at or dice.random() < 0.65:
            said = random_group(dice, group, vocabulary, following[:3])
            outputs += [Output(name, turn, text + cue, tokens, dice.gauss(0, 1)) for tokens in said]
        if anchored:
            tokens = dice.choices(vocabulary, k=dice.choice([1, 3])) + [END]
            outputs.append(Output(name, turn, text + cue, tokens, 2 * dice.random(), supervised=True))
    return outputs


def random_group(dice: random.Random, count: int, vocabulary: range, following: list[int]) -> list[list[int]]:
    """Of one turn: one perhaps twice, one perhaps a little longer than another, one perhaps what the dialogue says."""
    outputs = [dice.choices(vocabulary, k=dice.choice([0, 1, 2, 7, 20])) + [END] for _ in range(count)]
    if dice.random() < 0.4:
        outputs[1] = outputs[0]
    if dice.random() < 0.3:
        outputs[-1] = [*outputs[0][:-1], vocabulary[1], END]
    if dice.random() < 0.3:
        outputs[0] = [*following, END]
    return outputs


def sample(output: Output, sampled: torch.Tensor) -> dict:
    """The output as a trainer's row takes it."""
    before = len(output.prompt)
    old = torch.full_like(sampled, math.nan) if output.supervised else sampled
    return {
        "input_ids": np.array(output.prompt + output.tokens),
        "completion_mask": np.array([0] * before + [1] * len(output.tokens)),
        "old_log_probs": np.array([0.0] * before + old.tolist(), dtype=np.float32),
        "advantage": output.weight, "group_id": output.turn, "dialogue": output.dialogue, "metrics": {},
    }  # fmt: skip


class Given:
    """A worker whose step is there already."""

    def __init__(self, samples: list[dict]):
        self.samples = samples

    def next_step(self):
        return SimpleNamespace(samples=self.samples, outputs_alike=0)


def learner(samples: list[dict], step: Step, rule: losses.Rule):
    """What of a DialogueTrainer packs a step and takes it, without TRL's set-up; and a list that its forwards fill."""
    forwards = []
    made = object.__new__(trainer.DialogueTrainer)
    made.__dict__ |= {
        "args": SimpleNamespace(token_budget=step.budget, device="cpu"), "rollout_worker": Given(samples),
        "processing_class": SimpleNamespace(pad_token_id=0), "before_row": lambda: forwards.append(1),
        "_rule": rule, "_start": None, "_sums": torch.zeros(len(losses.SUMS)), "_step_microbatches": 0,
        "_current_train_step_time": 0.0, "_step_forward_tokens": 0.0, "_prepare_inputs": lambda row: row,
        "compute_loss_context_manager": nullcontext,
        "accelerator": SimpleNamespace(
            num_processes=1, process_index=0, is_main_process=True, no_sync=lambda model: nullcontext(),
            reduce=lambda values, reduction: values, backward=lambda loss: loss.backward(),
        ),
    }  # fmt: skip
    if not step.cut:
        made.rows = lambda samples: rows.dialogue_rows(samples, step.budget)
    return made, forwards


def log_probs(model, output: Output) -> torch.Tensor:
    """Of its tokens, by a forward of its prompt and itself."""
    ids, count = torch.tensor([output.prompt + output.tokens]), len(output.tokens)
    logits = model(input_ids=ids, use_cache=False).logits[0, -count - 1 : -1]
    return logits.log_softmax(-1).gather(1, ids[0, -count:, None])[:, 0]


def published_loss(outputs: list[Output], found: list[torch.Tensor], sampled: list[torch.Tensor], setting: Setting):
    """The step's, of each output's log-probabilities."""
    groups = []
    for supervised in (False, True):
        places = [i for i, o in enumerate(outputs) if o.supervised == supervised]
        groups.append([[values[i] for i in places] for values in (found, sampled, [o.weight for o in outputs])])
    (own, before, advantages), (given, _, weights) = groups
    return policy_loss(own, before, advantages, setting) + ANCHOR * supervised_loss(given, weights)


def take_gradient(model) -> torch.Tensor:
    """All of it in one vector; the model has none afterwards."""
    weights = trainer.trained_weights(model)
    taken = torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in weights])
    model.zero_grad(set_to_none=True)
    return taken


@pytest.fixture(scope="module")
def models():
    """A model as it is trained, and the same one as the libraries have it."""
    ours, plain = tiny_float32(), tiny_float32(lean=False)
    plain.set_attn_implementation("sdpa")
    assert all(a.equal(b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    return ours, plain


@pytest.mark.parametrize("loss, importance", CASES)
def test_a_packed_step_has_the_published_loss_and_gradient(models, monkeypatch, loss, importance):
    """The server's policy differs a little from the trainer's: ratios are clipped, truncated, masked."""
    ours, plain = models
    high = {"grpo": None, "gspo": 0.1}.get(loss, 0.28)
    rule = losses.Rule(loss, 0.2, high, importance, 1.2, anchor=ANCHOR, max_completion_tokens=LIMIT)
    setting = Setting(loss, importance, 1.2, 0.2, high or 0.2, LIMIT)
    generator = torch.Generator().manual_seed(0)
    for step in random_steps(loss, importance):
        monkeypatch.setattr(cpu_attention, "RUN", step.run)
        found = [log_probs(plain, output) for output in step.outputs]
        sampled = [x.detach() + 0.2 * torch.randn(len(x), generator=generator) for x in found]
        expected = published_loss(step.outputs, found, sampled, setting)
        expected.backward()
        wanted = take_gradient(plain)
        made, forwards = learner([sample(*pair) for pair in zip(step.outputs, sampled, strict=True)], step, rule)
        batch = next(iter(trainer.StepLoader(made)))
        total, gradient = made.training_step(ours, batch), take_gradient(ours)
        assert (len(forwards) > len(batch["rows"])) == step.cut
        assert abs(float(total) - expected.item()) < 1e-4
        assert (gradient - wanted).norm() < 1e-3 * wanted.norm()


def test_the_random_steps_have_what_is_hard():
    steps = [step.outputs for case in CASES for step in random_steps(*case)]
    places = [{(o.dialogue, o.turn) for o in outputs} for outputs in steps]
    assert any(len({o.dialogue for o in outputs}) == 3 for outputs in steps)
    assert any((name, turn - 1) not in those for those in places for name, turn in those if turn)  # no output
    assert any(len({o.supervised for o in outputs}) == 2 for outputs in steps)
    assert any(said_twice(outputs) for outputs in steps)
    assert any(goes_on(o, p) for outputs in steps for o in outputs for p in outputs)


def said_twice(outputs: list[Output]) -> bool:
    said = [(o.dialogue, o.turn, tuple(o.tokens)) for o in outputs if not o.supervised]
    return len(set(said)) < len(said)


def goes_on(output: Output, later: Output) -> bool:
    """Whether the output says what the dialogue does."""
    whole = output.prompt + output.tokens[:-1]
    return output.dialogue == later.dialogue and len(output.tokens) > 2 and later.prompt[: len(whole)] == whole
