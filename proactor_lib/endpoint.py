"""A client for any OpenAI-compatible endpoint: annotators, judges and served policies ask through it [ours].

Bounded concurrency, retries with back-off, a content-addressed cache on disk, token and price accounts, and answers
checked against a schema. What goes wrong is a value (`Failed`), never an exception, and nothing is guessed.

openai and jsonschema are imported where an endpoint is made: together they take three seconds of a processor, and most
commands and notebooks ask nobody.
"""

import asyncio
import hashlib
import json
import logging
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from proactor_lib import replies
from proactor_lib.connection import address, api_key, from_environment, openai_client
from proactor_lib.errors import UserError
from proactor_lib.files import json_value, write_json
from proactor_lib.replies import Fault, Kind
from proactor_lib.schema import Form

log = logging.getLogger(__name__)

T = TypeVar("T")
Messages = list[dict[str, str]]

ECHO = 500  # characters of an answer cut at the token limit that it is shown again
LONGEST_WAIT = 120.0  # seconds: a longer Retry-After is cut to this

_KEY_HEADERS = {"authorization", "api-key", "x-api-key"}  # one of these is given: no key of ours is sent


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
    refusal: str = ""  # why the model does not answer, in its own words


@dataclass(frozen=True)
class Failed:
    """No answer, and why.

    `refused`: key, address or model are wrong, and so is every request; `quota`: no credit is left, for any request;
    `rejected`: this request is wrong, or the model refuses it; `invalid`: it was answered, but not usably; the other
    kinds are faults of transport that outlasted the retries.
    """

    kind: Kind
    reason: str
    cut: bool = False  # the token limit ended the last answer


@dataclass
class Counts:
    """What an endpoint was asked so far. Tokens count sent requests only: what the cache answers costs nothing.

    What was paid is counted whatever came back: a refusal, or a reply that cannot be read.
    """

    calls: int = 0  # requests that were answered, usably or not
    cached: int = 0
    retries: int = 0  # requests sent again after an error of transport
    invalid: int = 0  # answers that did not pass their check
    failures: Counter[str] = field(default_factory=Counter)  # by Failed.kind
    prompt_tokens: int = 0
    output_tokens: int = 0


class Endpoint:
    """A model behind a `url` that ends in /v1 (a query in it, such as Azure's ?api-version=, goes with each request).

    Use it in one event loop, best as `async with`. `cache`: a folder, or None for no cache. `prices`: per million
    prompt and output tokens, in any currency. `timeout`: seconds per request; `backoff`: seconds before the first
    retry, doubling from there. `form`: what the endpoint can hold JSON answers to: their schema, only to be an object,
    or nothing. `headers` go with each request; a value `$NAME` is that environment variable's. Without a `key` it comes
    from the environment variable `key_variable`; a loopback address needs none, and neither does one whose headers hold
    the key. A loopback address is never asked through a proxy. Raises UserError where a key or variable is missing or
    cannot be sent, or the cache cannot be written: before anything is paid. Its `url` is as messages show it.
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
        headers: Mapping[str, str] | None = None,
    ):
        import jsonschema  # noqa: F401 (not with the first answer, which would hold up those in flight)
        import openai

        self.url, self.model, self.cache, self.prices = address(url), model, cache and Path(cache), prices
        self.timeout, self.retries, self.backoff, self.concurrency = timeout, retries, backoff, concurrency
        self.form = form
        self.counts = Counts()
        if self.cache:
            _check_writable(self.cache)
        # Sent with each request, not by the client's defaults: only so does the client take a key among them.
        self._headers = {name: from_environment(name, value) for name, value in (headers or {}).items()}
        if not key and _KEY_HEADERS & {name.lower() for name in self._headers}:
            key, self._headers = "in the headers", {"Authorization": openai.Omit(), **self._headers}
        self._client = openai_client(url, key or api_key(url, key_variable))
        self._folds = False  # whether the model has turned out to know no system role
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
        self, messages: Messages, schema: dict[str, Any], check: Callable[[Any], T], **asking: Any
    ) -> Answer[T] | Failed:
        """What `check` makes of the JSON answer, which satisfies `schema`; all else as `ask`."""
        return await self.ask(messages, schema, lambda answer: check(_parse(answer, schema)), **asking)

    async def ask(
        self,
        messages: Messages,
        schema: dict[str, Any],
        read: Callable[[Answer[str]], T],
        *,
        attempts: int = 3,
        **asking: Any,
    ) -> Answer[T] | Failed:
        """What `read` makes of an answer in the form of `schema`; `asking` is passed to `complete`.

        `read` raises ValueError for what it does not accept. The model is shown what was wrong and asked again,
        `attempts` times in all; then the last fault is the reason of a Failed of kind `invalid`. A refusal is not asked
        again.
        """
        form = asked_form(self.form, schema)
        total: Answer[Any] = Answer(None, "", attempts=0, cached=True)
        talk, fault = list(messages), ""
        for attempt in range(1, attempts + 1):
            answer = await self.complete(talk, **form, **asking)
            if isinstance(answer, Failed):
                return answer
            total = _sum(total, answer)
            if answer.refusal:
                return self._failed("rejected", f"the model refuses: {answer.refusal[: replies.SHOWN]}")
            try:
                return replace(total, value=read(answer))
            except ValueError as error:
                fault = " ".join(str(error).split())[:500]
            self.counts.invalid += 1
            shown = answer.text[:ECHO] if answer.cut else answer.text  # the next answer needs the room
            talk = [*messages, _message("assistant", shown), _message("user", _again(fault, attempt))]
        failed = self._failed("invalid", f"no usable answer in {attempts} attempts, the last: {fault}")
        return replace(failed, cut=total.cut)

    async def _ask(self, request: dict[str, Any], headers: dict[str, str] | None) -> Answer[str] | Failed:
        import openai

        async with self._slots:
            for attempt in range(self.retries + 1):
                try:
                    return await self._send(request, headers)
                except (TimeoutError, openai.APIError, Fault) as error:
                    fault = _fault(error, self.timeout)
                    if fault.paid or fault.kind in ("refused", "rejected", "quota") or attempt == self.retries:
                        return self._failed(fault.kind, fault.reason)
                    self.counts.retries += 1
                    await asyncio.sleep(_wait(error, self.backoff, attempt))
        raise AssertionError("unreachable: the last attempt returns")

    async def _send(self, request: dict[str, Any], headers: dict[str, str] | None) -> Answer[str]:
        """The answer; a model without a system role gets the instructions at the beginning of the user's message."""
        import openai

        asked = folded(request) if self._folds else request
        try:
            return await self._send_as_is(asked, headers)
        except (openai.APIStatusError, Fault) as error:
            again = folded(asked)
            if again is asked or not replies.refuses_system(_fault(error, self.timeout).reason):
                raise
            self._folds = True
            return await self._send_as_is(again, headers)

    async def _send_as_is(self, request: dict[str, Any], headers: dict[str, str] | None) -> Answer[str]:
        start = time.perf_counter()
        async with asyncio.timeout(self.timeout):
            raw = await self._client.chat.completions.with_raw_response.create(
                model=request["model"],
                messages=request["messages"],
                extra_body=request,
                extra_headers={**self._headers, **(headers or {})},
            )
        seconds, body = time.perf_counter() - start, replies.body(raw.http_response.text)
        prompt_tokens, output_tokens = replies.usage(body)
        self.counts.prompt_tokens += prompt_tokens
        self.counts.output_tokens += output_tokens
        try:
            reply = replies.read(body)
        except Fault as fault:
            self.counts.calls += fault.paid
            raise
        self.counts.calls += 1
        return Answer(reply.text, reply.text, prompt_tokens, output_tokens, latency_s=seconds, cut=reply.cut,
                      refusal=reply.refusal)  # fmt: skip

    def _failed(self, kind: Kind, reason: str) -> Failed:
        self.counts.failures[kind] += 1
        return Failed(kind, reason)

    def _path(self, key: str) -> Path:
        return self.cache / key[:2] / f"{key}.json"

    def _recall(self, key: str) -> Answer[str] | None:
        try:
            stored = json.loads(self._path(key).read_text(encoding="utf-8"))
            refusal = stored.get("refusal", "")
            return Answer(stored["text"], stored["text"], cached=True, cut=stored["cut"], refusal=refusal)
        except (OSError, ValueError, KeyError):
            return None

    def _remember(self, key: str, answer: Answer[str]) -> None:
        kept = ("text", "cut", "refusal", "prompt_tokens", "output_tokens")
        try:
            write_json(self._path(key), {k: getattr(answer, k) for k in kept})
        except (OSError, UserError) as error:  # the answer itself is paid for, and goes on
            log.warning("an answer of %s is not in the cache: %s", self.model, error)


def folded(request: dict[str, Any]) -> dict[str, Any]:
    """The request with its system message as the beginning of the user's; as it is where it has none."""
    match request["messages"]:
        case [{"role": "system", "content": system}, {"role": "user", "content": user}, *rest]:
            return {**request, "messages": [_message("user", f"{system.strip()}\n\n{user}"), *rest]}
    return request


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


def price(prompt_tokens: int, output_tokens: int, prices: tuple[float, float]) -> float:
    """The price of that many tokens, `prices` being per million prompt and output tokens."""
    return (prompt_tokens * prices[0] + output_tokens * prices[1]) / 1e6


def estimated_tokens(messages: Messages) -> int:
    """About how many tokens `messages` take: a token every 3.5 bytes and 4 for each message's frame [ours]."""
    return sum(4 + -(-2 * len(m["content"].encode()) // 7) for m in messages)


def _check_writable(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        raise UserError(
            f"the cache {cache} cannot be written ({error.strerror}): answers would be paid twice"
        ) from None


def _parse(answer: Answer[str], schema: dict[str, Any]) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    text = replies.find_json(answer.text, answer.cut)
    json.loads(text, object_pairs_hook=_once)
    value = json_value(text)
    if problem := best_match(Draft202012Validator(schema).iter_errors(value)):
        raise ValueError(f"{problem.json_path.replace('$', 'the answer', 1)}: {problem.message}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > len(value := dict(pairs)):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in value if names.count(n) > 1)!r} is there twice")
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


def _fault(error: Exception, timeout: float) -> Fault:
    import openai

    if isinstance(error, Fault):
        return error
    if isinstance(error, TimeoutError):
        return Fault("timeout", f"no answer within {timeout:g} s")
    if isinstance(error, openai.APIStatusError):
        body = replies.body(error.response.text)
        words = replies.own_words(body) or error.response.reason_phrase
        return Fault(replies.kind_of(error.status_code, body), f"HTTP {error.status_code}: {words}")
    return Fault("unreachable", f"no connection: {error.__cause__ or error}")


def _wait(error: Exception, backoff: float, attempt: int) -> float:
    """Seconds until the next attempt: what the endpoint asks for, else doubling with jitter."""
    response = getattr(error, "response", None)
    asked = replies.asked_wait(response.headers) if response is not None else 0.0
    return min(max(asked, backoff * 2**attempt * random.uniform(0.5, 1.0)), LONGEST_WAIT)
