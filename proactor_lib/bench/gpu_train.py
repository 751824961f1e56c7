"""Training speed on one device: a random Qwen2.5-14B in NF4 with the paper's LoRA, and rows of 9,216 tokens.

Needs torch, transformers, peft and bitsandbytes (for padded rows trl too), nothing of a server.
`python -m proactor_lib.bench.gpu_train`.
The same code runs a tiny model on a CPU (`dry`), where FlexAttention has no backward.
"""

import json
import sys
import time

import torch

from proactor_lib.artf.training import head, tree_attention
from proactor_lib.bench.made_row import paper_row
from proactor_lib.errors import UserError

MODELS = {
    "qwen2.5-14b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "vocab_size": 152064,
                    "num_attention_heads": 40, "num_key_value_heads": 8, "rope_theta": 1e6},
    "dry": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512,
            "num_attention_heads": 4, "num_key_value_heads": 2},
}  # fmt: skip
CASES = {  # rows, and the attention that runs them
    "packed-flex": ("rows", "proactor_flex"),
    "packed-sdpa": ("rows", "proactor_sdpa"),
    "padded-flex": ("padded", "proactor_flex"),
    "padded-sdpa": ("padded", "proactor_padded"),
}
STEPS = 3  # timed, after one that compiles


def benchmark(model_name: str, row_tokens: int, cases: tuple[str, ...]) -> dict:
    """tokens_per_s, peak_gb, mfu of the first case, matmul_tflops of the device, and every case under `cases`.

    tokens_per_s: forwarded; samples_per_s says what packing is worth. mfu: the step's own arithmetic (forward, and
    gradients of activations: the base is frozen) over what the device does in a plain bfloat16 product, measured here;
    hfu counts what gradient checkpointing computes again too. UserError for an unknown model or case.
    """
    for what, name, known in (("model", model_name, MODELS), *(("case", case, CASES) for case in cases)):
        if name not in known:
            raise UserError(f"{what} {name!r}: there is none of that name; accepted: {', '.join(known)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = matmul_tflops(device, 8192 if device.type == "cuda" else 256)
    model = random_model(MODELS[model_name], device)
    found = {case: measure(model, case, row_tokens, peak) for case in cases}
    first = found[cases[0]]
    return {**{k: first.get(k) for k in ("tokens_per_s", "peak_gb", "mfu")}, "matmul_tflops": round(peak, 4),
            "device": _device_name(device), "cases": found}  # fmt: skip


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_tflops(device: torch.device, n: int, repeats: int = 20) -> float:
    """10^12 operations a second of an n x n bfloat16 product."""
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device=device) for _ in range(2))
    for count in (3, repeats):
        _wait(device)
        began = time.perf_counter()
        for _ in range(count):
            a @ b
        _wait(device)
    return 2 * n**3 * repeats / (time.perf_counter() - began) / 1e12


def random_model(sizes: dict, device: torch.device):
    """A Qwen2 of these sizes with random weights, its linear layers in NF4, LoRA 8/16 [paper], checkpointing."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tree_attention.register()
    torch.manual_seed(0)
    config = Qwen2Config(**sizes, max_position_embeddings=32768, tie_word_embeddings=False, use_cache=False)
    config._attn_implementation = tree_attention.TREE_ATTENTION
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    for layer in model.model.layers:
        _to_nf4(layer, device)
    model.is_loaded_in_4bit = True  # so that PEFT takes its 4-bit layers
    head.attach_head(model)
    model = get_peft_model(model.requires_grad_(False), LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def _to_nf4(layer: torch.nn.Module, device: torch.device) -> None:
    """Replace the linear layers inside by 4-bit ones, with the settings of `models.quantization_config`."""
    import bitsandbytes as bnb

    for parent in list(layer.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is not torch.nn.Linear:
                continue
            small = bnb.nn.Linear4bit(
                linear.in_features, linear.out_features, bias=linear.bias is not None,
                compute_dtype=torch.bfloat16, compress_statistics=False, quant_type="nf4", device="meta",
            )  # fmt: skip
            small.weight = bnb.nn.Params4bit(
                linear.weight.data, requires_grad=False, compress_statistics=False, quant_type="nf4", module=small
            ).to(device)
            small.bias = linear.bias
            setattr(parent, name, small)


def row_of(case: str, row_tokens: int, vocabulary: int):
    """A row of at most `row_tokens` tokens of one dialogue in the proportions of the paper's; padded: its first one."""
    packed = paper_row(row_tokens, vocabulary)
    if CASES[case][0] == "rows":
        return packed
    from proactor_lib.bench import layouts
    from proactor_lib.bench.shapes import samples

    layouts.register()
    return layouts.padded_rows(samples(packed.shape, vocabulary), row_tokens)[0]


def measure(model, case: str, row_tokens: int, peak: float) -> dict:
    """One case's figures, or its `error`: memory does not suffice, or the kernel is not for this device."""
    try:
        return _measure(model, case, row_tokens, peak)
    except (torch.cuda.OutOfMemoryError, NotImplementedError) as error:
        model.zero_grad()
        torch.cuda.empty_cache()
        return {"error": str(error).split(".")[0]}


def _measure(model, case: str, row_tokens: int, peak: float) -> dict:
    device = model.device
    row = row_of(case, row_tokens, model.config.vocab_size)
    model.set_attn_implementation(CASES[case][1])
    packed = {k: v.to(device) for k, v in row.pack().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    for count in (1, STEPS):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        _wait(device)
        began = time.perf_counter()
        for _ in range(count):
            (-(head.row_log_probs(model, packed) * packed["advantages"]).sum() / row.trained).backward()
            optimizer.step()
            optimizer.zero_grad()
        _wait(device)
    seconds = (time.perf_counter() - began) / STEPS
    useful, repeated = _flops(model, row)
    return {
        "tokens_per_s": round(len(row.tokens) / seconds, 1),
        "samples_per_s": round(len(row.samples) / seconds, 3),
        "peak_gb": round(_peak_gb(device), 2),
        "mfu": round(useful / seconds / peak / 1e12, 4),
        "hfu": round((useful + repeated) / seconds / peak / 1e12, 4),
        "seconds": round(seconds, 3),
        "tokens": len(row.tokens),
        "samples": len(row.samples),
    }


def _peak_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    from proactor_lib.bench.isolated import peak_gb

    return peak_gb()


def _flops(model, row) -> tuple[float, float]:
    """Operations of a step, and those that checkpointing repeats.

    A frozen weight costs 2 forward and 2 backward a token; scores and values 4 forward and 8 backward a visible pair
    (`row.load` of them), head and layer; the head only where a token is trained.
    """
    c = model.config
    head_size = c.hidden_size // c.num_attention_heads
    kv = 2 * c.num_key_value_heads * head_size
    weights = c.num_hidden_layers * c.hidden_size * (2 * c.hidden_size + kv + 3 * c.intermediate_size)
    pairs = c.num_hidden_layers * c.num_attention_heads * head_size * row.load
    forward = 2 * weights * len(row.tokens) + 4 * pairs
    return 2 * forward + 4 * pairs + 4 * c.vocab_size * c.hidden_size * row.trained, forward


if __name__ == "__main__":
    arguments = sys.argv[1:] or ["qwen2.5-14b", "9216", ",".join(CASES)]
    measured = benchmark(arguments[0], int(arguments[1]), tuple(arguments[2].split(",")))
    sys.stdout.write(json.dumps(measured) + "\n")
