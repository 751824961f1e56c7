"""Attention over a row's tree in a few calls of torch's CPU kernels, however many branches there are [ours].

The row's own trunk is one causal call. Branches are padded into batches of about one length and attend to themselves;
then runs of blocks attend to the trunk, and the two are merged by their log-sum-exps. The backward takes the merged
ones, which makes each call's gradients its share of the whole. Keys and values are never copied for the trunk's sake.
"""

from typing import NamedTuple

import torch

RUN = 256  # branch tokens that attend to the trunk in one call, at least: the kernels are slow on few queries
ALIKE = 0.75  # a branch of at least this share of the longest one's tokens is padded into its batch

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class TrunkCall(NamedTuple):
    """Queries [start, stop) on the first `seen` keys; mask (queries, seen): 0 or -inf; causal: the trunk itself."""

    start: int
    stop: int
    seen: int
    mask: torch.Tensor | None
    causal: bool


class Batch(NamedTuple):
    """B branches of at most n tokens: their places (B, n) in the row; which of the B * n are no padding; their mask.

    kept: None if nothing is padded. mask (B, 1, n, n): 0 or -inf; None if no branch has branches: it is causal then.
    """

    places: torch.Tensor
    kept: torch.Tensor | None
    mask: torch.Tensor | None


class Plan(NamedTuple):
    """The calls that a row's attention takes."""

    batches: list[Batch]
    trunk: list[TrunkCall]


def plan(end: torch.Tensor, boundaries: torch.Tensor, limit: torch.Tensor, dtype: torch.dtype) -> Plan:
    """From a row's subtree ends (N), block boundaries and trunk limits (N); masks are of `dtype`."""
    edges, limits = boundaries.tolist(), limit.tolist()
    calls = [TrunkCall(0, edges[1], edges[1], None, True)] if edges[1] else []
    run: list[tuple[int, int]] = []
    for start, stop in zip(edges[1:-1], edges[2:], strict=True):
        if run and run[-1][1] - run[0][0] >= RUN:
            calls.append(_trunk_call(run, limit, dtype))
            run = []
        if limits[start]:
            run.append((start, stop))
    calls += [_trunk_call(run, limit, dtype)] if run else []
    return Plan([_batch(branches, end, dtype) for branches in _alike(end.tolist(), edges[1])], calls)


def _trunk_call(run: list[tuple[int, int]], limit: torch.Tensor, dtype: torch.dtype) -> TrunkCall:
    start, stop = run[0][0], run[-1][1]
    limits = limit[start:stop]
    seen = int(limits.max())
    hidden = torch.arange(seen, device=limit.device) >= limits[:, None]
    return TrunkCall(start, stop, seen, _additive(~hidden, dtype) if hidden.any() else None, False)


def _alike(end: list[int], trunk: int) -> list[list[tuple[int, int]]]:
    """All branches, (start, stop) each, in groups of about one length."""
    branches = []
    while trunk < len(end):
        branches.append((trunk, end[trunk]))
        trunk = end[trunk]
    groups: list[list[tuple[int, int]]] = []
    for start, stop in sorted(branches, key=lambda b: b[0] - b[1]):
        if not groups or stop - start < ALIKE * (groups[-1][0][1] - groups[-1][0][0]):
            groups.append([])
        groups[-1].append((start, stop))
    return groups


def _batch(branches: list[tuple[int, int]], end: torch.Tensor, dtype: torch.dtype) -> Batch:
    starts, stops = (torch.tensor(x, device=end.device)[:, None] for x in zip(*branches, strict=True))
    n = torch.arange(int((stops - starts).max()), device=end.device)
    inside = starts + n < stops
    places = torch.minimum(starts + n, stops - 1)
    kept = None if inside.all() else inside.flatten().nonzero()[:, 0]
    if (end[places] == stops).all():
        return Batch(places, kept, None)
    ends = (end[places] - starts)[:, None, :]  # of the tokens seen
    sees = (n <= n[:, None]) & (n[:, None] < ends) & inside[:, None, :]
    sees |= ~inside[..., None] & (n == 0)  # padding sees one token: none would be 0 / 0
    return Batch(places, kept, _additive(sees, dtype)[:, None])


def _additive(sees: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, float("-inf"))


class TreeAttention(torch.autograd.Function):
    """query (1, H, N, d), key and value (1, H_kv, M, d) -> (1, H, N, d).

    The first M - N keys are those of a trunk that was forwarded before.
    """

    @staticmethod
    def forward(ctx, query, key, value, plan: Plan, scaling: float | None):
        out = torch.empty_like(query[0].transpose(0, 1), memory_format=torch.contiguous_format)  # (N, H, d)
        sums = torch.empty(query.shape[1:3], dtype=torch.float32)  # (H, N)
        for batch in plan.batches:
            operands = (_gather(x, batch.places + _before(x, query), query.shape[1]) for x in (query, key, value))
            part, total = _FORWARD(*operands, 0.0, batch.mask is None, attn_mask=batch.mask, scale=scaling)
            places, part = _kept(batch, part)
            out[places] = part
            sums[:, places] = _kept(batch, total[..., None])[1][..., 0].T
        q, k, v, o = _by_key_head(key.shape[1], query, key, value, out.transpose(0, 1)[None])
        s = sums.unflatten(0, q.shape[:2])
        for call in plan.trunk:
            rows = slice(call.start, call.stop)
            part = _FORWARD(q[:, :, rows], k[:, :, : call.seen], v[:, :, : call.seen], 0.0, call.causal,
                            attn_mask=call.mask, scale=scaling)  # fmt: skip
            merged = part if call.causal else _merge((o[:, :, rows], s[:, :, rows]), part)
            o[:, :, rows], s[:, :, rows] = merged
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.plan, ctx.scaling = plan, scaling
        return out.transpose(0, 1)[None]

    @staticmethod
    def backward(ctx, grad):
        query, key, value, out, sums = ctx.saved_tensors
        grads = [torch.zeros_like(x, dtype=torch.float32, memory_format=torch.contiguous_format) for x in (key, value)]
        grad_q = torch.empty_like(out)  # (N, H, d)
        for batch in ctx.plan.batches:
            places, shares = _batch_backward(batch, grad, query, key, value, out, sums, ctx.scaling)
            grad_q[places] = shares[0]
            for whole, share in zip(grads, shares[1:], strict=True):
                share = share.unflatten(1, (key.shape[1], -1)).sum(2)  # of the query heads that share a key
                whole[0, :, places + _before(key, query)] = share.transpose(0, 1).float()
        g, q, k, v, o, gq = _by_key_head(
            key.shape[1], grad, query, key, value, *(x.transpose(0, 1)[None] for x in (out, grad_q))
        )
        s = sums.unflatten(0, q.shape[:2])
        for call in ctx.plan.trunk:
            rows = slice(call.start, call.stop)
            g_, q_, o_, s_ = (x[:, :, rows] for x in (g, q, o, s))
            share, *shares = _BACKWARD(g_, q_, k[:, :, : call.seen], v[:, :, : call.seen], o_, s_, 0.0, call.causal,
                                       attn_mask=call.mask, scale=ctx.scaling)  # fmt: skip
            gq[:, :, rows] = share if call.causal else gq[:, :, rows] + share
            for whole, share in zip(grads, shares, strict=True):
                whole[0, :, : call.seen] += share.sum(1)
        return grad_q.transpose(0, 1)[None], *(x.to(key.dtype) for x in grads), None, None


def _batch_backward(
    batch: Batch, grad, query, key, value, out, sums, scaling
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The places of a batch's tokens, and the gradients (tokens, H, d) of their queries, keys and values."""
    heads, n = query.shape[1], batch.places.shape[1]
    q, k, v = (_gather(x, batch.places + _before(x, query), heads) for x in (query, key, value))
    g, o = (_gather(x, batch.places, heads) for x in (grad, out.transpose(0, 1)[None]))
    if batch.kept is not None:
        padding = torch.ones(batch.places.numel(), dtype=torch.bool).index_fill_(0, batch.kept, False)
        g = g.masked_fill(padding.view(-1, 1, n, 1), 0.0)
    total = sums[:, batch.places].transpose(0, 1).contiguous()
    shares = _BACKWARD(g, q, k, v, o, total, 0.0, batch.mask is None, attn_mask=batch.mask, scale=scaling)
    kept = [_kept(batch, share) for share in shares]
    return kept[0][0], [share for _, share in kept]


def _before(x: torch.Tensor, query: torch.Tensor) -> int:
    """How many of x's tokens are those of a trunk forwarded before."""
    return x.shape[2] - query.shape[2]


def _gather(x: torch.Tensor, places: torch.Tensor, heads: int) -> torch.Tensor:
    """The tokens (B, n) of x (1, H or H_kv, N, d) as (B, H, n, d), a key head repeated for each of its query heads."""
    x = x[0].transpose(0, 1)[places]  # (B, n, H or H_kv, d)
    return x.repeat_interleave(heads // x.shape[2], dim=2).transpose(1, 2) if x.shape[2] < heads else x.transpose(1, 2)


def _kept(batch: Batch, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of a batch's tokens, and x (B, H, n, d) of them as (tokens, H, d): without the padding."""
    places, x = batch.places.flatten(), x.transpose(1, 2).flatten(0, 1)
    return (places, x) if batch.kept is None else (places[batch.kept], x[batch.kept])


def _by_key_head(key_heads: int, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Tensors (1, H or H_kv, tokens, d) as views (H_kv, H / H_kv, tokens, d): heads that share keys side by side."""
    groups = tensors[0].shape[1] // key_heads
    return [x[0].unflatten(0, (key_heads, -1)).expand(-1, groups, -1, -1) for x in tensors]


def _merge(one: tuple, other: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over two sets of keys, from the output and log-sum-exp over each."""
    total = torch.logaddexp(one[1], other[1])
    out = sum(o * (s - total).exp()[..., None] for o, s in (one, other))
    return out.to(one[0].dtype), total
