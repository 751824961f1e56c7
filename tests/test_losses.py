"""The losses against numbers worked out by hand: values, and where the gradient goes."""

from math import exp, log

import pytest
import torch
from proactor_lib.artf.training.losses import LOSSES, Rule, Tokens, divergence, policy_loss

# Two outputs of a step of two: the first has one token, the second three. Ratios trainer : server.
RATIOS = torch.tensor([1.5, 1.1, 0.5, 1.0])
ADVANTAGES = torch.tensor([1.0, -2.0, -2.0, -2.0])
SAMPLED = torch.tensor([-1.0, -2.0, -1.0, -0.5])


def tokens(ratios=RATIOS, advantages=ADVANTAGES, **changes):
    log_probs = (SAMPLED[: len(ratios)] + ratios.log()).requires_grad_()
    step = {"step_tokens": 4.0, "step_outputs": 2.0} | changes
    segment = torch.tensor([0, 1, 1, 1])[: len(ratios)]
    return Tokens(log_probs, SAMPLED[: len(ratios)], advantages, segment, **step)


def loss_of(row=None, **rule):
    return policy_loss(row or tokens(), Rule(max_completion_tokens=10, **rule))


# min(r A, clip(r, .8, 1.2) A): 1.2, clipped; -2.2; min(-1, -1.6) = -1.6, clipped; -2
SURROGATES = [1.2, -2.2, -1.6, -2.0]


@pytest.mark.parametrize(
    "loss, expected",
    [
        ("grpo", -(1.2 / 1 + (-2.2 - 1.6 - 2.0) / 3) / 2),
        ("dr_grpo", -sum(SURROGATES) / (2 * 10)),
        ("dapo", -sum(SURROGATES) / 4),
        # an output's ratio: 1.5, clipped to 1.2; (1.1 * 0.5 * 1) ** (1 / 3) = 0.8193, times -2
        ("gspo", -(1.2 - 2 * 0.55 ** (1 / 3)) / 2),
        # min(r, 1.2) A log p, with log p = the server's + log r
        ("cispo", -(1.2 * (-1 + log(1.5)) - 2.2 * (-2 + log(1.1)) - 1.0 * (-1 + log(0.5)) - 2.0 * -0.5) / 4),
    ],
)
def test_values(loss, expected):
    assert loss_of(loss=loss)[0].item() == pytest.approx(expected, rel=1e-6)
    assert set(LOSSES) == {"grpo", "dr_grpo", "dapo", "gspo", "cispo"}


@pytest.mark.parametrize(
    "loss, expected",  # d r / d log p = r; a clipped token has no gradient
    [
        ("grpo", [0, 2.2 / 6, 0, 2.0 / 6]),
        ("dr_grpo", [0, 2.2 / 20, 0, 2.0 / 20]),
        ("dapo", [0, 2.2 / 4, 0, 2.0 / 4]),
        ("gspo", [0, *[2 * 0.55 ** (1 / 3) / 3 / 2] * 3]),  # an output's ratio gives its tokens one gradient
        ("cispo", [-1.2 / 4, 2.2 / 4, 1.0 / 4, 2.0 / 4]),  # none is lost
    ],
)
def test_gradients(loss, expected):
    row = tokens()
    loss_of(row, loss=loss)[0].backward()
    assert row.log_probs.grad.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_add_up_to_the_step(loss):
    """A step in one row, or each output in a row of its own: one loss."""
    whole = tokens()
    parts = [
        Tokens(whole.log_probs[k], whole.sampled[k], whole.advantages[k], torch.zeros(len(k), dtype=int), 4.0, 2.0)
        for k in (torch.tensor([0]), torch.tensor([1, 2, 3]))
    ]
    assert sum(loss_of(p, loss=loss)[0] for p in parts).item() == pytest.approx(loss_of(loss=loss)[0].item())


@pytest.mark.parametrize("loss", LOSSES)
def test_twice_the_advantage_is_twice_the_loss(loss):
    """So that the weight of a turn's kind can be carried by its advantages."""
    twice = tokens(advantages=2 * ADVANTAGES)
    assert loss_of(twice, loss=loss)[0].item() == pytest.approx(2 * loss_of(loss=loss)[0].item())


def test_the_upper_bound_is_its_own():
    assert Rule(epsilon=0.1).bounds == (0.9, 1.1) and Rule(epsilon_high=0.6).bounds == (0.8, 1.6)
    loss, sums = loss_of(epsilon_high=0.6)
    assert loss.item() == pytest.approx(-(1.5 - 2.2 - 1.6 - 2.0) / 4)
    assert sums["clipped"] == 1  # the third; with 1.2 above, the first too
    assert loss_of()[1]["clipped"] == 2


@pytest.mark.parametrize(
    "how, weights, corrected",
    [("none", None, 0), ("truncate", [1.3, 1.1, 0.5, 1.0], 1), ("mask", [0, 1.1, 0, 1.0], 2)],  # cap 1.3: 0.769 to 1.3
)
def test_importance_sampling(how, weights, corrected):
    row = tokens()
    loss, sums = loss_of(row, importance_sampling=how, importance_cap=1.3)
    loss.backward()
    assert sums["corrected"] == corrected
    if weights:  # the surrogate's own ratio is 1: nothing is clipped, and the gradient is - weight x A / tokens
        expected = [-w * a / 4 for w, a in zip(weights, ADVANTAGES.tolist(), strict=True)]
        assert row.log_probs.grad.tolist() == pytest.approx(expected) and sums["clipped"] == 0
        assert loss.item() == pytest.approx(sum(expected))


def test_importance_sampling_by_output():
    row = tokens()
    loss_of(row, loss="gspo", importance_sampling="truncate", importance_cap=1.3)[0].backward()
    second = 2 * 0.55 ** (1 / 3) / 3 / 2
    assert row.log_probs.grad.tolist() == pytest.approx([-1.3 / 2, second, second, second])


def test_divergence():
    log_probs, others = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -1.0, -0.5])
    assert divergence(log_probs, others).tolist() == pytest.approx([exp(-0.5) - 0.5, exp(1) - 2, 0], abs=1e-6)
