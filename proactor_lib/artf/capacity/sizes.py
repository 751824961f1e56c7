"""A model's sizes, from its config.json, and what follows from them: parameters, bytes of weights and of keys."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from proactor_lib import models
from proactor_lib.files import read_text

NF4_BITS = 4.5  # of a weight in NF4: 4, and a float32 scale for each block of 64
# What the shipped parameter files name, so that a model need not be here to be counted.
QWEN_14B = {
    "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8,
    "intermediate_size": 13824, "vocab_size": 152064, "tie_word_embeddings": False, "max_position_embeddings": 32768,
}  # fmt: skip
KNOWN = {
    models.EMBEDDED: {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 8192,
    },
    models.TINY: {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 128, "vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 16384,
    },
    "Qwen/Qwen2.5-14B-Instruct": QWEN_14B,
}  # fmt: skip
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # in configs of mixtures


@dataclass(frozen=True)
class ModelSizes:
    """A dense transformer with gated MLPs, by the names of its config.json."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool
    max_position_embeddings: int
    head_dim: int

    @property
    def queries(self) -> int:
        """Width of a layer's queries."""
        return self.num_attention_heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of a layer's keys, and of its values."""
        return self.num_key_value_heads * self.head_dim

    @property
    def projections(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a layer's seven linear layers: q, k, v, o, gate, up, down."""
        h, m = self.hidden_size, self.intermediate_size
        attention = [(h, self.queries), (h, self.keys), (h, self.keys), (self.queries, h)]
        return [*attention, (h, m), (h, m), (m, h)]

    @property
    def linear(self) -> int:
        """Parameters of all linear layers, the head apart."""
        return self.num_hidden_layers * sum(a * b for a, b in self.projections)

    @property
    def embedded(self) -> int:
        """Parameters of embeddings and head."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def parameters(self) -> int:
        """All of them, norms and biases left out (less than one in 5,000)."""
        return self.linear + self.embedded

    @property
    def kv_bytes(self) -> int:
        """A token's keys and values in bfloat16, all layers."""
        return 2 * 2 * self.num_hidden_layers * self.keys

    def weights(self, bits: float = 16) -> float:
        """Bytes with linear layers of so many bits a weight, the rest in bfloat16."""
        return self.linear * bits / 8 + self.embedded * 2

    def adapter(self, rank: int) -> int:
        """Parameters of LoRA on all linear layers but the head."""
        return self.num_hidden_layers * rank * sum(a + b for a, b in self.projections)


def sizes(config: dict) -> ModelSizes | None:
    """The sizes that a config.json tells; None where it lacks one, or has experts (another kind of model)."""
    if any(isinstance(config.get(name), int) and config[name] > 1 for name in EXPERTS):
        return None
    names = [n for n in ModelSizes.__dataclass_fields__ if n not in ("head_dim", "tie_word_embeddings")]
    if missing := [n for n in names if not isinstance(config.get(n), int)]:
        return (
            None if missing != ["num_key_value_heads"] else sizes(config | {missing[0]: config["num_attention_heads"]})
        )
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    tied = bool(config.get("tie_word_embeddings", False))
    return ModelSizes(**{n: config[n] for n in names}, head_dim=head, tie_word_embeddings=tied)


def model_sizes(name: str) -> ModelSizes | None:
    """Those of a model by the name that parameters give it; None where its config.json is not here, or is another's."""
    if name in KNOWN:
        return sizes(KNOWN[name])
    folder = local_folder(name)
    return sizes(json.loads(read_text(folder / "config.json"))) if folder else None


def local_folder(name: str) -> Path | None:
    """The folder of this machine with the model's config.json: its own, or the hub's cache; None where it has none."""
    snapshots = _hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots"
    folders = [Path(name).expanduser(), *sorted(snapshots.glob("*"))]
    return next((f for f in folders if (f / "config.json").is_file()), None)


def _hub_cache() -> Path:
    """Where the hub's files are, as huggingface_hub reads it."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", os.path.join(caches, "huggingface"))
    hub = os.environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub"))
    return Path(os.path.expandvars(os.path.expanduser(os.environ.get("HF_HUB_CACHE", hub))))
