"""The parts of `gpu-check` that need no server: attention, 4-bit gradients, and a step of a 14B model."""

import time
from collections.abc import Callable, Iterator

import torch
from torch.nn.functional import scaled_dot_product_attention

from proactor_lib.artf.training import head, tree_attention
from proactor_lib.bench import gpu_train
from proactor_lib.bench.bound import Bound
from proactor_lib.bench.made_row import MadeRow, paper_row

SMALL = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4, "vocab_size": 32000,
         "num_attention_heads": 16, "num_key_value_heads": 4}  # fmt: skip
ROWS = (16384, 8192, 4096)  # tokens of the timed step: the paper's, else what memory allows


def device_of(dry: bool) -> torch.device:
    """The GPU; the CPU if `dry`."""
    return torch.device("cpu" if dry else "cuda")


def attention(dry: bool) -> Iterator[Bound]:
    """bfloat16 on a GPU against float32, which has a relative error of 1e-2 to spare; on a CPU float32."""
    device, row = device_of(dry), paper_row(160 if dry else 4096, 100)
    number, heads, size = (torch.float32, (4, 2), 16) if dry else (torch.bfloat16, (8, 2), 128)
    torch.manual_seed(0)
    shapes = [(1, h, len(row.tokens), size) for h in (heads[0], heads[1], heads[1])]
    ours = [torch.randn(shape, dtype=number, device=device, requires_grad=True) for shape in shapes]
    plain = [x.detach().float().requires_grad_() for x in ours]
    packed = {name: value.to(device) for name, value in row.pack().items()}
    tree = {name: packed[name] for name in ("tree_kv_index", "tree_cu_seqlens_q", "tree_cu_seqlens_k")}
    slope = torch.randn(1, len(row.tokens), heads[0], size, device=device)

    def forward_and_backward() -> torch.Tensor:
        out, _ = tree_attention.tree_attention(None, *ours, None, **tree)
        (out.float() * slope).sum().backward()
        return out.detach().float()

    out = forward_and_backward()
    expected = _path_by_path(row, *plain)
    (expected * slope).sum().backward()
    most = 1e-5 if dry else 1e-2
    yield Bound("values, relative error", _difference(out, expected.detach()), most=most)
    for name, x, y in zip(("query", "key", "value"), ours, plain, strict=True):
        yield Bound(f"gradients of the {name}, relative error", _difference(x.grad.float(), y.grad), most=most)
    yield Bound(f"seconds for {len(row.tokens)} tokens, forward and backward", _seconds(forward_and_backward, device))


def _path_by_path(row: MadeRow, query, key, value) -> torch.Tensor:
    """Plain causal attention over the trunk, then over each output with what stands before it: (1, N, H, d)."""
    starts = torch.arange(row.trunk, len(row.tokens), row.shape.output + 1)
    parts = [_causal(query, key, value, torch.arange(row.trunk, device=query.device))]
    for start, seen in zip(starts.tolist(), row.seen.tolist(), strict=True):
        own = torch.arange(start, start + row.shape.output + 1)
        path = torch.cat([torch.arange(seen), own]).to(query.device)
        parts.append(_causal(query, key, value, path)[:, seen:])
    return torch.cat(parts, dim=1)


def _causal(query, key, value, path: torch.Tensor) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    q, k, v = (x.index_select(2, path) for x in (query, key, value))
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def _difference(ours: torch.Tensor, other: torch.Tensor) -> float:
    return float((ours - other).norm() / other.norm())


def _seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    gpu_train._wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    gpu_train._wait(device)
    return (time.perf_counter() - began) / repeats


def nf4(dry: bool) -> Iterator[Bound]:
    """LoRA's gradients of a small random model."""
    device = device_of(dry)
    model = gpu_train.random_model(gpu_train.MODELS["dry"] if dry else SMALL, device)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # 0 at the start, which would leave nothing of the others' gradients
            torch.nn.init.normal_(weight, std=0.02)
    packed = paper_row(160 if dry else 4096, model.config.vocab_size).pack()
    checkpointed = _lora_gradients(model, packed)
    model.gradient_checkpointing_disable()
    plain = _lora_gradients(model, packed)
    if not _dequantise(model):
        raise RuntimeError("no layer is in 4 bits: PEFT did not take them")
    dequantised = _lora_gradients(model, packed)
    yield Bound("gradients with checkpointing against without, relative", _difference(checkpointed, plain), most=1e-2)
    yield Bound("gradients of 4 bits against dequantised, relative", _difference(plain, dequantised), most=2e-2)


def _lora_gradients(model, packed: dict[str, torch.Tensor]) -> torch.Tensor:
    model.zero_grad()
    advantages = packed["advantages"].to(model.device)
    (-(head.row_log_probs(model, packed) * advantages).mean()).backward()
    return torch.cat([p.grad.float().flatten() for p in model.parameters() if p.requires_grad])


def _dequantise(model) -> int:
    """Replace the 4-bit layers inside LoRA's by plain ones with the numbers that they multiply with; how many."""
    import bitsandbytes as bnb

    count = 0
    for module in model.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, bnb.nn.Linear4bit):
            weight = bnb.functional.dequantize_4bit(base.weight.data, base.weight.quant_state).to(torch.bfloat16)
            plain = torch.nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
            plain.weight = torch.nn.Parameter(weight, requires_grad=False)
            plain.bias = base.bias
            module.base_layer, count = plain, count + 1
    return count


def step(dry: bool) -> Iterator[Bound]:
    """Seconds, peak memory, and the share of the bfloat16 peak that is measured in the same run."""
    device = device_of(dry)
    peak = gpu_train.matmul_tflops(device, 256 if dry else 8192)
    yield Bound("a bfloat16 product of this device, TFLOP/s", peak)
    model = gpu_train.random_model(gpu_train.MODELS["dry" if dry else "qwen2.5-14b"], device)
    for tokens in (160,) if dry else ROWS:
        found = gpu_train.measure(model, "packed-sdpa" if dry else "packed-flex", tokens, peak)
        if "error" not in found:
            break
    if "error" in found:
        raise RuntimeError(f"a row of {tokens} tokens: {found['error']}")
    yield Bound("tokens of the row", found["tokens"], least=None if dry else 0.8 * ROWS[0])
    yield Bound("seconds of an optimiser step", found["seconds"])
    yield Bound("tokens forwarded per second", found["tokens_per_s"])
    yield Bound("peak memory, GB", found["peak_gb"])
    yield Bound("share of the bfloat16 peak", found["mfu"], least=None if dry else 0.2)
