"""The parts of `gpu-check` with a vLLM server: adapters loaded while it answers, and two steps of a run."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from proactor_lib import models
from proactor_lib.artf.serving.policy_sync import AdapterSync
from proactor_lib.artf.serving.server import Server
from proactor_lib.artf.training.training_log import METRICS
from proactor_lib.bench.bound import Bound
from proactor_lib.files import read_text, shipped
from proactor_lib.processes import follow_parent

VERSIONS = 3
RANK = 8


def adapters(dry: bool, make: Callable[[Path], Server] | None = None) -> Iterator[Bound]:
    """Versions published as a run publishes them, while the base model is asked without a pause."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        server = (make or _server(dry))(Path(folder) / "server.log")
        with server:
            server.wait_ready(300)
            sync, asking = AdapterSync([server], max_staleness=VERSIONS), Asking(server)
            with asking:
                asking.wait(1)
                for version in range(VERSIONS):
                    sync.publish(version, _adapter(Path(folder) / f"adapter-{version}", version))
                    asking.wait(1)
            held = sum(sync.model_name(version) in server.models() for version in range(VERSIONS))
            answers = [_answers(server, sync.model_name(version)) for version in range(VERSIONS)]
    yield Bound("adapters that the server holds", held, least=VERSIONS)
    yield Bound("adapters that answer", sum(answers), least=VERSIONS)
    yield Bound("requests meanwhile", asking.answered, least=VERSIONS + 1)
    yield Bound("requests meanwhile that failed", asking.failed, most=0)


class Asking:
    """While open, asks the server's base model without a pause."""

    def __init__(self, server: Server):
        self._server, self._ended, self._news = server, False, threading.Condition()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.answered = self.failed = 0

    def _ask(self) -> None:
        while not self._ended:
            good = _answers(self._server, self._server.name)
            with self._news:
                self.answered, self.failed = self.answered + good, self.failed + (not good)
                self._news.notify_all()

    def wait(self, more: int) -> None:
        """Return when so many more requests are answered, or one has failed."""
        with self._news:
            enough = self.answered + more
            self._news.wait_for(lambda: self.answered >= enough or self.failed)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended = True
        self._thread.join()


def _answers(server: Server, model: str) -> bool:
    request = {"model": model, "prompt": [1, 2, 3], "max_tokens": 8, "temperature": 1.0}
    try:
        return server.post("/v1/completions", request).is_success
    except httpx.HTTPError:
        return False


def _server(dry: bool) -> Callable[[Path], Server]:
    def make(log_path: Path) -> Server:
        from proactor_lib.artf.serving.launch import visible_names

        return Server(
            model=models.resolve(models.TINY), log_path=log_path, gpu=None if dry else visible_names()[0],
            max_model_len=4096, max_num_seqs=8, kv_cache_gb=1.0, gpu_memory_utilization=0.4, lora_rank=RANK,
            max_loras=VERSIONS + 1, dtype=models.dtype_name("auto", cuda=not dry),
        )  # fmt: skip

    return make


def _adapter(folder: Path, seed: int) -> Path:
    """A random LoRA adapter for the tiny model."""
    import torch
    from peft import LoraConfig, get_peft_model

    from proactor_lib.artf.training.adapter import save_adapter

    torch.manual_seed(seed)
    base = models.load_base(models.resolve(models.TINY), "none")
    lora = LoraConfig(r=RANK, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    save_adapter(get_peft_model(base, lora), folder)
    return folder


def run(dry: bool) -> Iterator[Bound]:
    """The smoke parameters, 4-bit base, adapters; on a GPU server and trainer share it."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        settings = ["quantization=nf4", "max_steps=2"] + ([] if dry else ["device=cuda"])
        command = [
            sys.executable,
            "-m",
            "proactor_lib",
            "run",
            "--params",
            str(shipped(Path("smoke"))),
            "--out",
            folder,
        ]
        command += ["--stage", "01,03", *(part for setting in settings for part in ("--set", setting))]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=follow_parent
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        lines = read_text(Path(folder) / "training" / METRICS).splitlines()
    steps = [json.loads(line) for line in lines]
    yield Bound("optimiser steps", len(steps), least=2)
    yield Bound("KL of the trainer to the server at staleness 0, nats", max(s["kl"] or 0.0 for s in steps), most=0.01)
    yield Bound("seconds of a step's rollouts", max(s["rollout_s"] for s in steps))
    yield Bound("seconds of a step's training", max(s["train_s"] for s in steps))
