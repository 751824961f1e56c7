"""An OpenAI-compatible endpoint on 127.0.0.1, over real HTTP, that answers what a test says and misbehaves on purpose.

with FakeEndpoint(lambda request, n: Reply("hello") if n > 1 else Reply(status=429)) as server:
    ...  # server.url, server.requests
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """One HTTP reply: the model's text, or a fault."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0  # seconds before anything is sent
    finish: str = "stop"
    cut_body: bool = False  # the connection closes in the middle of the body
    body: str | None = None  # sent in place of a chat completion
    message: dict | None = None  # what the chat completion holds in place of `text`


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # many clients may connect at once
    connected = 0

    def __init__(self, *args):
        self.ports, self._lock = set(), threading.Lock()  # of all clients that were ever connected
        super().__init__(*args)

    def process_request(self, request, client_address):
        with self._lock:
            self.connected += 1
            self.ports.add(client_address[1])
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self.connected -= 1


class FakeEndpoint:
    """`answer(request, n)` makes the reply to a request's JSON; `n` counts, from 1, how often these messages came."""

    def __init__(self, answer: Callable[[dict, int], Reply]):
        self.answer, self.requests, self.most_at_once = answer, [], 0
        self.seen: list[tuple[str, dict[str, str]]] = []  # path and headers of each request
        self._lock, self._open, self._times = threading.Lock(), 0, {}
        self._closing = threading.Event()

    def __enter__(self) -> "FakeEndpoint":
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def deserted(self) -> Callable[[], bool]:
        """Tells whether all that was sent until now has been read, and nobody is connected any more."""
        with socket.create_connection(self._server.server_address) as last:  # taken after those that wait already
            port = last.getsockname()[1]
        return lambda: port in self._server.ports and self._server.connected == 0

    def _reply(self, request: dict) -> Reply:
        with self._lock:
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
            self.requests.append(request)
            key = json.dumps(request["messages"])
            n = self._times[key] = self._times.get(key, 0) + 1
        try:
            reply = self.answer(request, n)
            self._closing.wait(reply.delay) if reply.delay > 1 else time.sleep(reply.delay)
            return reply
        finally:
            with self._lock:
                self._open -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                reply = outer._reply(request)
                body = (reply.body if reply.body is not None else _completion(request, reply)).encode()
                try:
                    self.send_response(reply.status)
                    for name, value in {"content-type": "application/json", **reply.headers}.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body[: len(body) // 2] if reply.cut_body else body)
                except OSError:  # the client gave up waiting
                    self.close_connection = True
                if reply.cut_body:
                    self.close_connection = True

            def log_message(self, *_):
                pass

        return Handler


def _completion(request: dict, reply: Reply) -> str:
    if reply.status != 200:
        return json.dumps({"error": {"message": f"status {reply.status} on purpose"}})
    prompt = sum(len(m["content"].split()) for m in request["messages"])
    message = {"role": "assistant", **(reply.message or {"content": reply.text})}
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reply.finish}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": len(reply.text.split()),
                "total_tokens": prompt + len(reply.text.split()),
            },
        }
    )
