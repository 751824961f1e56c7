"""The policy on its way from the trainer to every server: merged, matched weights on a CPU, adapters on GPUs.

A version is served by a server only after that server has confirmed it.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

import httpx
import torch
from safetensors.torch import load_file, save_file

from proactor_lib.artf.serving.server import Server, Stuck
from proactor_lib.errors import ProcessError
from proactor_lib.files import read_text

log = logging.getLogger(__name__)

SHARED = Path("/dev/shm")
SERVED = "policy"  # the served model's name where versions are swapped in place
FAULTS = (httpx.HTTPError, Stuck)  # what a server that does not do as it is asked raises


class ServerPool(Protocol):
    """The servers that a policy goes to: those that serve now, and what happens to one that cannot hold it."""

    def serving(self) -> list[Server]: ...

    def lose(self, server: Server, error: Exception) -> None: ...


class FixedPool:
    """Servers that are what they are: to lose one is an error."""

    def __init__(self, servers: list[Server]):
        self._servers = servers

    def serving(self) -> list[Server]:
        """All of them."""
        return self._servers

    def lose(self, server: Server, error: Exception) -> None:
        """Raise ProcessError."""
        raise ProcessError(f"server {server.url} does not hold the policy: {error}") from error


class PolicySync:
    """Has every server hold what requests name. `in_place`: a version replaces the one before.

    A server that joins is brought up to date (`load_on`) before it serves; whoever does both holds `lock` meanwhile, so
    that no version is published in between. Names carry the run's own token: a server may hold things of another run.
    """

    in_place: bool

    def __init__(self, servers: ServerPool | list[Server]):
        self.on_publish: Callable[[int], None] = lambda version: None  # called once all hold it
        self._fleet = FixedPool(servers) if isinstance(servers, list) else servers
        self._token = uuid.uuid4().hex[:8]
        self.lock = threading.RLock()

    def label(self, version: int) -> str:
        """The version's name in this run."""
        return f"{SERVED}-{self._token}-v{version}"

    def model_name(self, version: int) -> str:
        """The model name that requests for `version` carry."""
        raise NotImplementedError

    def publish(self, version: int, adapter: Path, leased: Collection[int] = ()) -> None:
        """Have all servers hold the version of the adapter's folder, and confirm it; `leased` ones stay held.

        A server that does not is lost to the fleet: ProcessError where that may not be.
        """
        with self.lock:
            self._stage(version, adapter, leased)
            for server in self._fleet.serving():
                try:
                    self.load_on(server)
                except FAULTS as error:
                    self._fleet.lose(server, error)
        self.on_publish(version)

    def load_on(self, server: Server) -> None:
        """Have one server hold all that requests may name. httpx.HTTPError or Stuck if it does not."""
        raise NotImplementedError

    def is_loaded_on(self, server: Server) -> bool:
        """Whether the server confirms all that requests may name. httpx.HTTPError if it does not answer."""
        raise NotImplementedError

    def _stage(self, version: int, adapter: Path, leased: Collection[int]) -> None:
        raise NotImplementedError


class AdapterSync(PolicySync):
    """Each version is an adapter of its own name; unloaded when it is out of use: too old, and leased by nobody.

    `held`: version -> the adapter's folder, which stays on disk as long as it is here, for servers that join.
    """

    in_place = False

    def __init__(self, servers: ServerPool | list[Server], max_staleness: int):
        super().__init__(servers)
        self._max_staleness, self.held = max_staleness, {}

    def model_name(self, version: int) -> str:
        """The adapter's name."""
        return self.label(version)

    def _stage(self, version: int, adapter: Path, leased: Collection[int]) -> None:
        kept = {v: path for v, path in self.held.items() if v >= version - self._max_staleness or v in leased}
        self.held = kept | {version: adapter.resolve()}

    def load_on(self, server: Server) -> None:
        """Load what it lacks, look whether it lists all, unload what is out of use."""
        wanted = {self.label(v): path for v, path in self.held.items()}
        listed = server.models()
        for name, path in wanted.items():
            if name not in listed:
                server.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
        if not self.is_loaded_on(server):
            raise Stuck(f"server {server.url} does not list {sorted(wanted)} after loading them")
        for name in listed:
            if name.startswith(f"{SERVED}-{self._token}-") and name not in wanted:
                server.post("/v1/unload_lora_adapter", {"lora_name": name})

    def is_loaded_on(self, server: Server) -> bool:
        """Whether it lists every adapter that requests may name."""
        return {self.label(v) for v in self.held} <= set(server.models())


class MergedSync(PolicySync):
    """Each version is the matched base with the adapter folded in, written to `folder` and reloaded in place.

    base: the folder of matched weights (models.matched_export), which every server starts with; dtype: the servers'.
    """

    in_place = True

    def __init__(self, servers: ServerPool | list[Server], base: str, folder: Path, dtype: str = "bfloat16"):
        super().__init__(servers)
        self._base, self._folder, self._dtype = Path(base), folder, getattr(torch, dtype)
        self._weights = {k: v for f in sorted(self._base.glob("*.safetensors")) for k, v in load_file(f).items()}
        self.held: dict[int, Path] = {}  # the one version, once there is one

    def model_name(self, version: int) -> str:
        """The one name that the servers serve under, whatever the version."""
        return SERVED

    def _stage(self, version: int, adapter: Path, leased: Collection[int]) -> None:
        """Merge and write."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        for file in self._base.glob("*.json"):
            shutil.copy(file, self._folder)
        merged = merge(self._weights, adapter, self._dtype)
        save_file(merged, self._folder / "model.safetensors", metadata={"format": "pt"})
        self.held = {version: adapter}

    def load_on(self, server: Server) -> None:
        """Reload, and look whether it confirms the version."""
        if self.is_loaded_on(server):
            return
        for version in self.held:
            server.reload(str(self._folder.resolve()), self.label(version))
        if not self.is_loaded_on(server):
            raise Stuck(f"server {server.url} does not confirm {[self.label(v) for v in self.held]} after a reload")

    def is_loaded_on(self, server: Server) -> bool:
        """Whether the server's weights are of the one version that requests mean."""
        return all(server.weight_version() == self.label(v) for v in self.held)


def merge(weights: dict[str, torch.Tensor], adapter: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """`weights` with a PEFT LoRA adapter folded in: W + scale * B A, added in float32, rounded once, to `dtype`.

    ValueError for a kind of LoRA that is more than that, and for weights that are not LoRA's (modules_to_save, say).
    """
    config = json.loads(read_text(adapter / "adapter_config.json"))
    if more := [k for k in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if config.get(k)]:
        raise ValueError(f"{adapter} is an adapter with {more[0]}: it cannot be merged")
    lora, merged = load_file(adapter / "adapter_model.safetensors"), dict(weights)
    if others := [name for name in lora if not name.endswith(("lora_A.weight", "lora_B.weight"))]:
        raise ValueError(f"{adapter} is an adapter with {others[0]}: it cannot be merged")
    scale = config["lora_alpha"] / config["r"]
    for name, a in lora.items():
        if not name.endswith("lora_A.weight"):
            continue
        b = lora[name.replace("lora_A", "lora_B")]
        target = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        merged[target] = (weights[target].float() + scale * (b.float() @ a.float())).to(dtype)
    return merged


def scratch_folder(run_folder: Path, weights: str, elsewhere: bool = False) -> Path:
    """Where merged weights are handed over: memory (/dev/shm) where there is room for them, else the run's folder.

    weights: the folder that they are merged into; elsewhere: other nodes read them, which see the run's folder alone.
    What a killed start of the run left in either place is removed.
    """
    clear_scratch(run_folder)
    in_memory, on_disk = _scratch_folders(run_folder)
    needed = max(4e9, 2 * sum(file.stat().st_size for file in Path(weights).glob("*.safetensors")))  # float32: twice
    room = os.access(SHARED, os.W_OK) and shutil.disk_usage(SHARED).free > needed
    return in_memory if room and not elsewhere else on_disk


def clear_scratch(run_folder: Path) -> None:
    """Remove the run's merged weights from wherever they may be: free space is no longer what it was."""
    for folder in _scratch_folders(run_folder):
        shutil.rmtree(folder, ignore_errors=True)


def _scratch_folders(run_folder: Path) -> tuple[Path, Path]:
    """In memory, where a run has one name so that its next start finds it, and in the run's folder."""
    name = hashlib.sha256(str(run_folder.resolve()).encode()).hexdigest()[:16]
    return SHARED / f"proactor-{name}", run_folder / "policy"
