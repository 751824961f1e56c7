"""A server that speaks what training asks of vLLM, over real HTTP, in this process; and a trainer process to kill.

What it answers depends on the request alone, so that a run that was killed can be held against one that was not. The
outputs' tokens are made up and so are their log-probabilities: near those of a model that knows nothing.
"""

import hashlib
import json
import math
import random
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
    """n texts that depend on the prompt alone; the first two differ, so that most groups have variance."""
    rng = random.Random(str(body["prompt"]))
    return [TEXTS[0], TEXTS[1], *rng.choices(TEXTS, k=body["n"])][: body["n"]]
