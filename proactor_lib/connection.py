"""How an endpoint is reached: its address with query, its key, and no proxy before this machine [ours]."""

import hashlib
import ipaddress
import os
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from proactor_lib.errors import UserError

if TYPE_CHECKING:
    import openai

IDLE = 2.0  # seconds without a request before a connection is closed here: servers close theirs, uvicorn's after five


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine only."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address(url: str) -> str:
    """`url` as messages show it: without what stands before `@` and in its query, for that may be a key.

    UserError where its host or port cannot be read.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise UserError("an endpoint's address has a host or a port that cannot be read") from None
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def header_value(value: str, what: str) -> str:
    """The value without white space around it, such as the end of the line of a file that held it.

    UserError, without the value, where HTTP cannot carry it: the client's own error would show a key to whoever reads
    the reason of a failure.
    """
    if not ((value := value.strip()).isascii() and value.isprintable()):
        raise UserError(f"{what} has characters that no HTTP header can carry; accepted: printable ASCII")
    return value


def session(name: str) -> dict[str, str]:
    """The header by which several servers' router keeps what belongs together on one of them, such as a dialogue's
    requests. All requests without it go to one server."""
    return {"x-session-id": session_id(name)}


def session_id(name: str) -> str:
    """A session's name as a header can carry it: names are dialogues' ids, in whatever script they are."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def openai_client(url: str, key: str) -> "openai.AsyncOpenAI":
    """Retries are ours: the client's are not counted, and hold no slot of our concurrency."""
    import httpx
    import openai

    parts = urlsplit(url)
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=IDLE)
    client = openai.DefaultAsyncHttpxClient(trust_env=not is_loopback(url), timeout=None, limits=limits)
    return openai.AsyncOpenAI(
        base_url=urlunsplit(parts._replace(query="", fragment="")),
        api_key=key,
        default_query=dict(parse_qsl(parts.query)),
        http_client=client,
        max_retries=0,
        timeout=None,
    )


def api_key(url: str, variable: str) -> str:
    """The key in the environment `variable`; none is needed on this machine.

    UserError where it is missing, or `url` is no address that could want one.
    """
    if key := header_value(os.environ.get(variable, ""), f"the key in {variable}"):
        return key
    if is_loopback(url):
        return "none"
    shown = address(url)
    if not shown.startswith(("http://", "https://")):
        raise UserError(f"{shown!r} is not an endpoint's address, such as https://api.example.org/v1")
    raise UserError(f"{shown} needs an API key: set the environment variable {variable}")


def from_environment(header: str, value: str) -> str:
    """A header's value, or that of the environment variable that it names ($NAME). UserError where that is not set.

    And as `header_value`.
    """
    what = f"the header {header!r}"
    if not value.startswith("$"):
        return header_value(value, what)
    if found := header_value(os.environ.get(value[1:].strip("{}"), ""), what):
        return found
    raise UserError(f"{what} wants the environment variable {value[1:].strip('{}')}, which is not set")
