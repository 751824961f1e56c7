"""A server that speaks what training asks of vLLM, over real HTTP, in this process; and a trainer process to kill.

What it answers hangs on the request alone, so that a run that was killed can be held against one that was not. The
outputs' tokens are made up and so are their log-probabilities: near those of a model that knows nothing.
"""

import hashlib
import json
import logging
import math
import multiprocessing
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from proactor_lib.params import load_params
from proactor_lib.run import Run

VOCABULARY = 49_152
TEXTS = ("none", "ready: pull_credit", "candidate: order_appraisal", "ready: lock_rate | rate=6.1", "hm, let me see")
UNIFORM = -math.log(VOCABULARY)  # a token's log-probability under a model that knows nothing


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class Completions:
    """`texts(body)`: the n outputs of a completion. `on(path, body)`: called before each answer, with the count."""

    def __init__(self, texts: Callable[[dict], list[str]] | None = None, on=lambda path, body: None, log_prob=UNIFORM):
        self.texts, self.on, self.log_prob = texts or drawn, on, log_prob
        self.adapters: dict[str, str] = {}
        self.misname: str | None = None  # the model that answers, in place of the one that is asked
        self.completions: list[dict] = []  # bodies, in the order of their coming
        self.sessions: list[tuple[str, str]] = []  # (x-session-id, model) of each

    def __enter__(self) -> "Completions":
        self._http = _Server(("127.0.0.1", 0), self._handler())
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._http.shutdown()
        self._http.server_close()

    def reply(self, path: str, body: dict, session: str) -> tuple[int, dict]:
        """Status and JSON; it forgets nobody's adapters but when asked to."""
        self.on(path, body)
        if path == "/v1/models":
            return 200, {"data": [{"id": name} for name in ("policy", *self.adapters)]}
        if path == "/v1/load_lora_adapter":
            self.adapters[body["lora_name"]] = body["lora_path"]
        elif path == "/v1/unload_lora_adapter":
            self.adapters.pop(body["lora_name"], None)
        elif path == "/v1/completions":
            self.completions.append(body)
            self.sessions.append((session, body["model"]))
            if body["model"] not in self.adapters:
                return 404, {"error": {"message": f"no model {body['model']}"}}
            return 200, self._completion(body)
        return 200, {}

    def _completion(self, body: dict) -> dict:
        choices = []
        for index, text in enumerate(self.texts(body)):
            tokens = [5 + b for b in hashlib.sha256(text.encode()).digest()[: 2 + len(text) % 5]] + [2]
            tokens = tokens[: body["max_tokens"]]
            log_probs = {"token_logprobs": [self.log_prob] * len(tokens), "text_offset": [], "top_logprobs": []}
            choices.append({"index": index, "text": text, "finish_reason": "stop", "token_ids": tokens,
                            "logprobs": log_probs})  # fmt: skip
        return {"id": "x", "object": "text_completion", "model": self.misname or body["model"], "choices": choices}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.answer({})

            def do_POST(self):
                size = int(self.headers.get("content-length") or 0)
                self.answer(json.loads(self.rfile.read(size) or b"{}"))

            def answer(self, body):
                status, reply = outer.reply(self.path.partition("?")[0], body, self.headers.get("x-session-id", ""))
                data = json.dumps(reply).encode()
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # the client was killed
                    self.close_connection = True

            def log_message(self, *_):
                pass

        return Handler


def drawn(body: dict) -> list[str]:
    """n texts that hang on the prompt alone; the first two differ, so that most groups have variance."""
    rng = random.Random(str(body["prompt"]))
    return [TEXTS[0], TEXTS[1], *rng.choices(TEXTS, k=body["n"])][: body["n"]]


# a trainer process

_FORK = multiprocessing.get_context("forkserver")  # each trainer is a fork of a process that has imported what it needs
_FORK.set_forkserver_preload(["proactor_lib.artf.train", "proactor_lib.artf.trainer", "proactor_lib.artf.sft"])


def trainer(out: Path, port: int, die: str = "", fsize: int = 0) -> int:
    """Train the run in `out` against the server at `port`, in a process of its own; its exit code (-9: killed).

    die: the place at which it kills itself with SIGKILL (a key of PLACES). fsize: after step 2 no file may grow beyond
    so many bytes, as on a full disk.
    """
    process = begin(out, port, die, fsize)
    process.join(240)
    assert process.exitcode is not None, "the trainer hangs"
    return process.exitcode


def begin(out: Path, port: int, die: str = "", fsize: int = 0) -> multiprocessing.Process:
    """`trainer`, without waiting for its end."""
    process = _FORK.Process(target=_train, args=(str(out), port, die, fsize))
    process.start()
    return process


def _kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def _die_in_training():
    """In the fifth step."""
    loss = _trainer().DialogueTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        return _kill() if self.state.global_step >= 4 else loss(self, *args, **kwargs)

    _trainer().DialogueTrainer.compute_loss = compute_loss


def _die_between_lines():
    """The step's groups are written, and half of its line."""
    from proactor_lib.artf import records

    append = records._append

    def half(path, lines):
        if path.name == "samples.jsonl":
            return append(path, lines)
        path.open("a").write('{"step": 1, "version')
        return _kill()

    records._append = half


def _die_after_lines():
    _trainer().DialogueTrainer._save_checkpoint = _kill


def _die_in_checkpoint():
    """Model and optimiser are written, the rest is not."""
    _trainer().DialogueTrainer._save_rng_state = _kill


def _die_before_adapter():
    save = _trainer().save_adapter
    _trainer().save_adapter = lambda model, folder: _kill() if folder.name == "adapter" else save(model, folder)


PLACES = {
    "in training": _die_in_training,
    "between lines": _die_between_lines,
    "after lines": _die_after_lines,
    "in a checkpoint": _die_in_checkpoint,
    "before the adapter": _die_before_adapter,
}


def _trainer():
    from proactor_lib.artf import trainer

    return trainer


def _limit(size: int) -> None:
    take = _trainer().DialogueTrainer.take_step

    def take_step(self):
        if self.state.global_step >= 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return take(self)

    _trainer().DialogueTrainer.take_step = take_step


def _train(out: str, port: int, die: str, fsize: int) -> None:
    import torch
    from proactor_lib.artf.server import Server
    from proactor_lib.artf.train import Job, reinforce

    torch.set_num_threads(1)
    run = Run(load_params(Path(out) / "params.json"), Path(out))
    run.training.mkdir(parents=True, exist_ok=True)
    os.dup2(os.open(run.training / "train.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    logging.basicConfig(level=logging.INFO, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if die:
        PLACES[die]()
    if fsize:
        _limit(fsize)
    server = Server(model="", log_path=run.training / "server.log", port=port)
    reinforce(Job(run), server)


def metrics(out: Path) -> list[dict]:
    """The run's lines."""
    return [json.loads(line) for line in (out / "training" / "metrics.jsonl").read_text().splitlines()]


def wait_for(holds: Callable[[], bool], seconds: float = 200.0) -> None:
    """Return when it holds; AssertionError when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
