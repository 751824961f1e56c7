"""Memory and disk of a run on a machine: each process beside what its GPU or the host has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proactor_lib import models
from proactor_lib.artf.capacity import memory
from proactor_lib.artf.capacity.memory import GB, Parts
from proactor_lib.artf.capacity.sizes import NF4_BITS, ModelSizes, model_sizes
from proactor_lib.artf.serving.placement import GpuPlaces, max_servers, serves_oracle
from proactor_lib.doctor.machine import Machine
from proactor_lib.doctor.roles import Roles, device
from proactor_lib.doctor.row import Row
from proactor_lib.params import Params

USABLE = 0.95  # of a device's memory


def memory_rows(
    params: Params, machine: Machine, roles: Roles, trains: bool = True, annotates: bool = True
) -> Iterator[Row]:
    """A row for each process on a GPU, one for the host, one for the disk. trains: else one server is all there is."""
    model = model_sizes(params.model)
    if model is None:
        yield Row("memory", params.model, warning=f"memory is not worked out: the config.json of {params.model!r} is "
                  "not here, or not that of a dense model")  # fmt: skip
        return
    if roles.gpu:
        gpus = Gpus(params, machine, roles.places)
        yield from _gpu_rows(gpus, model, trains)
        if annotates and serves_oracle(params):
            yield from gpus.own_server("oracle", params.oracle_model, range(len(machine.names)))
    yield _host(params, machine, roles, model, trains)
    yield _disk(params, machine, model, roles.gpu)


@dataclass(frozen=True)
class Gpus:
    """The rows of GPUs that do the same: one for all of them, by the smallest."""

    params: Params
    machine: Machine
    places: GpuPlaces

    def named(self, numbers: Sequence[int]) -> tuple[str, float]:
        """What they are called, and the bytes of the smallest."""
        names = [self.places.names[n] for n in numbers]
        bare = all(name.isdigit() for name in names)
        return "GPU " * bare + ", ".join(names), min(device(self.machine, n).memory_gb for n in numbers) * GB

    def server(self, what: str, numbers: Sequence[int], needs: Parts, bits: float = 0) -> Iterator[Row]:
        """bits: of a policy server's weights, whose number is a choice."""
        if numbers:
            where, memory_bytes = self.named(numbers)
            yield _server(what, where, needs, memory_bytes, self.params.gpu_memory_utilization, bits)

    def own_server(self, what: str, name: str, numbers: Sequence[int]) -> Iterator[Row]:
        """One for a judge or an oracle, where its sizes are known."""
        if model := model_sizes(name):
            yield from self.server(f"{what}'s own server", numbers, memory.gpu_server(model, self.params))


def _gpu_rows(gpus: Gpus, model: ModelSizes, trains: bool) -> Iterator[Row]:
    params, places = gpus.params, gpus.places
    bits = NF4_BITS if params.serve_weights == "nf4" else 16
    if trains:
        where, memory_bytes = gpus.named(places.trainers)
        served = max((*places.servers, *places.judges).count(n) for n in places.trainers)
        left = memory_bytes * (USABLE - served * params.gpu_memory_utilization)
        yield _trainer(params, where, memory.trainer(model, params, gpu=True), left, bool(served))
        yield from gpus.own_server("judge", params.judge, places.judges) if places.judges else ()
    server = memory.gpu_server(model, params, bits, adapters=True, longest=params.max_context)
    yield from gpus.server("policy server", places.servers, server, bits)
    if params.quantization == "nf4" and params.serve_weights == "matched":
        yield _export(*gpus.named([0]), memory.export(model))


def _export(where: str, has: float, needs: float) -> Row:
    problem = (f"making the bfloat16 weights that servers hold needs {_gb(needs)} on {where}, once, and it has "
               f"{_gb(has)}: set serve_weights: nf4, or take a smaller model or a larger GPU")  # fmt: skip
    return Row("export, before training", where, needs, has, problem if needs > has * USABLE else None)


def _trainer(params: Params, where: str, needs: Parts, left: float, shared: bool) -> Row:
    total, problem = sum(needs.values()), None
    if total > left:
        fixed = total - needs["activations"]
        fits = int((left - fixed) / needs["activations"] * params.token_budget) // 256 * 256
        ways = [f"lower token_budget from {params.token_budget} to {fits}"] if fits >= 1024 else []
        ways += [] if params.gradient_checkpointing else ["set gradient_checkpointing: true"]
        ways += ["lower gpu_memory_utilization"] if shared else []
        beside = " beside the server" if shared else ""
        ways += ["take a smaller model or a larger GPU"]
        problem = (f"training on {where} needs {_gb(total)} for a row of {params.token_budget} tokens "
                   f"({_told(needs)}) and has {_gb(left)}{beside}: {', or '.join(ways)}")  # fmt: skip
    return Row("training process", where, total, left, problem, parts=needs)


def _server(what: str, where: str, needs: Parts, memory_bytes: float, share: float, bits: float) -> Row:
    total, has, problem = sum(needs.values()), memory_bytes * share, None
    if total > has:
        nf4 = "set serve_weights: nf4, or " if bits == 16 else ""
        problem = (f"the {what} on {where} needs {_gb(total)} ({_told(needs)}) and gets {share:g} of "
                   f"{_gb(memory_bytes)}: {nf4}take a smaller model or a larger GPU")  # fmt: skip
    return Row(what, where, total, has, problem, parts=needs)


def _host(params: Params, machine: Machine, roles: Roles, model: ModelSizes, trains: bool) -> Row:
    """Everything that runs at once on the host, or the making of an export, whichever is more."""
    needs: Parts = {"notebook": memory.NOTEBOOK}
    servers = 1 if not trains else 0 if params.ray_address else max_servers(params)  # Ray's are on its nodes
    if roles.gpu:
        count = servers + (params.trainers + roles.judges) * trains
        needs["processes"] = count * memory.VLLM
    else:
        wide = _is_float32(params.server_dtype, machine)
        needs["servers"] = servers * sum(memory.cpu_server(model, params, wide).values())
        if trains:
            one = memory.trainer(model, params, gpu=False, float32=_is_float32(params.trainer_dtype, machine))
            needs["training"] = params.trainers * sum(one.values())
            judge = model_sizes(params.judge) if roles.judges else None
            needs["judge"] = sum(memory.cpu_server(judge, params, wide).values()) if judge else 0.0
    total, has = sum(needs.values()), machine.memory_gb * GB
    problem = (f"the processes of the run need {_gb(total)} of memory at once ({_told(needs)}) and {machine.name} has "
               f"{_gb(has)}: lower token_budget, kv_cache_gb or servers, or take a smaller model")  # fmt: skip
    return Row("memory", "host", total, has, problem if total > has * USABLE else None, parts=needs)


def _is_float32(dtype: str, machine: Machine) -> bool:
    return dtype == "float32" or (dtype == "auto" and not machine.bfloat16)


def _disk(params: Params, machine: Machine, model: ModelSizes, gpu: bool) -> Row:
    needs = {"run": memory.run_folder(model, params)}
    own = params.model in (models.EMBEDDED, models.TINY)
    if own or models.is_hub_id(params.model):
        needs["model"] = model.weights()
    if params.quantization == "nf4":
        needs["export"] = model.weights(NF4_BITS if params.serve_weights == "nf4" else 16)
    if not gpu:
        needs["merged policy"] = 2 * model.weights()
    there = machine.stored(params)
    needs = {name: max(0.0, count - there.get(name, 0)) for name, count in needs.items()}
    total, has = sum(needs.values()), machine.disk_gb * GB
    problem = (f"the run, its model and what servers load need {_gb(total)} of disk ({_told(needs)}) and "
               f"{machine.name} has {_gb(has)}: make room, or set PROACTOR_CACHE and out to another disk")  # fmt: skip
    return Row("disk", "run folder and cache", total, has, problem if total > has else None, parts=needs)


def _gb(count: float) -> str:
    return f"{count / GB:.1f} GB"


def _told(parts: Parts) -> str:
    return ", ".join(f"{name} {count / GB:.1f}" for name, count in parts.items() if count >= 0.05 * GB)
