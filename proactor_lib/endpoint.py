"""A client for any OpenAI-compatible endpoint: annotators, judges and served policies ask through it [ours].

Bounded concurrency, retries with back-off, a content-addressed cache on disk, token and price accounts, and answers
checked against a schema. What goes wrong is a value (`Failed`), never an exception, and nothing is guessed.
"""

import asyncio
import hashlib
import ipaddress
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import openai
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from proactor_lib.errors import UserError
from proactor_lib.files import write_json

T = TypeVar("T")
Messages = list[dict[str, str]]
Form = Literal["schema", "object", "text"]
Kind = Literal["refused", "rejected", "unreachable", "timeout", "rate_limit", "server", "garbled", "invalid"]

ECHO = 500  # characters of an answer cut at the token limit that it is shown again
LONGEST_WAIT = 120.0  # seconds: a longer Retry-After is cut to this

# What a model puts around its JSON where nothing constrains it.
_FENCE = re.compile(r"\A\s*```(?:json)?|```\s*\Z")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What came back: the checked value, the text it was read from, and what it cost."""

    value: T
    text: str
    prompt_tokens: int = 0  # over all attempts
    output_tokens: int = 0
    attempts: int = 1
    cached: bool = False  # nothing was sent for it
    latency_s: float = 0.0  # seconds from the first request sent to the last answer; 0 from the cache
    cut: bool = False  # the token limit ended the text


@dataclass(frozen=True)
class Failed:
    """No answer, and why.

    `refused`: key, address or model are wrong, and so is every request; `rejected`: this request is; `invalid`: it was
    answered, but not usably; the other kinds are faults of transport that outlasted the retries.
    """

    kind: Kind
    reason: str
    cut: bool = False  # the token limit ended the last answer


@dataclass
class Counts:
    """What an endpoint was asked so far. Tokens count sent requests only: what the cache answers costs nothing."""

    calls: int = 0  # requests that were answered, retries left out
    cached: int = 0
    retries: int = 0  # requests sent again after an error of transport
    invalid: int = 0  # answers that did not pass their check
    failures: Counter[str] = field(default_factory=Counter)  # by Failed.kind
    prompt_tokens: int = 0
    output_tokens: int = 0


class Endpoint:
    """A model behind a `url` that ends in /v1. Use it in one event loop, best as `async with`.

    `cache`: a folder, or None for no cache. `prices`: per million prompt and output tokens, in any currency. `timeout`:
    seconds a request; `backoff`: seconds before the first retry, doubling from there. `form`: what the endpoint can
    hold JSON answers to, their schema, only to be an object, or nothing. Without a `key` it comes from the environment
    variable `key_variable`; a loopback address needs none. Raises UserError where it is missing.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        concurrency: int = 16,
        timeout: float = 60.0,
        retries: int = 5,
        backoff: float = 0.5,
        cache: Path | None = None,
        prices: tuple[float, float] = (0.0, 0.0),
        form: Form = "schema",
        key: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
    ):
        self.url, self.model, self.cache, self.prices = url, model, cache and Path(cache), prices
        self.timeout, self.retries, self.backoff, self.concurrency = timeout, retries, backoff, concurrency
        self.form = form
        self.counts = Counts()
        # Retries are ours: theirs are not counted, and hold no slot of our concurrency.
        key = key or _key(url, key_variable)
        self._client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=None)
        self._slots = asyncio.Semaphore(concurrency)
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *_) -> None:
        await self._client.close()

    @property
    def cost(self) -> float:
        """What the sent requests cost so far, in the currency of `prices`."""
        return price(self.counts.prompt_tokens, self.counts.output_tokens, self.prices)

    async def complete(
        self, messages: Messages, *, headers: dict[str, str] | None = None, repeat: int = 0, **sampling: Any
    ) -> Answer[str] | Failed:
        """The model's text for `messages`, from the cache where it was asked before.

        `sampling` goes into the request as it is (temperature, max_tokens, response_format, or what only this endpoint
        knows); a `seed` is refused (ValueError), for it kills a CPU vLLM engine. Another `repeat` asks the same again.
        `headers` stay out of the cache's key.
        """
        if "seed" in sampling:
            raise ValueError("no request may carry a seed: it kills a CPU vLLM engine")
        request = {"model": self.model, "messages": messages, **sampling}
        if self.cache is None:
            return await self._ask(request, headers)
        key = cache_key(request, repeat)
        async with self._asking.setdefault(key, asyncio.Lock()):  # the same question twice at once is asked once
            if known := self._recall(key):
                self.counts.cached += 1
                return known
            answer = await self._ask(request, headers)
            if isinstance(answer, Answer):
                self._remember(key, answer)
            return answer

    async def complete_json(
        self,
        messages: Messages,
        schema: dict[str, Any],
        check: Callable[[Any], T],
        *,
        attempts: int = 3,
        **asking: Any,
    ) -> Answer[T] | Failed:
        """What `check` makes of the JSON answer, which satisfies `schema`; `asking` is passed to `complete`.

        `check` raises ValueError for what it does not accept. The model is shown what was wrong and asked again,
        `attempts` times in all; then the last fault is the reason of a Failed of kind `invalid`.
        """
        form = asked_form(self.form, schema)
        total: Answer[Any] = Answer(None, "", attempts=0, cached=True)
        talk, fault = list(messages), ""
        for attempt in range(1, attempts + 1):
            answer = await self.complete(talk, **form, **asking)
            if isinstance(answer, Failed):
                return answer
            total = _sum(total, answer)
            try:
                return replace(total, value=check(_parse(answer, schema)))
            except ValueError as error:
                fault = " ".join(str(error).split())[:500]
            self.counts.invalid += 1
            shown = answer.text[:ECHO] if answer.cut else answer.text  # the next answer needs the room
            talk = [*messages, _message("assistant", shown), _message("user", _again(fault, attempt))]
        failed = self._failed("invalid", f"no usable answer in {attempts} attempts, the last: {fault}")
        return replace(failed, cut=total.cut)

    def known(self, messages: Messages, *, repeat: int = 0, **sampling: Any) -> bool:
        """Whether the cache holds the answer to this request of `complete`."""
        request = {"model": self.model, "messages": messages, **sampling}
        return self.cache is not None and self._path(cache_key(request, repeat)).exists()

    async def _ask(self, request: dict[str, Any], headers: dict[str, str] | None) -> Answer[str] | Failed:
        async with self._slots:
            for attempt in range(self.retries + 1):
                try:
                    return await self._send(request, headers)
                except (TimeoutError, openai.APIError, ValueError) as error:
                    failure = _failure(error, self.timeout)
                    if failure.kind in ("refused", "rejected") or attempt == self.retries:
                        return self._failed(failure.kind, failure.reason)
                    self.counts.retries += 1
                    await asyncio.sleep(_wait(error, self.backoff, attempt))
        raise AssertionError("unreachable: the last attempt returns")

    async def _send(self, request: dict[str, Any], headers: dict[str, str] | None) -> Answer[str]:
        start = time.perf_counter()
        async with asyncio.timeout(self.timeout):
            reply = await self._client.chat.completions.create(
                model=request["model"], messages=request["messages"], extra_body=request, extra_headers=headers
            )
        text, prompt_tokens, output_tokens, cut = _chat(reply)
        seconds = time.perf_counter() - start
        answer = Answer(text, text, prompt_tokens, output_tokens, latency_s=seconds, cut=cut)
        self.counts.calls += 1
        self.counts.prompt_tokens += answer.prompt_tokens
        self.counts.output_tokens += answer.output_tokens
        return answer

    def _failed(self, kind: Kind, reason: str) -> Failed:
        self.counts.failures[kind] += 1
        return Failed(kind, reason)

    def _path(self, key: str) -> Path:
        return self.cache / key[:2] / f"{key}.json"

    def _recall(self, key: str) -> Answer[str] | None:
        try:
            stored = json.loads(self._path(key).read_text(encoding="utf-8"))
            return Answer(stored["text"], stored["text"], cached=True, cut=stored["cut"])
        except (OSError, ValueError, KeyError):
            return None

    def _remember(self, key: str, answer: Answer[str]) -> None:
        kept = ("text", "cut", "prompt_tokens", "output_tokens")
        write_json(self._path(key), {k: getattr(answer, k) for k in kept})


def cache_key(request: dict[str, Any], repeat: int = 0) -> str:
    """64 hex digits that change with the model, the messages, the schema, the sampling parameters and `repeat`."""
    return hashlib.sha256(json.dumps([request, repeat], sort_keys=True).encode()).hexdigest()


def json_form(schema: dict[str, Any]) -> dict[str, Any]:
    """The `response_format` that constrains an answer to `schema`."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def asked_form(form: Form, schema: dict[str, Any]) -> dict[str, Any]:
    """A request's fields that constrain its answer to `schema` as far as the endpoint can."""
    fields = {"schema": {"response_format": json_form(schema)}, "object": {"response_format": {"type": "json_object"}}}
    return fields.get(form, {})


def after_thinking(text: str) -> str | None:
    """The text behind the last </think>; None where the thinking has no end."""
    _, end, rest = text.rpartition("</think>")
    return rest if end or "<think>" not in text else None


def price(prompt_tokens: int, output_tokens: int, prices: tuple[float, float]) -> float:
    """The price of that many tokens, `prices` being per million prompt and output tokens."""
    return (prompt_tokens * prices[0] + output_tokens * prices[1]) / 1e6


def estimated_tokens(messages: Messages) -> int:
    """About how many tokens `messages` take: a token every 3.5 bytes and 4 for each message's frame [ours]."""
    return sum(4 + -(-2 * len(m["content"].encode()) // 7) for m in messages)


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine only."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(url: str, variable: str) -> str:
    if key := os.environ.get(variable):
        return key
    if is_loopback(url):
        return "none"
    raise UserError(f"{url} needs an API key: set the environment variable {variable}")


def _chat(reply: Any) -> tuple[str, int, int, bool]:
    """Text, prompt tokens, output tokens, whether it was cut off; ValueError for what is no chat completion.

    The client checks nothing that it receives.
    """
    try:
        choice, usage = reply.choices[0], reply.usage
        text = choice.message.content or ""
        counts = [getattr(usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens")]
        if not (isinstance(text, str) and all(isinstance(n, int) for n in counts)):
            raise TypeError("a text and two counts are wanted")
        return text, *counts, choice.finish_reason == "length"
    except (AttributeError, IndexError, TypeError) as error:
        raise ValueError(f"a reply without a usable choice: {error}") from None


def _parse(answer: Answer[str], schema: dict[str, Any]) -> Any:
    try:
        value = json.loads(_FENCE.sub("", after_thinking(answer.text) or ""))
    except ValueError as error:
        cut = "; it was cut off at the token limit" if answer.cut else ""
        raise ValueError(f"the answer is not JSON ({error}){cut}") from None
    if problem := best_match(Draft202012Validator(schema).iter_errors(value)):
        raise ValueError(f"{problem.json_path.replace('$', 'the answer', 1)}: {problem.message}")
    return value


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _again(fault: str, attempt: int) -> str:
    return f"That answer, your number {attempt}, cannot be used: {fault}\nAnswer again, whole, in the same JSON form."


def _sum(total: Answer[Any], answer: Answer[str]) -> Answer[Any]:
    return Answer(
        value=None,
        text=answer.text,
        prompt_tokens=total.prompt_tokens + answer.prompt_tokens,
        output_tokens=total.output_tokens + answer.output_tokens,
        attempts=total.attempts + 1,
        cached=total.cached and answer.cached,
        latency_s=total.latency_s + answer.latency_s,
        cut=answer.cut,
    )


def _failure(error: Exception, timeout: float) -> Failed:
    if isinstance(error, TimeoutError):
        return Failed("timeout", f"no answer within {timeout:g} s")
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        return Failed(_status_kind(status), f"HTTP {status}: {' '.join(str(error.message).split())[:300]}")
    if isinstance(error, openai.APIConnectionError):
        return Failed("unreachable", f"no connection: {error.__cause__ or error}")
    return Failed("garbled", f"the reply is not a chat completion: {' '.join(str(error).split())[:300]}")


def _status_kind(status: int) -> Kind:
    if status == 429:
        return "rate_limit"
    if status >= 500 or status in (408, 409):
        return "server"
    return "refused" if status in (401, 403, 404) else "rejected"


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns, from a script or from a notebook's cell (whose thread has a running loop already).

    Ctrl-C cancels `work`, waits for its clean-up, and is raised.
    """
    running: list[asyncio.Task] = []

    async def main() -> T:
        running.append(asyncio.current_task())
        return await work

    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(asyncio.run, main())
        try:
            return outcome.result()
        except KeyboardInterrupt:
            for task in running:
                task.get_loop().call_soon_threadsafe(task.cancel)
            raise


def _wait(error: Exception, backoff: float, attempt: int) -> float:
    """Seconds until the next attempt: what the endpoint asks for, else doubling with jitter."""
    response = getattr(error, "response", None)
    try:
        asked = float(response.headers["retry-after"])
    except (AttributeError, KeyError, ValueError):
        asked = 0.0
    return min(max(asked, backoff * 2**attempt * random.uniform(0.5, 1.0)), LONGEST_WAIT)
