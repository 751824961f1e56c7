"""The losses of a training step as their papers state them, on padded batches: B outputs of at most L tokens.

An independent reading by which packed rows are checked: DeepSeekMath (GRPO, without its KL term), Dr. GRPO, DAPO,
GSPO, MiniMax-M1 (CISPO), and truncated importance sampling (Yao et al.).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Setting:
    """One loss. importance: `none`, or what becomes of the ratio trainer : server beyond `cap` (`truncate`, `mask`)."""

    name: str
    importance: str = "none"
    cap: float = 2.0
    epsilon: float = 0.2
    epsilon_high: float = 0.2
    max_tokens: int = 120  # that an output may have


def padded(rows: list[Tensor], length: int) -> Tensor:
    """(B, length), zeros behind each row's values."""
    return torch.stack([torch.nn.functional.pad(row, (0, length - len(row))) for row in rows])


def policy_loss(outputs: list[Tensor], sampled: list[Tensor], advantages: list[float], setting: Setting) -> Tensor:
    """To be minimised. outputs: each one's log-probabilities, with gradient; sampled: the server's of the same."""
    lengths = torch.tensor([len(o) for o in outputs])
    longest = int(lengths.max())
    log_probs, before = padded(outputs, longest), padded(sampled, longest)
    mask, advantage = torch.arange(longest) < lengths[:, None], torch.tensor(advantages)[:, None]
    log_ratio = log_probs - before
    if setting.name == "gspo":  # an output's ratio: the geometric mean of its tokens'
        log_ratio = (log_ratio.sum(1) / lengths)[:, None].expand_as(log_probs)
    correction = torch.ones_like(log_ratio)
    if setting.importance != "none":  # the trainer's policy took no step yet: its own ratio is one, with a gradient
        correction = corrected(log_ratio.detach().exp(), setting)
        log_ratio = log_ratio - log_ratio.detach()
    terms = correction * surrogate(log_ratio.exp(), advantage, log_probs, setting)
    terms = torch.where(mask, terms, 0.0)
    if setting.name in ("grpo", "gspo"):  # the mean over an output's tokens, then over outputs
        return -(terms.sum(1) / lengths).mean()
    return -terms.sum() / (len(outputs) * setting.max_tokens if setting.name == "dr_grpo" else lengths.sum())


def corrected(ratio: Tensor, setting: Setting) -> Tensor:
    if setting.importance == "truncate":
        return ratio.clamp(max=setting.cap)
    return torch.where((ratio > setting.cap) | (ratio < 1 / setting.cap), 0.0, ratio)


def surrogate(ratio: Tensor, advantage: Tensor, log_probs: Tensor, setting: Setting) -> Tensor:
    high = 1 + setting.epsilon_high
    if setting.name == "cispo":
        return ratio.clamp(max=high).detach() * advantage * log_probs
    return torch.minimum(ratio * advantage, ratio.clamp(1 - setting.epsilon, high) * advantage)


def supervised_loss(outputs: list[Tensor], weights: list[float]) -> Tensor:
    """The mean over all tokens of what each costs, times its output's weight; 0 without outputs."""
    total = sum((-w * o.sum() for o, w in zip(outputs, weights, strict=True)), torch.zeros(()))
    return total / max(1, sum(map(len, outputs)))
