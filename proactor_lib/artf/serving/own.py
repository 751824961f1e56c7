"""Servers of our own for what is asked beside the policy: the oracle before training, the judge beside it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path

from proactor_lib import models, processes
from proactor_lib.artf.serving.autoscaler import ScalingPolicy
from proactor_lib.artf.serving.cluster import Cluster
from proactor_lib.artf.serving.launch import judge_slots, oracle_slots
from proactor_lib.artf.serving.placement import Slot, serves_judge
from proactor_lib.artf.serving.served_template import template_options
from proactor_lib.artf.serving.server import Server
from proactor_lib.params import Params
from proactor_lib.rewards.params import SERVE

JUDGE_KEY = "PROACTOR_JUDGE_KEY"  # the environment variable with the key of the judge's own server


@contextmanager
def oracle_address(params: Params, folder: Path) -> Iterator[Callable[[], tuple[str, str | None]]]:
    """Gives, when called, the oracle's base URL and, of a server of our own, its key.

    That server starts with the first call and ends with the block; it logs to `folder`. The call raises UserError or
    ServerDied if it does not come up.
    """
    with ExitStack() as stack:

        @cache
        def address() -> tuple[str, str | None]:
            if params.oracle_url != SERVE:
                return params.oracle_url, None
            slots = oracle_slots(params)
            server = stack.enter_context(_served(params, params.oracle_model, folder, slots))
            return f"{server.url}/v1", server.key

        yield address


@contextmanager
def judged(params: Params, folder: Path) -> Iterator[Params]:
    """The parameters with the address of the judge's own server, which runs while this is open; else as they are.

    Logs go to `folder`. UserError or ServerDied if the server does not come up.
    """
    if not serves_judge(params):
        yield params
        return
    with _served(params, params.judge, folder, judge_slots(params)) as server:
        address = {"judge_url": f"{server.url}/v1", "judge_key_variable": JUDGE_KEY}
        with processes.environment({JUDGE_KEY: server.key}):
            yield params.model_copy(update=address)


@contextmanager
def _served(params: Params, model: str, folder: Path, slots: list[Slot]) -> Iterator[Cluster]:
    """The model by its own name, on all of these slots, ready; a server that dies is started anew."""
    make = partial(own_server, params, model, models.downloaded(models.resolve(model)), folder)
    every = ScalingPolicy(len(slots), len(slots), params.max_num_seqs)
    with Cluster(make, slots, every, folder, start_timeout=params.start_timeout) as cluster:
        yield cluster.wait_ready(params.start_timeout)


def own_server(params: Params, model: str, weights: str, folder: Path, slot: Slot, key: str) -> Server:
    """A server for `model` on a slot, with the context that the model has, not yet started."""
    return Server(
        model=weights, name=model, log_path=folder / f"server-{slot.name}.log", key=key, cores=slot.cores, gpu=slot.gpu,
        dtype=models.dtype_name(params.server_dtype, cuda=slot.gpu is not None),
        max_model_len=None, max_num_seqs=params.max_num_seqs, kv_cache_gb=params.kv_cache_gb,
        gpu_memory_utilization=params.gpu_memory_utilization, options=template_options(weights, folder),
    )  # fmt: skip
