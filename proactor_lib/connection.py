"""How an endpoint is reached: its address with query, its key, and no proxy before this machine [ours]."""

import hashlib
import ipaddress
import os
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from proactor_lib.errors import UserError

if TYPE_CHECKING:
    import openai


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine only."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def session(name: str) -> dict[str, str]:
    """The header by which several servers' router keeps what belongs together on one of them, such as a dialogue's
    requests. All requests without it go to one server."""
    return {"x-session-id": session_id(name)}


def session_id(name: str) -> str:
    """A session's name as a header can carry it: names are dialogues' ids, in whatever script they are."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def openai_client(url: str, key: str) -> "openai.AsyncOpenAI":
    """Retries are ours: the client's are not counted, and hold no slot of our concurrency."""
    import openai

    parts = urlsplit(url)
    return openai.AsyncOpenAI(
        base_url=urlunsplit(parts._replace(query="", fragment="")),
        api_key=key,
        default_query=dict(parse_qsl(parts.query)),
        http_client=openai.DefaultAsyncHttpxClient(trust_env=not is_loopback(url), timeout=None),
        max_retries=0,
        timeout=None,
    )


def api_key(url: str, variable: str) -> str:
    """The key in the environment `variable`; none is needed on this machine. UserError where it is missing."""
    if key := os.environ.get(variable):
        return key
    if is_loopback(url):
        return "none"
    raise UserError(f"{url} needs an API key: set the environment variable {variable}")


def from_environment(header: str, value: str) -> str:
    """A header's value, or that of the environment variable that it names ($NAME). UserError where that is not set."""
    if not value.startswith("$"):
        return value
    if found := os.environ.get(value[1:].strip("{}")):
        return found
    raise UserError(f"the header {header!r} wants the environment variable {value[1:].strip('{}')}, which is not set")
