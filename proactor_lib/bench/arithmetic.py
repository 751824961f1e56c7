"""A training step's arithmetic alone: its matrix products and its attention, by plain calls, of the same sizes [ours].

What a step takes beyond this is everything else: elementwise work, copies, the adapters, Python.
"""

import time
from collections.abc import Callable

import torch

ATTENDED = 1024  # tokens of the one causal call that attention is timed by


def seconds(config, tokens: list[int], trained: int, pairs: int, dtype: torch.dtype) -> tuple[float, float]:
    """By the clock, and of all threads, for forwards of `tokens` each and their backward through a frozen model.

    trained: positions whose vocabulary is scored; pairs: (token, token that it sees), as `TreeRow.load` counts them.
    """
    layers = [_products(config, n, dtype) for n in tokens]
    one_layer = [sum(both) for both in zip(*layers, strict=True)]
    head = _product(trained, config.vocab_size, config.hidden_size, dtype, at_once=256)
    attention = _attention(config, dtype)
    share = pairs / (ATTENDED * (ATTENDED + 1) / 2)
    return tuple(config.num_hidden_layers * (one_layer[i] + share * attention[i]) + head[i] for i in (0, 1))


def _products(config, tokens: int, dtype: torch.dtype) -> tuple[float, float]:
    """A layer's seven, forward and backward."""
    hidden, inner = config.hidden_size, config.intermediate_size
    keys = config.num_key_value_heads * hidden // config.num_attention_heads
    shapes = [(hidden, hidden), (keys, hidden), (keys, hidden), (hidden, hidden),
              (inner, hidden), (inner, hidden), (hidden, inner)]  # fmt: skip
    timed = [_product(tokens, out, into, dtype, at_once=tokens) for out, into in shapes]
    return sum(wall for wall, _ in timed), sum(cpu for _, cpu in timed)


def _product(rows: int, out: int, into: int, dtype: torch.dtype, at_once: int) -> tuple[float, float]:
    """x W^T, and the result, as its own gradient, times W; `at_once` rows of x at a time."""
    weight, x = torch.randn(out, into, dtype=dtype), torch.randn(rows, into, dtype=dtype)

    def run() -> None:
        for part in x.split(at_once):
            (part @ weight.T) @ weight

    return _timed(run)


def _attention(config, dtype: torch.dtype) -> tuple[float, float]:
    size = config.hidden_size // config.num_attention_heads
    shape = (1, config.num_attention_heads, ATTENDED, size)
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))

    def run() -> None:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.autograd.grad(out, (q, k, v), torch.ones_like(out))

    return _timed(run)


def _timed(run: Callable[[], None], repeats: int = 3) -> tuple[float, float]:
    """The medians of the clock's and of all threads' seconds."""
    run()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return sorted(walls)[repeats // 2], sorted(cpus)[repeats // 2]
