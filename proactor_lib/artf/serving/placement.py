"""Places for servers: a GPU each, or a share of the cores."""

from dataclasses import dataclass

from proactor_lib.errors import UserError


@dataclass(frozen=True)
class Slot:
    """A place for one server. cores: e.g. "0-1" (None: not pinned); gpu: the CUDA device's index (None: no GPU)."""

    name: str
    cores: str | None = None
    gpu: int | None = None


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


def gpu_slots(count: int, gpus: int) -> list[Slot]:
    """`count` slots on the last of `gpus` devices: the first ones are the trainer's. UserError if there are too few."""
    if count > gpus:
        raise UserError(f"{count} servers need a GPU each, and there are {gpus}: lower servers and max_servers")
    return [Slot(f"gpu-{n}", gpu=n) for n in range(gpus - count, gpus)]


def core_numbers(cores: str) -> list[int]:
    """The numbers in a list such as "0,2-3". UserError if it cannot be read."""
    try:
        spans = [[int(end) for end in part.split("-")] for part in cores.split(",")]
        return [n for span in spans for n in range(span[0], span[-1] + 1)]
    except ValueError:
        raise UserError(f"cores {cores!r} is not a list of numbers and ranges such as 0,2-3") from None
