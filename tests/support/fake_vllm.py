"""The bench's fake vLLM in this process, for training: what it answers depends on the request alone.

So a run that was killed can be held against one that was not. The outputs' tokens are made up and so are their
log-probabilities: near those of a model that knows nothing.
"""

import asyncio
import hashlib
import math
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from proactor_lib.bench.fake_vllm import FakeVllm, Script, listen

VOCABULARY = 49_152
TEXTS = ("none", "ready: pull_credit", "candidate: order_appraisal", "ready: lock_rate | rate=6.1", "hm, let me see")
UNIFORM = -math.log(VOCABULARY)  # a token's log-probability under a model that knows nothing


class Completions(FakeVllm):
    """`texts(body)`: the n outputs of a completion. `on(path, body)`: called before each answer, and may wait."""

    def __init__(self, texts: Callable[[dict], list[str]] | None = None, on=lambda path, body: None, log_prob=UNIFORM):
        super().__init__(Script(), key=None)
        self.texts, self.on, self.log_prob = texts or drawn, on, log_prob
        self.misname: str | None = None  # the model that answers, in place of the one that is asked
        self.completions: list[dict] = []  # bodies, in the order of their coming
        self.sessions: list[tuple[str, str]] = []  # (x-session-id, model) of each
        self._loop, self._waiting = asyncio.new_event_loop(), ThreadPoolExecutor(64)

    def __enter__(self) -> "Completions":
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._listening = self._run(listen(self, "127.0.0.1", 0))
        self.port = self._listening.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _end(self) -> None:
        self._listening.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def answer(self, request):
        """As the bench's, after `on`."""
        await self._loop.run_in_executor(self._waiting, self.on, request.path, request.json)
        return await super().answer(request)

    async def _completions(self, request):
        assert "seed" not in request.json  # vLLM's CPU engine dies of it
        self.completions.append(request.json)
        self.sessions.append((request.headers.get("x-session-id", ""), request.json["model"]))
        return await super()._completions(request)

    def _answer(self, body: dict, model: str) -> dict:
        choices = []
        for index, text in enumerate(self.texts(body)):
            tokens = [5 + b for b in hashlib.sha256(text.encode()).digest()[: 2 + len(text) % 5]] + [2]
            tokens = tokens[: body["max_tokens"]]
            log_probs = {"token_logprobs": [self.log_prob] * len(tokens), "text_offset": [], "top_logprobs": []}
            choices.append({"index": index, "text": text, "finish_reason": "stop", "token_ids": tokens,
                            "logprobs": log_probs})  # fmt: skip
        return {"id": "x", "object": "text_completion", "model": self.misname or model, "choices": choices}


def drawn(body: dict) -> list[str]:
    """n texts that depend on the prompt alone; the first two differ, so that most groups have variance."""
    rng = random.Random(str(body["prompt"]))
    return [TEXTS[0], TEXTS[1], *rng.choices(TEXTS, k=body["n"])][: body["n"]]
