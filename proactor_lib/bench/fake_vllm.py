"""A scripted server: the endpoints of vLLM that this project uses, over real HTTP, with simulated service times.

    python -m proactor_lib.bench.fake_vllm --port P '{"service": 0.2, "seqs": 8}'

It computes nothing and answers made-up tokens: it measures and tests what stands around servers (router, controller,
policy sync, rollouts), and misbehaves when it is told to (POST /fault). No number that it gives is a model's. It is
started often, so it imports the standard library only.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from proactor_lib.artf.serving import api_key

# Faults, each off until POST /fault {"name": value} sets it (seconds, a number of times, or true).
FAULTS = {
    "drop_adapters": False,  # forget all adapters, now
    "forget_version": False,  # forget the weights' version, now: what a bare restart does
    "refuse_load": 0,  # so many loads of an adapter are answered 500
    "ignore_load": 0,  # so many loads of an adapter, or reloads of weights, are answered 200 and not done
    "lose_resume": 0,  # so many /resume are answered 200 and not done
    "answer_base": False,  # a request that names an unknown model is answered by the base model
    "fail": 0,  # so many completions are answered 500
    "hang": False,  # nothing is answered any more
}


@dataclass(frozen=True)
class Script:
    """What it does when all is well. A completion of n outputs takes n of the `seqs` places for `service` seconds."""

    service: float = 0.0  # seconds
    jitter: float = 0.0  # share of `service`, either way
    seqs: int = 64  # sequences served at once; what is more waits
    start: float = 0.0  # seconds from its start until it is ready
    texts: tuple[str, ...] = ("[]",)  # outputs are drawn from these
    name: str = "policy"  # the base model's name
    seed: int = 0


@dataclass
class State:
    """What it holds and has seen; GET /seen shows it."""

    adapters: dict[str, str] = field(default_factory=dict)  # name -> folder
    version: str = "default"  # of the weights, as GET /weight_info gives it
    weights: str = ""  # the folder that was loaded last
    paused: bool = False
    asleep: bool = False
    running: int = 0
    waiting: int = 0
    sessions: Counter = field(default_factory=Counter)  # requests by x-session-id
    models: Counter = field(default_factory=Counter)  # requests by the model that answered
    versions: Counter = field(default_factory=Counter)  # requests by the weights' version
    unknown: Counter = field(default_factory=Counter)  # requests for models that it did not hold
    unloaded_in_use: int = 0  # adapters that were unloaded while a request that names them was open
    open_models: Counter = field(default_factory=Counter)
    calls: Counter = field(default_factory=Counter)


class FakeVllm:
    """The server's behaviour: `answer` makes the status and the body (JSON, or text) of a request."""

    def __init__(self, script: Script, key: str | None):
        self.script, self.key, self.state = script, key, State()
        self.faults = dict(FAULTS)
        self._random = random.Random(script.seed)
        self._ready_at = time.monotonic() + script.start
        self._changed = asyncio.Condition()
        self._paths = {
            "/health": self._health, "/metrics": self._metrics, "/v1/models": self._models,
            "/v1/completions": self._completions, "/v1/load_lora_adapter": self._load_adapter,
            "/v1/unload_lora_adapter": self._unload_adapter, "/resume": self._resume,
            "/pause": lambda r: self._set("paused", True), "/sleep": lambda r: self._set("asleep", True),
            "/wake_up": lambda r: self._set("asleep", False), "/collective_rpc": self._rpc,
            "/update_weight_version": self._update_version, "/fault": self._fault,
            "/reset_prefix_cache": lambda r: _said({}), "/seen": lambda r: _said(vars(self.state)),
            "/is_paused": lambda r: _said({"is_paused": self.state.paused}),
            "/is_sleeping": lambda r: _said({"is_sleeping": self.state.asleep}),
            "/weight_info": lambda r: _said({"weight_version": self.state.version}),
        }  # fmt: skip

    async def answer(self, request: "Request") -> tuple[int, dict | str]:
        """The status and the body."""
        while self.faults["hang"] and request.path != "/fault":
            await asyncio.sleep(0.05)
        given = request.headers.get("authorization")
        if self.key and request.path not in api_key.OPEN and given != f"Bearer {self.key}":
            return 401, {"error": "Unauthorized"}
        if request.path not in self._paths:
            return 404, {"detail": "Not Found"}
        self.state.calls[request.path] += 1
        return await self._paths[request.path](request)

    def _take(self, fault: str) -> bool:
        """Whether a counted fault strikes now."""
        self.faults[fault] -= (struck := self.faults[fault] > 0)
        return struck

    async def _set(self, name: str, value: bool):
        async with self._changed:
            setattr(self.state, name, value)
            self._changed.notify_all()
        return await _said({"status": "ok"})

    async def _health(self, request):
        return await _said({}, 200 if time.monotonic() >= self._ready_at else 503)

    async def _metrics(self, request):
        label = f'{{engine="0",model_name="{self.script.name}"}}'
        lines = [
            f"# TYPE vllm:num_requests_{what} gauge\nvllm:num_requests_{what}{label} {getattr(self.state, what)}.0\n"
            for what in ("running", "waiting")
        ]
        return 200, "".join(lines)

    async def _models(self, request):
        names = [self.script.name, *self.state.adapters]
        return await _said({"object": "list", "data": [{"id": n, "object": "model"} for n in names]})

    async def _load_adapter(self, request):
        body = request.json
        if self._take("refuse_load"):
            return _refused(500, "refused on purpose")
        if body["lora_name"] in self.state.adapters:
            return _refused(400, f"adapter {body['lora_name']} is loaded already")
        if not self._take("ignore_load"):
            self.state.adapters[body["lora_name"]] = body["lora_path"]
        return await _said({})

    async def _unload_adapter(self, request):
        name = request.json["lora_name"]
        if name not in self.state.adapters:
            return _refused(404, f"adapter {name} cannot be found")
        self.state.unloaded_in_use += self.state.open_models[name]
        del self.state.adapters[name]
        return await _said({})

    async def _resume(self, request):
        return await (_said({}) if self._take("lose_resume") else self._set("paused", False))

    async def _rpc(self, request):
        body = request.json
        if body["method"] != "reload_weights":
            return _refused(400, f"no method {body['method']}")
        if not self._take("ignore_load"):
            self.state.weights = body["kwargs"]["weights_path"]
        return await _said({"results": [None]})

    async def _update_version(self, request):
        self.state.version = request.json["new_version"]
        return await _said({"success": True})

    async def _fault(self, request):
        self.faults.update(request.json)
        if self.faults["drop_adapters"]:
            self.state.adapters, self.faults["drop_adapters"] = {}, False
        if self.faults["forget_version"]:
            self.state.version, self.faults["forget_version"] = "default", False
        return await _said({})

    async def _completions(self, request):
        body, state = request.json, self.state
        state.sessions[request.headers.get("x-session-id", "")] += 1
        model = body["model"]
        if model != self.script.name and model not in state.adapters:
            state.unknown[model] += 1
            if not self.faults["answer_base"]:
                return _refused(404, f"The model `{model}` does not exist.")
            model = self.script.name
        if "seed" in body:
            os._exit(1)  # as vLLM's CPU engine does
        if self._take("fail"):
            return _refused(500, "failed on purpose")
        state.models[model] += 1
        state.versions[state.version] += 1
        state.open_models[model] += 1
        try:
            await self._serve(body.get("n", 1))
        finally:
            state.open_models[model] -= 1
        return await _said(self._answer(body, model))

    async def _serve(self, n: int) -> None:
        n, state = min(n, self.script.seqs), self.state
        async with self._changed:
            state.waiting += n
            try:
                await self._changed.wait_for(
                    lambda: not state.paused and not state.asleep and state.running + n <= self.script.seqs
                )
            finally:
                state.waiting -= n
            state.running += n
        try:
            await asyncio.sleep(self.script.service * (1 + self.script.jitter * self._random.uniform(-1, 1)))
        finally:
            async with self._changed:
                state.running -= n
                self._changed.notify_all()

    def _answer(self, body: dict, model: str) -> dict:
        length = max(1, min(4, body.get("max_tokens", 4)))
        choices = [
            {
                "index": i,
                "text": self._random.choice(self.script.texts),
                "finish_reason": "stop",
                "token_ids": [self._random.randrange(5, 100) for _ in range(length)],
                "logprobs": {"token_logprobs": [-4.0] * length, "text_offset": [0] * length, "top_logprobs": []},
            }
            for i in range(body.get("n", 1))
        ]
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": length * len(choices)}
        return {"id": "x", "object": "text_completion", "model": model, "choices": choices, "usage": usage}


async def _said(body: dict, status: int = 200) -> tuple[int, dict]:
    return status, body


def _refused(status: int, message: str) -> tuple[int, dict]:
    return status, {"error": {"message": message, "code": status}}


@dataclass(frozen=True)
class Request:
    """One HTTP request: header names are in lower case, the path is without its query."""

    path: str
    headers: dict[str, str]
    json: dict


async def read(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; None at its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    pairs = (line.partition(":")[::2] for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(head[0].split(" ")[1].partition("?")[0], headers, json.loads(body) if body else {})


async def listen(server: FakeVllm, host: str, port: int) -> asyncio.Server:
    """Answer on host:port (0: any free one) from now on."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await read(reader):
                status, body = await server.answer(request)
                text = body if isinstance(body, str) else json.dumps(body)
                kind = "text/plain" if isinstance(body, str) else "application/json"
                head = f"HTTP/1.1 {status} -\r\ncontent-type: {kind}\r\ncontent-length: {len(text.encode())}\r\n\r\n"
                writer.write((head + text).encode())
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    return await asyncio.start_server(connected, host, port, limit=1 << 24, backlog=1024)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("script")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    async def main() -> None:
        server = FakeVllm(Script(**json.loads(given.script)), os.environ.get("VLLM_API_KEY"))
        await (await listen(server, given.host, given.port)).serve_forever()

    asyncio.run(main())


if __name__ == "__main__":
    _main()
