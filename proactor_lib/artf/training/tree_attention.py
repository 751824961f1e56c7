"""Attention over a dialogue's outputs of all turns, laid out as one prefix tree (rows.py) [ours].

The *trunk* (the dialogue itself) stands first and everything that branches off it follows, so that keys are slices,
where TRL gathers the keys and values of every segment's path. On a CPU runs of queries attend to them
(`cpu_attention`); on a GPU the same rule is a FlexAttention mask over the whole row.

Layout of a row of N packed tokens, T of them trunk. Token k is seen by token q when
`k < trunk_limit[q]`, or both stand in one block and `k <= q < subtree_end[k]`. A block has one trunk_limit.

Needs torch and transformers.
"""

from functools import cache, partial

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from proactor_lib.artf.training import cpu_attention
from proactor_lib.artf.training.parts import TrunkKeys
from proactor_lib.errors import UserError

TREE_ATTENTION = "tree_fa3"  # the name that TRL's async trainer loads its model with


def tree_attention(module, query, key, value, attention_mask, *, tree_kv_index, tree_cu_seqlens_q, tree_cu_seqlens_k,
                   scaling=None, kernel=None, softcap=None, sliding_window=None, **kwargs):  # fmt: skip
    """Attention over a `DialogueRow` or a part of it: query (1, H, N, d), key, value (1, H_kv, N, d) -> (1, N, H, d).

    kernel: `flex` or `sdpa`; none: torch's own CPU kernels on a CPU, FlexAttention on a GPU. UserError for a model
    whose scores are capped, or that sees less than the row (sliding_window, in tokens).
    """
    key, value, tree = key.to(query.dtype), value.to(query.dtype), (tree_kv_index, tree_cu_seqlens_q, tree_cu_seqlens_k)
    if TrunkKeys.current is not None:
        key, value = TrunkKeys.current.extend(module.layer_idx, key, value)
    if softcap or (sliding_window and sliding_window < key.shape[2]):
        what = "caps its attention scores" if softcap else f"sees {sliding_window} tokens of a row of {key.shape[2]}"
        raise UserError(f"the model {what}, which training does not: take another model, or a lower max_turns")
    before, cpu = key.shape[2] - query.shape[2], query.device.type == "cpu"
    if kernel == "flex" or (kernel is None and not cpu):
        out = _flex_attention(query, key, value, _block_mask(*tree, before), scaling)
    elif kernel is None:
        out = _cpu_attention(query, key, value, _runs(*tree, query.dtype), scaling)
    else:
        out = _sdpa_attention(query, key, value, _blocks(*tree, query.dtype), scaling)
    return out.transpose(1, 2), None


def _flex_attention(query, key, value, mask, scaling):
    attend = flex_attention if query.device.type == "cpu" else _compiled_flex_attention()
    return attend(query, key, value, block_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])


@cache
def _compiled_flex_attention():
    return torch.compile(flex_attention, dynamic=True)  # rows differ in length


def _sees(end: torch.Tensor, trunk: int, limit: torch.Tensor, before: int = 0):
    """FlexAttention's mask_mod: whether token q sees token k; `before` keys precede those of the queries' tokens."""

    def sees(batch, head, q, k):
        own = k - before
        return (k < limit[q]) | ((own >= trunk) & (own <= q) & (q < end[own.clamp(min=0)]))

    return sees


def _block_mask(end: torch.Tensor, boundaries: torch.Tensor, limit: torch.Tensor, before: int) -> BlockMask:
    """The row's mask for FlexAttention; made by a forward's first layer, kept with its tensor."""
    if not hasattr(end, "_mask"):
        sees, n = _sees(end, int(boundaries[1]), limit, before), len(end)
        end._mask = create_block_mask(sees, None, None, n, before + n, end.device, _compile=end.device.type != "cpu")
    return end._mask


def _sdpa_attention(query, key, value, blocks, scaling):
    groups, before = query.shape[1] // key.shape[1], key.shape[2] - query.shape[2]
    key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
    out = []
    for start, stop, seen, mask in blocks:
        k, v = (torch.cat([x[:, :, :seen], x[:, :, before + start : before + stop]], dim=2) for x in (key, value))
        q, mask = query[:, :, start:stop], None if mask is None else torch.nn.functional.pad(mask, (seen, 0))
        out.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling))
    return torch.cat(out, dim=2)


def _cpu_attention(query, key, value, runs, scaling):
    return cpu_attention.TreeAttention.apply(query, key, value, runs, scaling)


def _runs(end: torch.Tensor, boundaries: torch.Tensor, limit: torch.Tensor, dtype: torch.dtype) -> list:
    """The row's queries in runs; made by a forward's first layer, kept with its tensor."""
    if not hasattr(end, "_runs"):
        end._runs = cpu_attention.runs(end, boundaries, limit, dtype)
    return end._runs


def _blocks(end: torch.Tensor, boundaries: torch.Tensor, limit: torch.Tensor, dtype: torch.dtype) -> list[tuple]:
    """(start, stop, trunk tokens seen, mask) of each block; made by a forward's first layer, kept with its tensor.

    mask (n, n): 0 where the block's token q sees its token k, else -inf; None for the trunk, which is causal.
    """
    if not hasattr(end, "_blocks"):
        edges, seen = boundaries.tolist(), limit.tolist()
        blocks = [(edges[0], edges[1], 0, None)]
        for start, stop in zip(edges[1:-1], edges[2:], strict=True):
            blocks.append((start, stop, seen[start], _mask(end[start:stop] - start, dtype)))
        end._blocks = blocks
    return end._blocks


def _mask(end: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    n = torch.arange(len(end), device=end.device)
    visible = (n[None, :] <= n[:, None]) & (n[:, None] < end[None, :])
    return torch.zeros(visible.shape, dtype=dtype, device=end.device).masked_fill_(~visible, float("-inf"))


def register() -> None:
    """Make this the attention that TRL's async trainer loads its model with. Call it after TRL registered its own.

    Further names, for a model's `set_attn_implementation`, ask for one kernel: proactor_flex, proactor_sdpa.
    """
    chosen = {f"proactor_{kernel}": partial(tree_attention, kernel=kernel) for kernel in ("flex", "sdpa")}
    for name, attention in {TREE_ATTENTION: tree_attention, **chosen}.items():
        AttentionInterface.register(name, attention)
        AttentionMaskInterface.register(name, lambda **kwargs: None)
