"""Ways to lay the samples of a step out in rows, each with its attention: padded, TRL's tree, ours.

All rows pack to the same tensors, so that one model, one loss and one trainer run them all.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from proactor_lib.artf.training import tree_attention
from proactor_lib.artf.training.rows import DialogueRow, dialogue_rows
from proactor_lib.artf.training.trl_async import TokenBudgetBatcher, TreeRow


class Layout(NamedTuple):
    """`rows(samples, token_budget)`, and the name that its attention is registered under."""

    rows: Callable[[list[dict], int], list[TreeRow]]
    attention: str


class PaddedRow(TreeRow):
    """Samples side by side, each padded to the longest: nothing is shared.

    Packed as one row of B * L tokens, sequence after sequence: to our attention a trunk and B - 1 blocks that see
    nothing of it, so that this and `padded_attention` agree.
    """

    def fits(self, sample: dict, budget: int) -> bool:
        """Whether B + 1 sequences, padded to the longest, stay within `budget` tokens."""
        longest = max(len(s["input_ids"]) for s in [*self.samples, sample])
        return longest * (len(self.samples) + 1) <= budget

    def add(self, sample: dict) -> None:
        self.samples.append(sample)
        self.groups.add(sample["group_id"])
        self.trained += int(sample["completion_mask"].sum())
        length = max(len(s["input_ids"]) for s in self.samples)
        self.tokens = [0] * (length * len(self.samples))  # as many as are forwarded
        self.load = length * (length + 1) // 2 * len(self.samples)

    def pack(self) -> dict[str, torch.Tensor]:
        """As `DialogueRow.pack`; padding is token 0 and stands behind, so that causal attention never sees it."""
        length = max(len(s["input_ids"]) for s in self.samples)
        ids = torch.zeros(len(self.samples), length, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        index, old, advantages, segment = [], [], [], []
        for i, sample in enumerate(self.samples):
            tokens, mask = torch.as_tensor(sample["input_ids"]), torch.as_tensor(sample["completion_mask"]).bool()
            ids[i, : len(tokens)] = tokens
            trained = mask[1:].nonzero()[:, 0]
            labels[i, trained] = tokens[trained + 1]
            index.append(i * length + trained)
            old.append(torch.as_tensor(sample["old_log_probs"][1:])[trained].float())
            advantages.append(torch.full((len(trained),), float(sample["advantage"])))
            segment.append(torch.full((len(trained),), i))
        place = torch.arange(ids.numel())
        return {
            "input_ids": ids.flatten(),
            "position_ids": torch.arange(length).repeat(len(ids)),
            "shift_labels": labels.flatten(),
            "tree_kv_index": (place // length + 1) * length,
            "tree_cu_seqlens_q": torch.arange(0, len(place) + 1, length),
            "tree_cu_seqlens_k": torch.where(place < length, place + 1, 0),
            "tree_max_seqlens": torch.tensor([length, length]),
            "token_index": torch.cat(index),
            "old_log_probs": torch.cat(old),
            "advantages": torch.cat(advantages),
            "segment_id": torch.cat(segment),
        }


def padded_rows(samples: list[dict], token_budget: int) -> list[PaddedRow]:
    """Samples in order, as many side by side as `token_budget` padded tokens hold, at least one."""
    rows: list[PaddedRow] = []
    for sample in samples:
        if not rows or not rows[-1].fits(sample, token_budget):
            rows.append(PaddedRow())
        rows[-1].add(sample)
    return rows


def padded_attention(module, query, key, value, attention_mask, *, tree_cu_seqlens_q, scaling=None, **kwargs):
    """Causal SDPA, sequence by sequence, of a `PaddedRow`."""
    count = len(tree_cu_seqlens_q) - 1
    groups = query.shape[1] // key.shape[1]
    query, key, value = (x[0].unflatten(1, (count, -1)).transpose(0, 1) for x in (query, key, value))
    key, value = (x.to(query.dtype).repeat_interleave(groups, dim=1) for x in (key, value))
    out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)  # (B, H, L, d)
    return out.transpose(1, 2).flatten(0, 1)[None], None


def whole_rows(samples: list[dict], token_budget: int) -> list[DialogueRow]:
    """One row per dialogue, whatever its length: `artf/training/parts.py` forwards parts that fit `token_budget`."""
    return dialogue_rows(samples)


def group_rows(samples: list[dict], token_budget: int) -> list[DialogueRow]:
    """One row per turn: its outputs share their prompt, turns share nothing. What OpenPipe ART's packing comes to."""
    groups: dict[int, list[dict]] = {}
    for sample in samples:
        groups.setdefault(sample["group_id"], []).append(sample)
    return [row for group in groups.values() for row in dialogue_rows(group, token_budget)]


def trl_rows(samples: list[dict], token_budget: int) -> list[TreeRow]:
    """What TRL's own batcher makes of the samples in dialogue order."""
    stop = samples[0] | {"input_ids": samples[0]["input_ids"][:1].repeat(token_budget)}  # fits into no begun row
    return [rows[0] for rows in TokenBudgetBatcher([*samples, stop], 1, token_budget, {})]


def trl_attention(module, query, key, value, attention_mask, *, tree_kv_index, tree_cu_seqlens_q,
                  tree_cu_seqlens_k, scaling=None, **kwargs):  # fmt: skip
    """TRL's tree attention with SDPA in the place of its FlashAttention-3 kernel.

    As there, keys and values of every segment's path are gathered at once; then one call a segment.
    """
    groups, dtype = query.shape[1] // key.shape[1], query.dtype
    q_sizes, k_sizes = tree_cu_seqlens_q.diff().tolist(), tree_cu_seqlens_k.diff().tolist()
    key, value = (x.to(dtype).index_select(2, tree_kv_index).split(k_sizes, dim=2) for x in (key, value))
    out = []
    for q, k, v in zip(query.split(q_sizes, dim=2), key, value, strict=True):
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        out.append(scaled_dot_product_attention(q, k, v, attn_mask=_aligned(q, k), scale=scaling))
    return torch.cat(out, dim=2).transpose(1, 2), None


def _aligned(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The causal mask (n, m) of n queries at the end of m keys."""
    n, m = query.shape[2], key.shape[2]
    return torch.ones(n, m, dtype=torch.bool, device=query.device).tril(m - n)


LAYOUTS = {
    "padded": Layout(padded_rows, "proactor_padded"),
    "grouped": Layout(group_rows, tree_attention.TREE_ATTENTION),
    "trl": Layout(trl_rows, "proactor_trl_sdpa"),
    "rows": Layout(dialogue_rows, tree_attention.TREE_ATTENTION),
    "ours": Layout(whole_rows, tree_attention.TREE_ATTENTION),
}


def register() -> None:
    """Make every layout's attention known to transformers."""
    tree_attention.register()
    for name, attention in (("proactor_padded", padded_attention), ("proactor_trl_sdpa", trl_attention)):
        AttentionInterface.register(name, attention)
        AttentionMaskInterface.register(name, lambda **kwargs: None)
