"""Log-probabilities of trained tokens under a frozen language-model head, in one pass over the vocabulary [ours].

TRL's fused head scores every position on a CPU and recomputes the logits in its backward. Here only trained positions
are scored, and since the head is frozen, its gradient d log p(y) / d h = W[y] - sum_v p_v W[v] is taken in the same
pass: the backward is one multiplication. The difference is taken before rounding, for of a nearly certain token it is
small: in bfloat16, W[y] less the sum has no right digit at p(y) = 0.999.
"""

import types
from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from proactor_lib.errors import UserError

ROWS = 256  # positions whose logits (ROWS x vocabulary, float32) are held at once


@dataclass
class ScoredOutput(ModelOutput):
    """What a forward with `fused_lm_head` answers, as TRL's FusedCausalLMOutput: each (1, N)."""

    log_probs: torch.FloatTensor | None = None
    entropy: torch.FloatTensor | None = None
    label_mask: torch.BoolTensor | None = None  # where a label is scored


class FrozenHead(torch.autograd.Function):
    """hidden (M, d), frozen weight (V, d), labels (M) -> log-probabilities (M) and entropies (M), both float32."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, temperature: float):
        log_probs, entropies, slopes = [], [], []
        for h, y in zip(hidden.split(ROWS), labels.split(ROWS), strict=True):
            logits = h @ weight.T
            if temperature != 1.0:
                logits = logits.float() / temperature
            every = logits.log_softmax(dim=-1, dtype=torch.float32)
            log_probs.append(every.gather(1, y[:, None])[:, 0])
            probs = every.exp()
            entropies.append(-torch.linalg.vecdot(probs, every))
            less = probs.neg_().scatter_add_(1, y[:, None], probs.new_ones(len(y), 1))  # one-hot less probabilities
            slopes.append((less.to(weight.dtype) @ weight) / temperature)
        ctx.save_for_backward(torch.cat(slopes))
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(log_probs), entropy

    @staticmethod
    def backward(ctx, grad, _):
        (slopes,) = ctx.saved_tensors
        return (grad[:, None] * slopes).to(slopes.dtype), None, None, None


def attach_head(model, temperature: float = 1.0, **_) -> None:
    """Let `model(..., shift_labels=(1, N), fused_lm_head=True)` answer log_probs and entropy (1, N), 0 where -100.

    A replacement for TRL's `add_fused_lm_head`, with its call and its answer; without `fused_lm_head` nothing changes.
    Raises ValueError if the head would be trained, UserError for a model that does more to its logits than the head.
    """
    _refuse_other_logits(model)
    plain = model.forward

    def forward(self, *args, fused_lm_head=False, shift_labels=None, **kwargs):
        if not fused_lm_head:
            return plain(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs, use_cache=False).last_hidden_state
        head = self.get_output_embeddings().weight
        if head.requires_grad:
            raise ValueError("the language-model head must be frozen: train adapters on other layers")
        scored = shift_labels != -100
        log_probs, entropy = FrozenHead.apply(hidden[scored].to(head.dtype), head, shift_labels[scored], temperature)
        spread = (x.new_zeros(scored.shape).masked_scatter(scored, x) for x in (log_probs, entropy))
        return ScoredOutput(**dict(zip(("log_probs", "entropy"), spread, strict=True)), label_mask=scored)

    model.forward = types.MethodType(forward, model)


def _refuse_other_logits(model) -> None:
    config, settings = model.config.get_text_config(), ("final_logit_softcapping", "logits_scaling", "logit_scale")
    found = [name for name in settings if getattr(config, name, None) not in (None, 1)]
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        found.append("bias of the head")
    if found:
        raise UserError(f"model {config.model_type!r} changes its logits ({', '.join(found)}), which training does not")


def row_log_probs(model, row: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probabilities (M) of a packed row's trained tokens; in bfloat16 arithmetic unless the model is float32."""
    device = model.device
    row = {k: v.to(device) for k, v in row.items()}
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=model.dtype != torch.float32):
        out = model(
            input_ids=row["input_ids"][None],
            position_ids=row["position_ids"][None],
            shift_labels=row["shift_labels"][None],
            fused_lm_head=True,
            tree_kv_index=row["tree_kv_index"],
            tree_cu_seqlens_q=row["tree_cu_seqlens_q"],
            tree_cu_seqlens_k=row["tree_cu_seqlens_k"],
            tree_max_seqlen_q=0,
            tree_max_seqlen_k=0,
        )
    return out.log_probs.flatten()[row["token_index"]]
