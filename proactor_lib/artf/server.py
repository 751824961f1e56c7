"""One vLLM server as a child process: started, waited for, asked, and ended with everything that it started.

Loopback only: vLLM's development endpoints (pause, reload) can run anything and know no API key.
"""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from proactor_lib.errors import BadInput

log = logging.getLogger(__name__)

HOST = "127.0.0.1"


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as s:
        s.bind((HOST, 0))
        return s.getsockname()[1]


def _die_with_parent() -> None:
    """Linux: the child gets SIGTERM when its parent dies, however it dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class ServerDied(RuntimeError):
    """The server's process ended, or did not become ready in time; the message ends with its last log lines."""


@dataclass
class Server:
    """A vLLM server on one slot (a GPU, or a set of cores). `start` returns at once; `wait_ready` waits.

    model: the folder whose weights it holds; name: the model name in requests; cores: e.g. "1" or "0-1" (None: all);
    gpu: the CUDA device's index (None: no GPU); options: further vLLM arguments.
    """

    model: str
    log_path: Path
    name: str = "policy"
    port: int = 0
    cores: str | None = None
    gpu: int | None = None
    max_model_len: int = 9216  # tokens
    max_num_seqs: int = 64
    kv_cache_gb: float = 2.0
    gpu_memory_utilization: float = 0.9
    lora_rank: int = 0  # 0: no adapters; else the largest rank to be served
    max_loras: int = 4
    options: tuple[str, ...] = ()
    process: subprocess.Popen | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The server's root, without /v1."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> "Server":
        """Start the process. BadInput if the port is taken."""
        self.port = self.port or free_port()
        with socket.socket() as probe:
            if probe.connect_ex((HOST, self.port)) == 0:
                raise BadInput(f"port {self.port} is busy; name another, or 0 for any free one")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "ab") as out:
            self.process = subprocess.Popen(
                self._command(),
                env={**os.environ, **self._environment()},
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        log.info("server %s starts on %s, cores %s, gpu %s", self.name, self.url, self.cores, self.gpu)
        return self

    def _command(self) -> list[str]:
        pin = ["taskset", "-c", self.cores] if self.cores else []
        command = [*pin, sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", self.model]
        command += ["--served-model-name", self.name, "--host", HOST, "--port", str(self.port), "--dtype", "bfloat16"]
        command += ["--max-model-len", str(self.max_model_len), "--max-num-seqs", str(self.max_num_seqs)]
        command += ["--enable-prefix-caching", "--disable-uvicorn-access-log"]
        # A weak model that may put white space into its JSON puts nothing else there.
        command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
        if self.gpu is None:
            # Compiling takes two minutes and decodes a tenth faster; blocks of 128 tokens share too little of a prefix.
            command += ["--enforce-eager", "--block-size", "32"]
        else:
            command += ["--gpu-memory-utilization", str(self.gpu_memory_utilization)]
        if self.lora_rank:
            command += ["--enable-lora", "--max-lora-rank", str(self.lora_rank), "--max-loras", str(self.max_loras)]
        return [*command, *self.options]

    def _environment(self) -> dict[str, str]:
        env = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1"}
        env |= {"HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1" if Path(self.model).exists() else "0")}
        if self.gpu is not None:
            return env | {"CUDA_VISIBLE_DEVICES": str(self.gpu)}
        env |= {"VLLM_HOST_IP": HOST, "KMP_BLOCKTIME": "0"}
        env |= {"VLLM_CPU_KVCACHE_SPACE": str(max(1, round(self.kv_cache_gb)))}
        if self.cores:
            env |= {"VLLM_CPU_OMP_THREADS_BIND": self.cores, "OMP_NUM_THREADS": str(_count(self.cores))}
        return env

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def wait_ready(self, timeout: float = 300.0) -> "Server":
        """Wait until it serves. ServerDied after `timeout` seconds, or as soon as its process ends."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not self.alive():
                raise ServerDied(f"the vLLM server ended with status {self.process.returncode}; {self._last_words()}")
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return self
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        raise ServerDied(f"the vLLM server was not ready after {timeout:.0f} s; {self._last_words()}")

    def _last_words(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        telling = [line for line in lines if "Error" in line] or lines
        return f"log {self.log_path}: {' / '.join(telling[-2:])}"

    def post(self, path: str, json: dict | None = None, params: dict | None = None, timeout: float = 600.0):
        """POST to an endpoint of the server itself; httpx.HTTPStatusError for an answer that is not 2xx."""
        response = httpx.post(f"{self.url}{path}", json=json, params=params, timeout=timeout)
        response.raise_for_status()
        return response

    def models(self) -> list[str]:
        """Names of what it serves: the base model and the loaded adapters."""
        answer = httpx.get(f"{self.url}/v1/models", timeout=30)
        answer.raise_for_status()
        return [m["id"] for m in answer.json()["data"]]

    def reload(self, weights: str) -> None:
        """Swap in the merged weights of a folder: pause, reload, forget the old policy's prefix cache, resume."""
        self.post("/pause", params={"mode": "keep"})
        try:
            self.post("/collective_rpc", json={"method": "reload_weights", "kwargs": {"weights_path": weights}})
            self.post("/reset_prefix_cache")
        finally:
            self.post("/resume")

    def stop(self, grace: float = 5.0) -> None:
        """End the process and all that it started."""
        if self.process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sign)
            except ProcessLookupError:
                break
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *exc) -> None:
        self.stop()


def _count(cores: str) -> int:
    """How many cores a list such as "0,2-3" names."""
    spans = [part.split("-") for part in cores.split(",")]
    return sum(int(span[-1]) - int(span[0]) + 1 for span in spans)
