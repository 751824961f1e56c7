"""One vLLM server as a child process, and what is asked of it besides completions.

vLLM's development endpoints (pause, reload) can run anything: with a `key` every path but /health and /metrics asks for
it (vLLM's own guards /v1 only), without one the server must stay on loopback.
"""

import logging
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from proactor_lib import models
from proactor_lib.artf.serving.placement import core_numbers
from proactor_lib.artf.serving.process import HOST, ServerDied, ServerProcess, free_port, http
from proactor_lib.errors import ProcessError

log = logging.getLogger(__name__)

RELOAD_TIMEOUT = 600.0  # seconds; tens of gigabytes may come from a shared disk

__all__ = ["HOST", "Load", "Server", "ServerDied", "Stuck", "free_port"]


class Stuck(ProcessError):
    """A server answers, but does not do what it was asked."""


@dataclass(frozen=True)
class Load:
    """Sequences of a server at one look."""

    waiting: int = 0
    running: int = 0


@dataclass(kw_only=True)
class Server(ServerProcess):
    """A vLLM server on one slot (a GPU, or a set of cores). `start` returns at once; `wait_ready` waits.

    model: the folder whose weights it holds; name: the model name in requests; cores: e.g. "1" or "0-1" (None: all);
    gpu: as CUDA_VISIBLE_DEVICES names it (None: no GPU); options: further vLLM arguments.
    """

    model: str
    name: str = "policy"
    key: str | None = field(default=None, repr=False)  # what requests must carry
    cores: str | None = None
    gpu: str | None = None
    dtype: str = "bfloat16"
    max_model_len: int | None = 9216  # tokens; None: as many as the model has
    max_num_seqs: int = 64
    kv_cache_gb: float = 2.0
    gpu_memory_utilization: float = 0.9
    lora_rank: int = 0  # 0: no adapters; else the largest rank to be served
    max_loras: int = 4
    options: tuple[str, ...] = ()
    sleeps: bool = False  # whether it can free its GPU without ending

    what = "vLLM server"

    def start(self) -> "Server":
        """Start the process. UserError if the port is taken."""
        super().start()
        log.info("server %s starts on %s, cores %s, gpu %s", self.name, self.url, self.cores, self.gpu)
        return self

    def _command(self) -> list[str]:
        pin = ["taskset", "-c", self.cores] if self.cores else []
        command = [*pin, sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", self.model]
        command += ["--served-model-name", self.name, "--host", self.host, "--port", str(self.port)]
        command += ["--dtype", self.dtype]
        if self.max_model_len:
            command += ["--max-model-len", str(self.max_model_len)]
        command += ["--max-num-seqs", str(self.max_num_seqs)]
        command += ["--enable-prefix-caching", "--disable-uvicorn-access-log"]
        command += ["--logprobs-mode", "processed_logprobs"]  # of what is sampled from, at whatever temperature
        command += ["--generation-config", "vllm"]  # not the model's own top_k, penalties, ...: a trainer knows of none
        # A weak model that may put white space into its JSON puts nothing else there.
        command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
        if self.gpu is None:
            # Compiling takes two minutes and decodes a tenth faster; blocks of 128 tokens share too little of a prefix.
            command += ["--enforce-eager", "--block-size", "32"]
        else:
            command += ["--gpu-memory-utilization", str(self.gpu_memory_utilization)]
        if self.lora_rank:
            command += ["--enable-lora", "--max-lora-rank", str(models.served_rank(self.lora_rank))]
            command += ["--max-loras", str(self.max_loras)]
        if self.sleeps:
            command += ["--enable-sleep-mode"]
        if self.key:
            command += ["--middleware", "proactor_lib.artf.serving.api_key.KeyEverywhere"]
        return [*command, *self.options]

    def _environment(self) -> dict[str, str]:
        env = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1"}
        env |= {"HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1" if Path(self.model).exists() else "0")}
        env |= {"VLLM_API_KEY": self.key} if self.key else {}  # not an argument: those can be read by everyone
        if self.gpu is not None:
            return env | {"CUDA_VISIBLE_DEVICES": self.gpu}
        # One process less: its worker stays in the engine.
        env |= {"VLLM_HOST_IP": self.host, "KMP_BLOCKTIME": "0", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        env |= {"VLLM_CPU_KVCACHE_SPACE": str(max(1, round(self.kv_cache_gb)))}
        if self.cores:
            env |= {"VLLM_CPU_OMP_THREADS_BIND": self.cores, "OMP_NUM_THREADS": str(len(core_numbers(self.cores)))}
        return env

    @property
    def headers(self) -> dict[str, str]:
        """What requests to it must carry."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def post(self, path: str, json: dict | None = None, params: dict | None = None, timeout: float = 120.0):
        """POST to an endpoint of the server itself; httpx.HTTPStatusError for an answer that is not 2xx."""
        response = http().post(f"{self.url}{path}", json=json, params=params, headers=self.headers, timeout=timeout)
        response.raise_for_status()
        return response

    def get(self, path: str, timeout: float = 30.0):
        """GET from an endpoint of the server itself; httpx.HTTPStatusError for an answer that is not 2xx."""
        response = http().get(f"{self.url}{path}", headers=self.headers, timeout=timeout)
        response.raise_for_status()
        return response

    def models(self) -> list[str]:
        """Names of what it serves: the base model and the loaded adapters."""
        return [m["id"] for m in self.get("/v1/models").json()["data"]]

    def load(self, timeout: float = 5.0) -> Load:
        """Its sequences now, from its own metrics."""
        return parse_load(self.get("/metrics", timeout).text)

    def reload(self, weights: str, version: str = "default") -> None:
        """Swap in the merged weights of a folder: pause, reload, forget the old policy's prefix cache, resume.

        `version` is what `weight_version` gives from then on.
        """
        self.post("/pause", params={"mode": "keep"})
        try:
            call = {"method": "reload_weights", "kwargs": {"weights_path": weights}}
            self.post("/collective_rpc", json=call, timeout=RELOAD_TIMEOUT)
            self.post("/reset_prefix_cache")
            self.post("/update_weight_version", json={"new_version": version})
        finally:
            self.resume()

    def weight_version(self) -> str:
        """The version of `reload`; "default" for a server that holds what it started with."""
        return self.get("/weight_info").json()["weight_version"]

    def paused(self) -> bool:
        """Whether it holds requests back."""
        return self.get("/is_paused").json()["is_paused"]

    def resume(self, attempts: int = 5) -> None:
        """Have it take up requests again, and look whether it does. Stuck if it does not."""
        for attempt in range(attempts):
            self.post("/resume")
            if not self.paused():
                return
            log.warning("server %s is still paused after /resume, attempt %d", self.url, attempt + 1)
            time.sleep(0.1 * 2**attempt)
        raise Stuck(f"server {self.url} stays paused")

    def sleep(self) -> None:
        """Free its GPU; the process stays."""
        self.post("/sleep", params={"level": "1"})

    def wake(self) -> None:
        """Take the GPU again."""
        self.post("/wake_up")


def parse_load(metrics: str) -> Load:
    """Waiting and running sequences in vLLM's metrics (Prometheus text), over all engines of the server."""
    found = {"waiting": 0.0, "running": 0.0}
    for line in metrics.splitlines():
        for name in found:
            if line.startswith((f"vllm:num_requests_{name}{{", f"vllm:num_requests_{name} ")):
                found[name] += float(line.rsplit(" ", 1)[1])
    return Load(int(found["waiting"]), int(found["running"]))
