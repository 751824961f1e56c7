"""A run's servers from its parameters: one vLLM server, or a cluster of them, here or on a Ray cluster's nodes."""

import logging
import os
import secrets
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from proactor_lib import models
from proactor_lib.artf.serving.autoscaler import ScalingPolicy
from proactor_lib.artf.serving.cluster import Cluster
from proactor_lib.artf.serving.on_ray import on_ray
from proactor_lib.artf.serving.placement import Slot, core_slots, gpu_places, on_gpu, visible_gpus
from proactor_lib.artf.serving.server import Server
from proactor_lib.params import Params

log = logging.getLogger(__name__)


def serve(params: Params, weights: str, folder: Path, lora: bool = False) -> Server | Cluster:
    """One server where the parameters ask for one, else a cluster, beside the run's trainers; started, not yet ready.

    Logs go to `folder`. Both have `url`, `key`, `wait_ready` and `stop`. Inside `ray_session`. UserError as
    `placement.gpu_places`.
    """
    if max_servers(params) > 1 or params.ray_address:
        return make_cluster(params, weights, folder, lora, params.trainers).start()
    return start_server(params, weights, folder / "server.log", lora, params.trainers)


def start_server(params: Params, weights: str, log_path: Path, lora: bool = False, trainers: int = 0) -> Server:
    """One vLLM server for the run's model, started and not yet ready; its key is a random one."""
    return make_server(params, weights, log_path, lora, slots(params, 1, trainers)[0], secrets.token_hex(16)).start()


def make_cluster(
    params: Params, weights: str, folder: Path, lora: bool = False, trainers: int = 0, **kwargs
) -> Cluster:
    """The cluster that the parameters describe, beside so many trainers, not yet started; `kwargs` go to Cluster."""
    rule = ScalingPolicy(
        params.servers, max_servers(params), params.max_num_seqs, params.scale_up_after, params.scale_down_after
    )

    def make(slot: Slot, key: str) -> Server:
        server = make_server(params, weights, folder / f"server-{slot.name}.log", lora, slot, key)
        return on_ray(server, params.server_cpus) if params.ray_address else server

    places = slots(params, max_servers(params), trainers)
    return Cluster(make, places, rule, folder, start_timeout=params.start_timeout, **kwargs)


def make_server(params: Params, weights: str, log_path: Path, lora: bool, slot: Slot, key: str) -> Server:
    """A vLLM server for the run's model on a slot, not yet started."""
    return Server(
        model=weights,
        log_path=log_path,
        key=key or None,
        cores=slot.cores,
        gpu=slot.gpu,
        dtype=models.dtype_name(params.server_dtype, cuda=slot.gpu is not None),
        max_model_len=params.max_context,
        max_num_seqs=params.max_num_seqs,
        kv_cache_gb=params.kv_cache_gb,
        gpu_memory_utilization=params.gpu_memory_utilization,
        lora_rank=params.lora_rank if lora else 0,
        max_loras=params.max_staleness + 2,
        sleeps=slot.gpu is not None and max_servers(params) > params.servers,
    )


def ray_session(params: Params) -> AbstractContextManager:
    """While open, this process is part of the Ray cluster that the parameters name, if any. UserError if it cannot."""
    if params.ray_address is None:
        return nullcontext()
    from proactor_lib.ray_session import cluster

    return cluster(params.ray_address)


def max_servers(params: Params) -> int:
    """The most servers that may run."""
    return max(params.servers, params.max_servers)


def slots(params: Params, count: int, trainers: int) -> list[Slot]:
    """Where `count` servers go: on a CPU shares of `server_cores`, else the last GPUs, one each; or where Ray says.

    trainers: how many processes train beside them. UserError as `gpu_places`.
    """
    import torch

    gpu = on_gpu(params.device)
    if params.ray_address:
        return [Slot(f"ray-{n}", gpu="0" if gpu else None) for n in range(count)]
    if gpu:
        names = visible_gpus(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        places = gpu_places(trainers, count, names, params.gpu_memory_utilization)
        log.info("GPUs: %s", places)
        return places.slots
    return core_slots(count, params.server_cores)
