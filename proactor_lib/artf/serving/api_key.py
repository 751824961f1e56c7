"""Runs inside a vLLM server: its API key on every path."""

import hmac
import os

OPEN = ("/health", "/metrics")  # they change nothing and say little; the router and the controller look at them


class KeyEverywhere:
    """ASGI middleware. vLLM's own check covers /v1 and leaves out the paths that can run anything."""

    def __init__(self, app):
        self._app, self._wanted = app, f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] not in OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._wanted):
                await send({"type": "http.response.start", "status": 401, "headers": []})
                return await send({"type": "http.response.body", "body": b""})
        return await self._app(scope, receive, send)
