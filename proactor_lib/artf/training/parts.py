"""A row that is longer than the memory for it: its trunk is forwarded once, then its branches, some at a time [ours].

First the trunk's keys and values alone are computed; each part then sees them, and leaves its gradients on them; at
last the trunk is forwarded once more and takes them on. So the activations of one part, or of the trunk, are held at a
time, and the trunk is forwarded twice, where rows cut to that size would each forward it again. Gradients are those of
the whole row.
"""

from collections.abc import Callable
from functools import partial

import torch


class TrunkKeys:
    """The keys and values of a trunk that is forwarded alone, for the parts of its branches to see.

    As a context: the trunk's forward records them; after `cut`, each part's attention finds them before its own, and
    its backward leaves its gradients here; `backward`, told how the trunk is forwarded again, takes their sum on.
    """

    current: "TrunkKeys | None" = None

    def __init__(self):
        self._recorded: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._seen: dict[int, tuple[torch.Tensor, ...]] = {}
        self._recording = True

    def __enter__(self) -> "TrunkKeys":
        TrunkKeys.current = self
        return self

    def __exit__(self, *_) -> None:
        TrunkKeys.current = None

    def extend(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's keys and values (1, H_kv, tokens, d): those of the trunk, then those given."""
        if self._recording:
            self._recorded[layer] = (key, value)
            return key, value
        trunk = self._seen[layer]
        return torch.cat([trunk[0], key], dim=2), torch.cat([trunk[1], value], dim=2)

    def cut(self) -> None:
        """The trunk is forwarded: what follows sees it, and does not differentiate through it."""
        self._recording = False
        self._seen = {n: tuple(x.detach().requires_grad_() for x in pair) for n, pair in self._recorded.items()}

    def backward(self, forward: Callable[[], object]) -> None:
        """Forward the trunk again, now differentiably, and differentiate."""
        self._recording = True
        forward()
        TrunkKeys.current = None  # what gradient checkpointing forwards from here on is recorded already
        pairs = [(x, seen.grad) for n in self._seen for x, seen in zip(self._recorded[n], self._seen[n], strict=True)]
        whole, grads = zip(*((x, grad) for x, grad in pairs if grad is not None and x.requires_grad), strict=True)
        torch.autograd.backward(whole, grads)


TERMS = ("token_index", "old_log_probs", "advantages", "segment_id")  # of a packed row's loss terms, one number each


def split(row: dict[str, torch.Tensor], token_budget: int) -> list[dict[str, torch.Tensor]]:
    """A packed `DialogueRow` if it has at most `token_budget` tokens, else its trunk, then parts of its branches.

    A part has as many blocks as fit, at least one. It is packed as a row; the trunk predicts nothing.
    """
    edges = row["tree_cu_seqlens_q"].tolist()
    if edges[-1] <= token_budget or len(edges) == 2 or edges[1] == 0:
        return [row]
    starts = [edges[1]]
    for start, stop in zip(edges[1:-1], edges[2:], strict=True):
        if stop - starts[-1] > token_budget and start > starts[-1]:
            starts.append(start)
    bounds = [0, *starts, edges[-1]]
    return [_part(row, start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]


def _part(row: dict[str, torch.Tensor], start: int, stop: int) -> dict[str, torch.Tensor]:
    """Tokens [start, stop) of a packed row, and the loss terms that they predict."""
    edges, terms, tokens = row["tree_cu_seqlens_q"], row["token_index"], slice(start, stop)
    inside = (terms >= start) & (terms < stop)
    per_token = {k: row[k][tokens] for k in ("input_ids", "position_ids", "shift_labels", "tree_cu_seqlens_k")}
    per_term = {k: row[k][inside] for k in TERMS if k in row}
    edges = edges[(edges > start) & (edges <= stop)] - start
    trunk = edges.new_tensor([0] if start == 0 else [0, 0])  # a part of branches has none of its own
    whole = {"tree_kv_index": row["tree_kv_index"][tokens] - start, "tree_cu_seqlens_q": torch.cat([trunk, edges])}
    return row | per_term | per_token | whole | {"token_index": terms[inside] - start}


def backward(parts: list[dict], loss: Callable[[dict], torch.Tensor], forward: Callable[[dict], object],
             differentiate: Callable[[torch.Tensor], None] = torch.Tensor.backward) -> torch.Tensor:  # fmt: skip
    """Differentiate `loss` over the parts of a row (`split`), one after another, and return its sum.

    forward: of the trunk, which has no loss; differentiate: what a trainer calls for a loss.
    """
    if len(parts) == 1:
        return _differentiated(loss(parts[0]), differentiate)
    seed = int(torch.randint(2**31, ()))
    with TrunkKeys() as keys:
        with torch.no_grad():
            _seeded(seed, forward, parts[0])
        keys.cut()
        total = sum(_differentiated(loss(part), differentiate) for part in parts[1:])
        keys.backward(partial(_seeded, seed, forward, parts[0]))
    return total


def value(parts: list[dict], loss: Callable[[dict], torch.Tensor], forward: Callable[[dict], object]) -> torch.Tensor:
    """The sum of `loss` over the parts of a row, without gradients; forward: of the trunk, which has no loss."""
    with torch.no_grad():
        if len(parts) == 1:
            return loss(parts[0])
        with TrunkKeys() as keys:
            forward(parts[0])
            keys.cut()
            return sum(loss(part) for part in parts[1:])


def _seeded(seed: int, forward: Callable[[dict], object], part: dict) -> None:
    """Both forwards of a trunk drop out the same."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        forward(part)


def _differentiated(value: torch.Tensor, differentiate: Callable[[torch.Tensor], None]) -> torch.Tensor:
    differentiate(value)
    return value.detach()
