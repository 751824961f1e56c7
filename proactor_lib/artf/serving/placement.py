"""Places for servers: a GPU each, or a share of the cores."""

from collections.abc import Sequence
from dataclasses import dataclass

from proactor_lib.errors import UserError


@dataclass(frozen=True)
class Slot:
    """A place for one server. cores: e.g. "0-1"; gpu: as CUDA_VISIBLE_DEVICES names it. None: not pinned; no GPU."""

    name: str
    cores: str | None = None
    gpu: str | None = None


def on_gpu(device: str) -> bool:
    """Whether `device` (a run's parameter: auto, cpu or cuda) means a GPU on this machine."""
    import torch

    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def core_slots(count: int, cores: str | None) -> list[Slot]:
    """`count` slots on these cores, in equal shares as far as that goes; they share where there are fewer cores.

    UserError for a list of cores that cannot be read.
    """
    if cores is None:
        return [Slot(f"cpu-{n}") for n in range(count)]
    numbers = core_numbers(cores)
    if len(numbers) < count:
        return [Slot(f"core-{n}", cores=str(numbers[n % len(numbers)])) for n in range(count)]
    bounds = [len(numbers) * n // count for n in range(count + 1)]
    shares = [numbers[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    return [Slot(f"core-{n}", cores=",".join(map(str, share))) for n, share in enumerate(shares)]


SHARE = 0.5  # of its memory, at most, is a server's on a GPU on which a process trains too [ours]


@dataclass(frozen=True)
class GpuPlaces:
    """Which of a machine's visible GPUs does what, by their logical numbers."""

    trainers: tuple[int, ...]  # a process each
    servers: tuple[int, ...]
    names: tuple[str, ...]  # of all visible ones, as CUDA_VISIBLE_DEVICES calls them

    @property
    def shared(self) -> tuple[int, ...]:
        """Those on which a process trains and a server serves."""
        return tuple(n for n in self.trainers if n in self.servers)

    @property
    def idle(self) -> tuple[int, ...]:
        """Those on which nothing is."""
        return tuple(n for n in range(len(self.names)) if n not in (*self.trainers, *self.servers))

    @property
    def slots(self) -> list[Slot]:
        """The servers' slots."""
        return [Slot(f"gpu-{n}", gpu=self.names[n]) for n in self.servers]

    def __str__(self) -> str:
        said = {"training": self.trainers, "serving": self.servers, "shared by both": self.shared, "idle": self.idle}
        return "; ".join(f"{what}: {', '.join(self.names[n] for n in which)}" for what, which in said.items() if which)


def gpu_places(trainers: int, servers: int, names: Sequence[str], memory_share: float) -> GpuPlaces:
    """The first visible GPUs train, the last serve, one each; memory_share: what a server takes of its GPU's memory.

    UserError if there are too few, or if a GPU would be shared by a trainer and a server that leaves it no room.
    """
    count = len(names)
    for many, what, parameters in ((trainers, "trainers", "trainers"), (servers, "servers", "servers and max_servers")):
        if many > count:
            raise UserError(f"{many} {what} need a GPU each, and there are {count}: lower {parameters}")
    if trainers > 1 and any(name.startswith("MIG-") for name in names):
        raise UserError(f"trainers: {trainers} processes cannot train together on MIG slices (NCCL wants whole GPUs)")
    places = GpuPlaces(tuple(range(trainers)), tuple(range(count - servers, count)), tuple(names))
    if places.shared and memory_share > SHARE:
        raise UserError(
            f"{trainers} trainers and {servers} servers share {len(places.shared)} of {count} GPUs, which takes a "
            f"gpu_memory_utilization of at most {SHARE}, got {memory_share}; or lower trainers, servers or max_servers"
        )
    return places


def visible_gpus(count: int, variable: str | None) -> list[str]:
    """What names each of the `count` GPUs that CUDA shows this process: an index, a UUID, or a MIG slice's name.

    variable: CUDA_VISIBLE_DEVICES, in whose order CUDA numbers them; None where it is not set. Of MIG slices CUDA shows
    a process only the first, and another process another one: all of them count.
    """
    if variable is None:
        return [str(n) for n in range(count)]
    names = [name.strip() for name in variable.split(",")]
    return names if names[0].startswith("MIG-") else names[:count]


def core_numbers(cores: str) -> list[int]:
    """The numbers in a list such as "0,2-3". UserError if it cannot be read."""
    try:
        spans = [[int(end) for end in part.split("-")] for part in cores.split(",")]
        return [n for span in spans for n in range(span[0], span[-1] + 1)]
    except ValueError:
        raise UserError(f"cores {cores!r} is not a list of numbers and ranges such as 0,2-3") from None
