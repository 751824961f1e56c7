"""Who may ask, how much at once and how often: ASGI middleware around the service."""

import hmac
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import JSONResponse

from proactor_lib.service.errors import ApiError

OPEN = ("/", "/health")  # the page and whether the service is up: they say nothing of any conversation
DRAINED = 1 << 27  # bytes of a body that is too long which are read and thrown away, so that its sender hears why


@dataclass(frozen=True)
class Limits:
    """`key`: what requests must carry, None for none; `body`: bytes; `rate`: requests a minute, 0 for any number."""

    key: str | None
    body: int = 1 << 20
    rate: int = 600


class Guard:
    """Wraps an ASGI app. `clock`: seconds."""

    def __init__(self, app, limits: Limits, clock: Callable[[], float] = time.monotonic):
        self._app, self._limits, self._clock = app, limits, clock
        self._left, self._since = float(limits.rate), clock()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self._app(scope, receive, send)
        try:
            self._check_key(dict(scope["headers"]).get(b"authorization", b""))
            self._check_rate()
            body = await _body(receive, self._limits.body)
        except ApiError as error:
            return await JSONResponse(error.body(), error.status, dict(error.headers))(scope, receive, send)
        return await self._app(scope, _replayed(body, receive), send)

    def _check_key(self, given: bytes) -> None:
        key = self._limits.key
        if key is not None and not hmac.compare_digest(given, f"Bearer {key}".encode()):
            raise ApiError(401, "a wrong key, or none: send `Authorization: Bearer KEY`", "invalid_api_key")

    def _check_rate(self) -> None:
        """A bucket of a minute's requests, which fills evenly."""
        rate, now = self._limits.rate, self._clock()
        if rate == 0:
            return
        self._left, self._since = min(rate, self._left + (now - self._since) * rate / 60), now
        if self._left < 1:
            wait = str(math.ceil((1 - self._left) * 60 / rate))
            raise ApiError(429, f"more than {rate} requests a minute: wait {wait} s", "rate_limit_exceeded",
                           headers=(("retry-after", wait),))  # fmt: skip
        self._left -= 1


async def _body(receive, limit: int) -> bytes:
    parts, size, more = [], 0, True
    while more and size <= DRAINED:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        more, part = message.get("more_body", False), message.get("body", b"")
        size += len(part)
        parts.append(part) if size <= limit else parts.clear()
    if size > limit:
        raise ApiError(413, f"the body is longer than {limit} bytes", "body_too_long")
    return b"".join(parts)


def _replayed(body: bytes, receive):
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again():
        return waiting.pop() if waiting else await receive()

    return again
