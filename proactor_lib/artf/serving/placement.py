"""Which GPU does what, decided before anything starts; places for servers: a GPU each, or a share of the cores."""

from collections.abc import Sequence
from dataclasses import dataclass

from proactor_lib import processes
from proactor_lib.errors import UserError
from proactor_lib.params import Params
from proactor_lib.rewards import REWARDS
from proactor_lib.rewards.params import SERVE

CORES = processes.own_cores()  # when this process began: it may pin itself later


@dataclass(frozen=True)
class Slot:
    """A place for one server.

    cores: the machine's, e.g. "4,5"; None: not pinned. gpu: as CUDA_VISIBLE_DEVICES names it; None: on no GPU.
    """

    name: str
    cores: str | None = None
    gpu: str | None = None


def on_gpu(device: str) -> bool:
    """Whether `device` (a run's parameter: auto, cpu or cuda) means a GPU on this machine."""
    import torch

    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def core_slots(count: int, cores: str | None) -> list[Slot]:
    """`count` slots on these cores, in equal shares as far as that goes; they share where there are fewer cores.

    UserError as `machine_cores`.
    """
    if cores is None:
        return [Slot(f"cpu-{n}") for n in range(count)]
    numbers = core_numbers(machine_cores(cores))
    if len(numbers) < count:
        return [Slot(f"core-{n}", cores=str(numbers[n % len(numbers)])) for n in range(count)]
    bounds = [len(numbers) * n // count for n in range(count + 1)]
    shares = [numbers[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    return [Slot(f"core-{n}", cores=",".join(map(str, share))) for n, share in enumerate(shares)]


SHARE = 0.5  # of its memory, at most, is servers' on a GPU on which a process trains too [ours]
SERVERS_SHARE = 0.95  # of its memory, at most, is servers' on a GPU on which none trains [ours]


@dataclass(frozen=True)
class GpuPlaces:
    """Which of a machine's visible GPUs does what, by their logical numbers."""

    trainers: tuple[int, ...]  # a process each
    servers: tuple[int, ...]  # of the policy
    names: tuple[str, ...]  # of all visible ones, as CUDA_VISIBLE_DEVICES calls them
    judges: tuple[int, ...] = ()  # the judge's own servers

    @property
    def shared(self) -> tuple[int, ...]:
        """Those on which more than one process works."""
        every = (*self.trainers, *self.servers, *self.judges)
        return tuple(sorted({n for n in every if every.count(n) > 1}))

    @property
    def idle(self) -> tuple[int, ...]:
        """Those on which nothing is."""
        return tuple(n for n in range(len(self.names)) if n not in (*self.trainers, *self.servers, *self.judges))

    @property
    def slots(self) -> list[Slot]:
        """The policy's servers' slots."""
        return gpu_slots(self.servers, self.names)

    def __str__(self) -> str:
        said = {"training": self.trainers, "judging": self.judges, "serving": self.servers,
                "shared by both": self.shared, "idle": self.idle}  # fmt: skip
        return "; ".join(f"{what}: {', '.join(self.names[n] for n in which)}" for what, which in said.items() if which)


def gpu_slots(numbers: Sequence[int], names: Sequence[str]) -> list[Slot]:
    """A slot on each of these visible GPUs."""
    return [Slot(f"gpu-{n}", gpu=names[n]) for n in numbers]


def gpu_places(trainers: int, servers: int, names: Sequence[str], memory_share: float, judges: int = 0) -> GpuPlaces:
    """The first visible GPUs train, the last serve, the judge's servers are between them, one each.

    Where nothing is left between them the judge's servers share the GPUs of the policy's. memory_share: what a server
    takes of its GPU's memory. UserError if there are too few, or if those that share a GPU have no room.
    """
    count = len(names)
    wanted = ((trainers, "trainers", "trainers"), (servers, "servers", "servers and max_servers"),
              (judges, "of the judge's servers", "judge_servers"))  # fmt: skip
    for many, what, parameters in wanted:
        if many > count:
            raise UserError(f"{many} {what} need a GPU each, and there are {count}: lower {parameters}")
    if trainers > 1 and any(name.startswith("MIG-") for name in names):
        raise UserError(f"trainers: {trainers} processes cannot train together on MIG slices (NCCL wants whole GPUs)")
    between = range(trainers, count - servers)
    judged = between[len(between) - judges :] if len(between) >= judges else range(count - judges, count)
    places = GpuPlaces(tuple(range(trainers)), tuple(range(count - servers, count)), tuple(names), tuple(judged))
    _refuse_crowded(places, memory_share)
    return places


def _refuse_crowded(places: GpuPlaces, memory_share: float) -> None:
    for n in places.shared:
        serving, trains = (*places.servers, *places.judges).count(n), n in places.trainers
        most = (SHARE if trains else SERVERS_SHARE) / serving
        if memory_share > most:
            judging = f", {len(places.judges)} of the judge's servers" if places.judges else ""
            raise UserError(
                f"{len(places.trainers)} trainers{judging} and {len(places.servers)} servers share "
                f"{len(places.shared)} of {len(places.names)} GPUs, which takes a gpu_memory_utilization of at most "
                f"{most:.3g}, got {memory_share}; or lower trainers, servers or max_servers"
            )


def max_servers(params: Params) -> int:
    """The most servers of the policy that may run."""
    return max(params.servers, params.max_servers)


def run_places(params: Params, names: Sequence[str]) -> GpuPlaces:
    """Which of these visible GPUs does what while the run trains. UserError as `gpu_places`."""
    servers = 0 if params.ray_address else max_servers(params)
    judges = params.judge_servers if serves_judge(params) else 0
    return gpu_places(params.trainers, servers, names, params.gpu_memory_utilization, judges)


def asks_oracle(params: Params) -> bool:
    """Whether one of the run's annotators asks an oracle."""
    return any("oracle" in (annotator or "") for annotator in (params.annotator, params.second_annotator))


def serves_oracle(params: Params) -> bool:
    """Whether the run starts servers for its oracle."""
    return params.oracle_url == SERVE and asks_oracle(params)


def serves_judge(params: Params) -> bool:
    """Whether the run starts a server for its judge."""
    return params.judge_url == SERVE and REWARDS[params.reward].judged


def visible_gpus(count: int, variable: str | None) -> list[str]:
    """What names each of the `count` GPUs that CUDA shows this process: an index, a UUID, or a MIG slice's name.

    variable: CUDA_VISIBLE_DEVICES, in whose order CUDA numbers them; None where it is not set. Of MIG slices CUDA shows
    a process only the first, and another process another one: all of them count.
    """
    if variable is None:
        return [str(n) for n in range(count)]
    names = [name.strip() for name in variable.split(",")]
    return names if names[0].startswith("MIG-") else names[:count]


def machine_cores(cores: str) -> str:
    """The machine's numbers of cores that a parameter lists, which counts the process's own from 0.

    UserError as `usable_cores`.
    """
    return ",".join(str(CORES[n]) for n in usable_cores(cores, len(CORES)))


def usable_cores(cores: str, count: int) -> list[int]:
    """The numbers in a list that a process with `count` cores has, from 0.

    UserError for a list that cannot be read, and where it has none of them.
    """
    if not (mine := [n for n in core_numbers(cores) if n < count]):
        raise UserError(f"cores {cores!r}: this process may use {count} of the machine's, counted from 0")
    return mine


def core_numbers(cores: str) -> list[int]:
    """The numbers in a list such as "0,2-3". UserError if it cannot be read."""
    try:
        spans = [[int(end) for end in part.split("-")] for part in cores.split(",")]
        return [n for span in spans for n in range(span[0], span[-1] + 1)]
    except ValueError:
        raise UserError(f"cores {cores!r} is not a list of numbers and ranges such as 0,2-3") from None
