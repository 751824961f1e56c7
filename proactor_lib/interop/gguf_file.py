"""A Llama or Qwen2 model's folder -> one GGUF file, which llama.cpp, Ollama and transformers read [ours: the mapping].

The package `gguf` writes the file and knows the tensors' names; what a converter adds to it stands here: which facts of
config.json go where, Llama's order of the rotary halves, and the tokenizer.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open

from proactor_lib.errors import UserError
from proactor_lib.files import read_text
from proactor_lib.models import load_tokenizer

KINDS = {
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}
# llama.cpp's names of the ways to cut text before the byte pairs, by what tells them in a tokenizer.json.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
SPLITS = {QWEN2: "qwen2", LLAMA3: "llama-bpe"}


def check(model: Path, kind: str) -> tuple[dict[str, Any], gguf.MODEL_ARCH]:
    """The model's config.json, and GGUF's name of its kind. UserError for a kind, model or RoPE type not known here."""
    if kind not in KINDS:
        raise UserError(f"GGUF kind {kind!r}; accepted: {', '.join(KINDS)}")
    config = json.loads(read_text(model / "config.json"))
    if config["model_type"] not in ARCHITECTURES:
        accepted = ", ".join(ARCHITECTURES)
        raise UserError(
            f"a GGUF of a {config['model_type']!r} model cannot be written here ({model}); accepted: {accepted}"
        )
    rope = _rope(config)
    if (scaling := rope.get("rope_type") or rope.get("type", "default")) != "default":
        raise UserError(f"a GGUF of a model with rope_type {scaling!r} cannot be written here ({model}): default only")
    return config, ARCHITECTURES[config["model_type"]]


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """How positions turn: `rope_parameters`, or in the hub's older form `rope_theta` and `rope_scaling`."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return {"rope_theta": config.get("rope_theta", 10000.0), **given}


def write(model: Path, path: Path, kind: str, name: str) -> None:
    """The model of a folder (config.json, safetensors, tokenizer.json) as the GGUF file `path`.

    UserError as `check`, and for a tokenizer that is not known here. One-dimensional tensors stay float32; where a row
    is not a whole number of the kind's blocks, the tensor is float16.
    """
    config, arch = check(model, kind)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    try:
        writer.add_name(name)
        writer.add_file_type(KINDS[kind][1])
        _add_sizes(writer, config)
        _add_tokenizer(writer, model, config["vocab_size"])
        for tensor, values in _tensors(model, config, arch):
            data, type_ = _packed(values, KINDS[kind][0])
            writer.add_tensor(tensor, data, raw_dtype=type_)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: gguf.GGUFWriter, model: Path, size: int) -> None:
    """The byte pairs, the special tokens and the chat template; places without a token are filled up.

    As transformers has them once loaded: for some kinds of models it cuts text otherwise than tokenizer.json says.
    """
    tokenizer = load_tokenizer(str(model))
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    if whole["model"]["type"] != "BPE":
        raise UserError(f"{model}: a GGUF of a {whole['model']['type']} tokenizer cannot be written here: BPE only")
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [int(gguf.TokenType.UNUSED)] * size
    for token, place in whole["model"]["vocab"].items():
        tokens[place], types[place] = token, int(gguf.TokenType.NORMAL)
    for added in whole["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], int(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cut(whole["pre_tokenizer"], model))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in whole["model"]["merges"]])
    for role in ("bos", "eos", "pad", "unk"):
        if (place := getattr(tokenizer, f"{role}_token_id")) is not None:
            getattr(writer, f"add_{role}_token_id")(place)
    writer.add_add_bos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _cut(pre: dict[str, Any] | None, model: Path) -> str:
    """llama.cpp's name of the way in which a tokenizer cuts text before its byte pairs; None: it does not (Llama 2)."""
    pre = pre or {"type": "not at all"}
    steps = pre.get("pretokenizers", [pre])
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"] and steps[0]["use_regex"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and (name := SPLITS.get(steps[0]["pattern"].get("Regex"))):
        return name
    raise UserError(f"{model}/tokenizer.json cuts text in a way that is not known here ({' '.join(kinds)}); accepted: "
                    "those of GPT-2, SmolLM, Qwen2 and Llama 3")  # fmt: skip


def _tensors(model: Path, config: dict[str, Any], arch: gguf.MODEL_ARCH) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor under GGUF's name, in float32."""
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    heads = config["num_attention_heads"]
    shared = {"q_proj": heads, "k_proj": config.get("num_key_value_heads", heads)}
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (it has no iterator)
                values = tensors.get_tensor(key).float()
                part = key.split(".")[-2]
                if arch == gguf.MODEL_ARCH.LLAMA and part in shared:
                    values = _interleaved(values, shared[part])
                yield names.get_name(key, try_suffixes=(".weight", ".bias")), values


def _interleaved(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Llama's rotary halves of each head in llama.cpp's order: pairs side by side."""
    return values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape_as(values)


def _packed(values: torch.Tensor, kind: gguf.GGMLQuantizationType) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    if values.dim() == 1:
        return values.numpy(), gguf.GGMLQuantizationType.F32
    if values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = gguf.GGMLQuantizationType.F16
    return gguf.quants.quantize(values.numpy(), kind), kind
