"""Losses of a step's sampled tokens, all cases of one form: - sum over tokens of weight x surrogate(ratio, advantage).

They differ in three things: what a token weighs (so that weights add up over the step), whether a ratio is a token's or
an output's, and how the surrogate bounds it. A step is taken once from the policy that was current when it began, so
that the ratio is the trainer's policy against the server's sampling.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """The M sampled tokens of one row, and of how many the step consists.

    log_probs: the trainer's, with gradient; sampled: the server's; segment: which of the row's outputs a token is of;
    step_tokens, step_outputs: as `StepSize`'s.
    """

    log_probs: Tensor
    sampled: Tensor
    advantages: Tensor
    segment: Tensor  # (M,) integers from 0
    step_tokens: float
    step_outputs: float

    @property
    def lengths(self) -> Tensor:
        """(M,): how many tokens each token's output has."""
        return self.segment.bincount()[self.segment].to(self.log_probs.dtype)

    def output_mean(self, values: Tensor) -> Tensor:
        """(M,): each token's output's mean of `values`."""
        sums = values.new_zeros(int(self.segment.max()) + 1 if len(values) else 0)
        return sums.index_add(0, self.segment, values)[self.segment] / self.lengths


def per_output(tokens: Tokens, limit: int) -> Tensor:
    """The mean over an output's tokens, then over the step's outputs, those of groups without variance too."""
    return 1 / (tokens.lengths * tokens.step_outputs)


def per_token(tokens: Tokens, limit: int) -> Tensor:
    """The mean over the tokens of the step's groups with variance, of which few weigh as much as many.

    A step that triggers much has many tokens (a trigger is longer than silence), and so unlearns less by each.
    """
    return torch.full_like(tokens.log_probs, 1 / tokens.step_tokens)


def per_limit(tokens: Tokens, limit: int) -> Tensor:
    """The sum over tokens by the step's outputs times the most tokens that an output may have: the same for all tokens
    of a step, however much of it varies."""
    return torch.full_like(tokens.log_probs, 1 / (tokens.step_outputs * limit))


def clipped(ratio: Tensor, advantages: Tensor, log_probs: Tensor, low: float, high: float) -> Tensor:
    """PPO's: min(r A, clip(r, low, high) A)."""
    return torch.min(ratio * advantages, ratio.clamp(low, high) * advantages)


def weighted_log_prob(ratio: Tensor, advantages: Tensor, log_probs: Tensor, low: float, high: float) -> Tensor:
    """CISPO's: min(r, high) A log p, the bounded ratio without gradient: no token's gradient is ever lost."""
    return ratio.clamp(max=high).detach() * advantages * log_probs


@dataclass(frozen=True)
class Loss:
    """One of the family."""

    weigh: Callable[[Tokens, int], Tensor]
    surrogate: Callable[[Tensor, Tensor, Tensor, float, float], Tensor] = clipped
    by_output: bool = False  # the ratio is an output's: the geometric mean of its tokens'


LOSSES = {
    "grpo": Loss(per_output),  # DeepSeekMath, arXiv 2402.03300
    "dr_grpo": Loss(per_limit),  # arXiv 2503.20783; its other half is scale_rewards: none
    "dapo": Loss(per_token),  # arXiv 2503.14476; its other half is epsilon_high (0.28 there)
    "gspo": Loss(per_output, by_output=True),  # arXiv 2507.18071; epsilon is 0.0003 there
    "cispo": Loss(per_token, weighted_log_prob),  # MiniMax-M1, arXiv 2506.13585; epsilon_high is large there
}


@dataclass(frozen=True)
class Rule:
    """How a step's tokens become a loss; names and units as the parameters of the same names."""

    loss: str = "dapo"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    importance_sampling: str = "none"
    importance_cap: float = 2.0
    kl_beta: float = 0.0
    anchor: float = 0.0
    max_completion_tokens: int = 120

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the ratio."""
        return 1 - self.epsilon, 1 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)


def policy_loss(tokens: Tokens, rule: Rule) -> tuple[Tensor, dict[str, Tensor]]:
    """The row's share of the step's loss (a scalar), and sums over its tokens: `clipped`, `corrected`.

    clipped: tokens whose ratio is out of bounds on the side that the advantage pushes to; corrected: those that
    importance sampling truncates or masks.
    """
    chosen, (low, high) = LOSSES[rule.loss], rule.bounds
    log_ratio = tokens.log_probs - tokens.sampled
    if chosen.by_output:
        log_ratio = tokens.output_mean(log_ratio)
    correction, corrected = _correction(log_ratio.detach().exp(), rule)
    if rule.importance_sampling != "none":  # the correction holds the mismatch: what is left is this update's own ratio
        log_ratio = log_ratio - log_ratio.detach()
    ratio, advantages = log_ratio.exp(), tokens.advantages
    surrogate = correction * chosen.surrogate(ratio, advantages, tokens.log_probs, low, high)
    beyond = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
    loss = -(chosen.weigh(tokens, rule.max_completion_tokens) * surrogate).sum()
    return loss, {"clipped": beyond.sum(), "corrected": corrected.sum()}


def _correction(ratio: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """What importance sampling multiplies each token's surrogate by, and which tokens it changes the ratio of."""
    cap = rule.importance_cap
    if rule.importance_sampling == "truncate":
        return ratio.clamp(max=cap), ratio > cap
    if rule.importance_sampling == "mask":
        outside = (ratio > cap) | (ratio < 1 / cap)
        return ratio.masked_fill(outside, 0.0), outside
    return torch.ones_like(ratio), torch.zeros_like(ratio, dtype=torch.bool)


def divergence(log_probs: Tensor, others: Tensor) -> Tensor:
    """(M,), nats, never negative: Schulman's k3 estimate of KL(log_probs || others) from tokens of the former."""
    difference = others - log_probs
    return difference.exp() - 1 - difference


SUMS = ("tokens", "kl", "entropy", "clipped", "corrected", "kl_start", "supervised", "supervised_nats")  # over tokens


@dataclass(frozen=True)
class StepSize:
    """Of how much an optimiser step consists, over all its rows and ranks."""

    tokens: float  # sampled ones of groups with variance: DAPO samples until all groups have some
    outputs: float  # scored ones, of groups without variance too
    supervised: float  # tokens of the references' outputs


def row_loss(
    log_probs: Tensor,
    entropy: Tensor,
    row: Mapping[str, Tensor],
    size: StepSize,
    rule: Rule,
    start: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A row's share of the step's loss: policy loss + kl_beta KL(policy || start) + anchor x supervised loss; and SUMS.

    `row`: the M loss terms of a packed row: old_log_probs (NaN: a token of the references' output, which nobody
    sampled), advantages (of such a token: its weight), segment_id. log_probs, entropy, start: (M,), nats.
    """
    sampled = ~row["old_log_probs"].isnan()
    tokens = Tokens(
        log_probs[sampled], row["old_log_probs"][sampled], row["advantages"][sampled], row["segment_id"][sampled],
        max(size.tokens, 1.0), max(size.outputs, 1.0),
    )  # fmt: skip
    loss, sums = policy_loss(tokens, rule)
    nats = -log_probs[~sampled]
    loss = loss + rule.anchor * (row["advantages"][~sampled] * nats).sum() / max(size.supervised, 1.0)
    sums |= {"tokens": sampled.sum(), "entropy": entropy[sampled].sum(), "supervised": (~sampled).sum()}
    sums |= {"kl": divergence(tokens.sampled, tokens.log_probs).sum(), "supervised_nats": nats.sum()}
    if start is not None:
        drift = divergence(tokens.log_probs, start[sampled])
        loss = loss + rule.kl_beta * (LOSSES[rule.loss].weigh(tokens, rule.max_completion_tokens) * drift).sum()
        sums["kl_start"] = drift.sum()
    return loss, {name: value.detach().float() for name, value in sums.items()}
