"""Attention over a row's tree on a CPU, a run of a few hundred queries at a time [ours].

A run sees keys of the trunk and those of its own tokens, side by side, and a mask hides the rest: that costs more pairs
than are visible, and saves a call for each few branches. torch's flash kernel computes the forward. Its backward is no
match for products of matrices where the processor multiplies bfloat16 (AMX), so that the backward is five of these.
"""

from typing import NamedTuple

import torch

RUN = 256  # queries of a run: the trunk's at most, of branches at least, for a block of branches is not cut
PAD = 16  # columns beside a head's own in the backward's products: rows stay aligned

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class Run(NamedTuple):
    """Queries [start, stop). They see the first `shared` keys; of those from there to `seen`, and then of their own,
    each sees those where its row of mask (queries, seen - shared + queries) is 0 and not -inf."""

    start: int
    stop: int
    seen: int
    shared: int
    mask: torch.Tensor


def runs(end: torch.Tensor, boundaries: torch.Tensor, limit: torch.Tensor, dtype: torch.dtype) -> list[Run]:
    """From a row's subtree ends (N), block boundaries and trunk limits (N); masks are of `dtype`."""
    edges = boundaries.tolist()
    trunk = [(start, min(start + RUN, edges[1])) for start in range(0, edges[1], RUN)]
    branches: list[tuple[int, int]] = []
    for start, stop in zip(edges[1:-1], edges[2:], strict=True):
        if branches and branches[-1][1] - branches[-1][0] < RUN:
            branches[-1] = (branches[-1][0], stop)
        else:
            branches.append((start, stop))
    return [_run(*run, limit[run[0] : run[1]].clamp(max=run[0]), end, dtype) for run in trunk] + [
        _run(*run, limit[run[0] : run[1]], end, dtype) for run in branches
    ]


def _run(start: int, stop: int, limits: torch.Tensor, end: torch.Tensor, dtype: torch.dtype) -> Run:
    """limits (queries): how many of the keys before its own each query sees."""
    shared, seen = int(limits.min()), int(limits.max())
    own = torch.arange(start, stop, device=end.device)
    before = torch.arange(shared, seen, device=end.device) < limits[:, None]
    among = (own <= own[:, None]) & (own[:, None] < end[start:stop])
    sees = torch.cat([before, among], dim=1)
    mask = torch.zeros(sees.shape, dtype=dtype, device=end.device).masked_fill_(~sees, float("-inf"))
    return Run(start, stop, seen, shared, mask)


class TreeAttention(torch.autograd.Function):
    """query (1, H, N, d), key and value (1, H_kv, M, d) -> (1, H, N, d).

    The first M - N keys are those of a trunk that was forwarded before.
    """

    @staticmethod
    def forward(ctx, query, key, value, runs: list[Run], scaling: float | None):
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        out = torch.empty_like(query[0].transpose(0, 1), memory_format=torch.contiguous_format)  # (N, H, d)
        sums = torch.empty(query.shape[1:3], dtype=torch.float32)  # (H, N), of log-sum-exps
        groups = query.shape[1] // key.shape[1]
        q, o, s = (x.unflatten(0, (-1, groups)) for x in (query[0], out.transpose(0, 1), sums))
        before = key.shape[2] - query.shape[2]
        for run in runs:
            rows = slice(run.start, run.stop)
            k, v = (_of_run(x[0], run, before)[:, None].expand(-1, groups, -1, -1) for x in (key, value))
            mask = torch.nn.functional.pad(run.mask, (run.shared, 0))
            o[:, :, rows], s[:, :, rows] = _FORWARD(q[:, :, rows], k, v, 0.0, False, attn_mask=mask, scale=scaling)
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.runs, ctx.scaling = runs, scaling
        return out.transpose(0, 1)[None]

    @staticmethod
    def backward(ctx, grad):
        query, key, value, out, sums = ctx.saved_tensors
        groups, d, before = query.shape[1] // key.shape[1], query.shape[-1], key.shape[2] - query.shape[2]
        inner = (grad[0].float() * out.transpose(0, 1)).sum(-1)  # (H, N)
        q, g = (query[0] * ctx.scaling, sums), (grad[0], inner)
        q, g = (_wide(x, -less).unflatten(0, (-1, groups)) for x, less in (q, g))
        k, v = (_wide(x[0], None) for x in (key, value))
        grad_q = torch.empty_like(out)  # (N, H, d)
        into = grad_q.transpose(0, 1).unflatten(0, (-1, groups))
        grad_k, grad_v = (torch.zeros_like(x[0], dtype=torch.float32) for x in (key, value))
        for run in ctx.runs:
            rows = slice(run.start, run.stop)
            q_, g_ = (x[:, :, rows].flatten(1, 2) for x in (q, g))  # (H_kv, H / H_kv * queries, d + PAD)
            k_, v_ = (_of_run(x, run, before) for x in (k, v))
            weights = q_ @ k_.transpose(1, 2)  # less the log-sum-exps: their logarithms, near 0 where they matter
            weights.unflatten(1, (groups, -1))[..., run.shared :].add_(run.mask)
            weights.exp_()
            _add(grad_v, run, before, weights.transpose(1, 2) @ g_[..., :d])
            slopes = weights.mul_(g_ @ v_.transpose(1, 2))  # by the scores
            into[:, :, rows] = (slopes @ k_[..., :d]).mul_(ctx.scaling).unflatten(1, (groups, -1))
            _add(grad_k, run, before, slopes.transpose(1, 2) @ q_[..., :d])
        return grad_q.transpose(0, 1)[None], *(x[None].to(key.dtype) for x in (grad_k, grad_v)), None, None


def _of_run(x: torch.Tensor, run: Run, before: int) -> torch.Tensor:
    """The keys or values (H_kv, M, d) that the run's mask has columns for."""
    own = slice(before + run.start, before + run.stop)
    return x[:, : own.stop] if run.seen == own.start else torch.cat([x[:, : run.seen], x[:, own]], dim=1)


def _add(whole: torch.Tensor, run: Run, before: int, share: torch.Tensor) -> None:
    whole[:, : run.seen] += share[:, : run.seen]
    whole[:, before + run.start : before + run.stop] += share[:, run.seen :]


def _wide(x: torch.Tensor, extra: torch.Tensor | None) -> torch.Tensor:
    """x (..., d) with PAD columns more: in a product with one whose `extra` is None, `extra` (...) is added.

    Three columns hold it, each what those before it were rounded by: in bfloat16 one has 8 of its 24 bits.
    """
    wide = torch.nn.functional.pad(x, (0, PAD))
    for column in range(x.shape[-1], x.shape[-1] + 3):
        wide[..., column] = 1 if extra is None else extra
        extra = extra if extra is None else extra - wide[..., column]
    return wide
