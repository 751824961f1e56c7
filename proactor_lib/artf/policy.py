"""The policy on its way from the trainer to every server: merged, matched weights on a CPU, adapters on GPUs.

A version is served by a server only after that server has confirmed it.
"""

import logging
import os
import shutil
import uuid
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file

from proactor_lib.artf.server import Server

log = logging.getLogger(__name__)

SERVED = "policy"  # the served model's name where versions are swapped in place


class PolicySync(Protocol):
    """Publishes a version to all servers; `in_place`: it replaces the one before, so nobody may be using that."""

    in_place: bool

    def publish(self, version: int, adapter: Path) -> None: ...

    def model_name(self, version: int) -> str: ...


class AdapterSync:
    """Each version is an adapter of its own name, loaded on every server; those out of use are unloaded.

    Names carry the run's own token: a server may still hold adapters of another run.
    """

    in_place = False

    def __init__(self, servers: list[Server], max_staleness: int):
        self._servers, self._keep, self._token = servers, max_staleness + 1, uuid.uuid4().hex[:8]

    def model_name(self, version: int) -> str:
        """The name that requests for `version` carry."""
        return f"{SERVED}-{self._token}-v{version}"

    def publish(self, version: int, adapter: Path) -> None:
        """Load the adapter's folder on every server. RuntimeError if a server does not list it afterwards."""
        name = self.model_name(version)
        for server in self._servers:
            server.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(adapter.resolve())})
            if name not in server.models():
                raise RuntimeError(f"server {server.url} does not hold {name} after loading it")
            if version >= self._keep:
                server.post("/v1/unload_lora_adapter", {"lora_name": self.model_name(version - self._keep)})


class MergedSync:
    """Each version is the matched base with the adapter folded in, written to `folder` and reloaded in place.

    base: the folder of matched weights (models.matched_export), which every server started with.
    """

    in_place = True

    def __init__(self, servers: list[Server], base: str, folder: Path):
        self._servers, self._base, self._folder = servers, Path(base), folder
        self._weights = {k: v for f in sorted(self._base.glob("*.safetensors")) for k, v in load_file(f).items()}

    def model_name(self, version: int) -> str:
        """The one name that the servers serve under, whatever the version."""
        return SERVED

    def publish(self, version: int, adapter: Path) -> None:
        """Merge, write, reload on every server. httpx.HTTPStatusError if a server refuses."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        for file in self._base.glob("*.json"):
            shutil.copy(file, self._folder)
        save_file(merge(self._weights, adapter), self._folder / "model.safetensors", metadata={"format": "pt"})
        for server in self._servers:
            server.reload(str(self._folder.resolve()))


def merge(weights: dict[str, torch.Tensor], adapter: Path) -> dict[str, torch.Tensor]:
    """`weights` (bfloat16) with a PEFT LoRA adapter folded in: W + scale * B A, added in float32, rounded once."""
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(str(adapter))
    lora, merged = load_file(adapter / "adapter_model.safetensors"), dict(weights)
    scale = config.lora_alpha / config.r
    for name, a in lora.items():
        if not name.endswith("lora_A.weight"):
            continue
        b = lora[name.replace("lora_A", "lora_B")]
        target = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        merged[target] = (weights[target].float() + scale * (b.float() @ a.float())).to(weights[target].dtype)
    return merged


def scratch_folder(run_folder: Path) -> Path:
    """Where merged weights are handed over: memory (/dev/shm) where there is some, else the run's folder."""
    shared = Path("/dev/shm")
    if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 4e9:
        return shared / f"proactor-{os.getpid()}"
    return run_folder / "policy"
