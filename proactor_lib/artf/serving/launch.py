"""A run's servers from its parameters: one vLLM server, or a cluster of them, here or on a Ray cluster's nodes."""

import logging
import os
import secrets
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from proactor_lib import models
from proactor_lib.artf.serving.autoscaler import ScalingPolicy
from proactor_lib.artf.serving.cluster import Cluster
from proactor_lib.artf.serving.on_ray import on_ray
from proactor_lib.artf.serving.placement import (
    Slot,
    core_slots,
    gpu_places,
    gpu_slots,
    max_servers,
    on_gpu,
    run_places,
    visible_gpus,
)
from proactor_lib.artf.serving.served_template import template_options
from proactor_lib.artf.serving.server import Server
from proactor_lib.errors import UserError
from proactor_lib.params import Params

log = logging.getLogger(__name__)

NF4 = ("--quantization", "bitsandbytes", "--load-format", "bitsandbytes")  # vllm-bnb-plugin's


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

    count = max_servers(params)
    places = ray_slots(params, count) if params.ray_address else slots(params, count, trainers)
    return Cluster(make, places, rule, folder, start_timeout=params.start_timeout, **kwargs)


def make_server(params: Params, weights: str, log_path: Path, lora: bool, slot: Slot, key: str) -> Server:
    """A vLLM server for the run's model on a slot, not yet started. UserError for 4-bit weights without a GPU."""
    nf4 = params.serve_weights == "nf4"
    if nf4 and slot.gpu is None:
        raise UserError("serve_weights: nf4 needs a GPU, and there is none; set serve_weights: matched")
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
        options=(*template_options(weights, log_path.parent), *(NF4 if nf4 else ())),
        sleeps=slot.gpu is not None and max_servers(params) > params.servers,
    )


def ray_session(params: Params) -> AbstractContextManager:
    """While open, this process is part of the Ray cluster that the parameters name, if any. UserError if it cannot."""
    if params.ray_address is None:
        return nullcontext()
    from proactor_lib.ray_session import cluster

    return cluster(params.ray_address)


def ray_slots(params: Params, count: int) -> list[Slot]:
    """Places for `count` servers on the nodes of a Ray cluster, which says where and on which GPU."""
    return [Slot(f"ray-{n}", gpu="0" if on_gpu(params.device) else None) for n in range(count)]


def slots(params: Params, count: int, trainers: int) -> list[Slot]:
    """Where `count` servers of this machine go: on a CPU shares of `server_cores`, else the last GPUs, one each.

    trainers: whether they are beside the run's training, on the places that `run_places` keeps for them. UserError as
    `gpu_places`.
    """
    if not on_gpu(params.device):
        return core_slots(count, params.server_cores)
    names = visible_names()
    places = run_places(params, names) if trainers else gpu_places(0, count, names, params.gpu_memory_utilization)
    log.info("GPUs: %s", places)
    return places.slots


def judge_slots(params: Params) -> list[Slot]:
    """Where the judge's own servers go, beside training. UserError as `gpu_places`."""
    if not on_gpu(params.device):
        return [replace(slot, name="judge") for slot in core_slots(1, params.server_cores)]
    names = visible_names()
    return gpu_slots(run_places(params, names).judges, names)


def oracle_slots(params: Params) -> list[Slot]:
    """Where the oracle's own servers go: nothing else runs then, so that each GPU has one."""
    if not on_gpu(params.device):
        return [replace(slot, name="oracle") for slot in core_slots(1, params.server_cores)]
    names = visible_names()
    return gpu_slots(range(len(names)), names)


def visible_names() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES calls them."""
    import torch

    return visible_gpus(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
