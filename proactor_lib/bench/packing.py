"""What packing a dialogue as one tree saves: tokens, seconds and memory of a training step, and that gradients stay.

`python -m proactor_lib.bench.packing LAYOUT SHAPE` times one step of one layout and prints it as JSON; the layout
`arithmetic` is the arithmetic alone.
"""

import gc
import json
import math
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from proactor_lib.bench import isolated
from proactor_lib.bench.shapes import Shape, named, samples
from proactor_lib.provenance import hardware

MODULE = "proactor_lib.bench.packing"


def benchmark(shape_name: str, layouts: tuple[str, ...] = ("ours", "trl", "padded"), gradients: bool = True,
              against: Path | None = None) -> dict:  # fmt: skip
    """Token counts, the gradient's relative error, and seconds and peak memory (GB) of a step of each layout.

    Also of the arithmetic alone, if ours is timed, and of our step as another checkout of this repository takes it, if
    `against` names one; `over` says how many times ours takes, or is taken. Each is timed in a process of its own.
    UserError if one fails, e.g. for want of memory.
    """
    measured = {"shape": shape_name, "machine": hardware(), **token_counts(named(shape_name))}
    if gradients:
        measured["gradient_error"] = gradient_error(named(shape_name))
    for layout in layouts:
        measured |= _prefixed(layout, isolated.call(MODULE, layout, shape_name))
    if "ours" in layouts:
        measured |= _prefixed("arithmetic", isolated.call(MODULE, "arithmetic", shape_name))
        measured["over_arithmetic"] = _times(measured, "ours", "arithmetic")
    if against:
        measured |= _prefixed("against", isolated.call(MODULE, "ours", shape_name, checkout=against))
        measured["against_over_ours"] = _times(measured, "against", "ours") if "ours" in layouts else None
    return measured


def costs(shape_name: str, turns: list[int], k: list[int], dialogues: list[int]) -> list[dict]:
    """Of our step of each shape that differs from the named one in one of the three: tokens, seconds, memory."""
    base = named(shape_name)
    changed = [
        {name: value} for name, values in (("turns", turns), ("k", k), ("dialogues", dialogues)) for value in values
    ]
    rows = []
    for shape in dict.fromkeys(replace(base, **change) for change in changed):
        step = isolated.call(MODULE, "ours", json.dumps(shape.as_dict()))
        per_token = round(1000 * step["cpu_seconds"] / step["tokens"], 3)
        rows.append(
            {"turns": shape.turns, "k": shape.k, "dialogues": shape.dialogues, **step, "cpu_ms_per_token": per_token}
        )
    return rows


def _prefixed(name: str, measured: dict) -> dict:
    return {f"{name}_{key}": value for key, value in measured.items()}


def _times(measured: dict, one: str, other: str) -> float:
    """By the seconds of all threads, which a busy machine changes less than the clock's."""
    return round(measured[f"{one}_cpu_seconds"] / measured[f"{other}_cpu_seconds"], 2)


def token_counts(shape: Shape) -> dict[str, int]:
    """Forwarded tokens: of padded samples, of TRL's own batcher in dialogue order, of our rows."""
    from proactor_lib.bench.layouts import LAYOUTS

    made = samples(shape, vocabulary=49152)
    names = {"padded_tokens": "padded", "library_tokens": "trl", "packed_tokens": "ours"}
    return {name: _tokens(LAYOUTS[layout].rows(made, shape.token_budget)) for name, layout in names.items()}


def _tokens(rows: list) -> int:
    return sum(len(row.tokens) for row in rows)


def gradient_error(shape: Shape) -> float:
    """Of the gradients of all adapters, rows against samples forwarded one by one: largest relative error, float32.

    The unpacked side is the plain library: its attention, its logits, its loss. The model is the tiny one, with an
    adapter whose two matrices are both random.
    """
    import torch

    from proactor_lib.bench.layouts import LAYOUTS

    model = tiny_float32()
    made = samples(shape, vocabulary=model.config.vocab_size)
    for row in LAYOUTS["ours"].rows(made, shape.token_budget):
        _backward(model, row.pack(), 1, shape.at_once)
    packed, model = _take_gradients(model), tiny_float32(lean=False)
    model.set_attn_implementation("sdpa")
    for sample in made:
        ids = torch.as_tensor(sample["input_ids"])[None]
        trained = int(sample["completion_mask"].sum())
        logits = model(input_ids=ids, logits_to_keep=trained + 1, use_cache=False).logits[0, :-1]
        log_probs = logits.log_softmax(-1).gather(1, ids[0, -trained:, None])
        (-sample["advantage"] * log_probs.sum()).backward()
    alone = _take_gradients(model)
    return max(float((packed[n] - alone[n]).norm() / alone[n].norm()) for n in alone)


def tiny_float32(lean: bool = True):
    """The tiny model in float32 with an adapter whose two matrices are both random; its layers `lean`, as trained."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from proactor_lib import models
    from proactor_lib.artf.training import head, sft, tree_attention
    from proactor_lib.params import Params

    tree_attention.register()
    base = AutoModelForCausalLM.from_pretrained(
        models.resolve(models.TINY), dtype=torch.float32, attn_implementation=tree_attention.TREE_ATTENTION
    )
    head.attach_head(base)
    torch.manual_seed(1)
    model = get_peft_model(base, sft.lora_config(Params()))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    if lean:
        sft.lean(model)
    return model


def _take_gradients(model) -> dict:
    taken = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()  # sets them to None
    return taken


def _backward(model, packed: dict, total: float, token_budget: float = math.inf) -> float:
    from proactor_lib.artf.training import parts
    from proactor_lib.artf.training.head import row_log_probs

    def loss(part: dict):
        return -(row_log_probs(model, part) * part["advantages"].to(model.device)).sum() / total

    return float(parts.backward(parts.split(packed, token_budget), loss, partial(row_log_probs, model)))


def _params(shape: Shape, **overrides):
    from proactor_lib import models
    from proactor_lib.params import Params

    quantization = "none" if shape.model == models.TINY else "nf4"
    return Params(model=shape.model, token_budget=shape.token_budget, device="cpu", quantization=quantization,
                  **overrides)  # fmt: skip


def step(layout: str, shape: Shape, **overrides) -> dict:
    """Forward and backward of one dialogue's rows with the shape's model.

    seconds by the clock, cpu_seconds of all threads (what a busy machine leaves as it is), peak_gb, rows, tokens, loss.
    """
    from proactor_lib import models
    from proactor_lib.artf.training.sft import trainable_model
    from proactor_lib.bench import layouts

    params = _params(shape, **overrides)
    model = trainable_model(models.resolve(shape.model), params)
    layouts.register()
    model.set_attn_implementation(layouts.LAYOUTS[layout].attention)
    rows = layouts.LAYOUTS[layout].rows(samples(shape, model.config.vocab_size), shape.token_budget)
    total = sum(row.trained for row in rows)
    gc.collect()
    began, worked = time.perf_counter(), time.process_time()
    at_once = shape.at_once if layout == "ours" else math.inf
    loss = sum(_backward(model, row.pack(), total, at_once) for row in rows)
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_gb": round(isolated.peak_gb(), 2),
        "rows": len(rows),
        "tokens": _tokens(rows),
        "loss": loss,
    }


def arithmetic_alone(shape: Shape, **overrides) -> dict:
    """seconds and cpu_seconds of the arithmetic that `step` does for our layout, each token forwarded once.

    (Where a row is cut, its trunk is forwarded twice: that counts as what a step takes beyond arithmetic.)
    """
    from transformers import AutoConfig

    from proactor_lib import models
    from proactor_lib.artf.training import parts
    from proactor_lib.artf.training.sft import trainer_base
    from proactor_lib.bench import arithmetic
    from proactor_lib.bench.layouts import LAYOUTS

    base = trainer_base(models.resolve(shape.model), _params(shape, **overrides))
    config = AutoConfig.from_pretrained(base.path)
    rows = LAYOUTS["ours"].rows(samples(shape, config.vocab_size), shape.token_budget)
    cut = [part for row in rows for part in parts.split(row.pack(), shape.at_once)]
    tokens, trained = [len(part["input_ids"]) for part in cut], sum(len(part["token_index"]) for part in cut)
    wall, cpu = arithmetic.seconds(config, tokens, trained, sum(row.load for row in rows), base.dtype)
    return {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3)}


def main(what: str, shape: str) -> dict:
    """What a process of its own measures: a layout's step, or `arithmetic`; of a shape's name, or of one as JSON."""
    chosen = Shape(**json.loads(shape)) if shape.startswith("{") else named(shape)
    return arithmetic_alone(chosen) if what == "arithmetic" else step(what, chosen)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
