"""The oracle over many dialogues: a bounded number in flight, in order, resumable, with every one accounted for.

What is paid for lies in the endpoint's cache, so a killed run starts again and repeats no call that was answered.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from proactor_lib.annotate.agreement import with_observed
from proactor_lib.annotate.oracle import Oracle
from proactor_lib.annotate.oracle_open import OpenOracle
from proactor_lib.annotate.oracle_turns import TurnOracle
from proactor_lib.concurrency import run_async
from proactor_lib.endpoint import Answer, Endpoint, Failed, estimated_tokens, price
from proactor_lib.errors import ProcessError, UserError
from proactor_lib.files import atomic, is_stream, write_jsonl
from proactor_lib.schema import Catalog, Dialogue, DialogueReferences, Form

log = logging.getLogger(__name__)

# Asked about: a whole dialogue at once [ours], each turn [paper], or `open` alone of what was logged [ours].
ORACLES = {"dialogue": Oracle, "turn": TurnOracle, "open": OpenOracle}
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class OracleSettings:
    """Which model annotates, how fast, and at what price (per million prompt and output tokens)."""

    url: str
    model: str
    cache: Path
    concurrency: int = 16  # requests in flight
    timeout: float = 300.0  # seconds a request
    retries: int = 5
    backoff: float = 0.5  # seconds before the first retry
    prices: tuple[float, float] = (0.0, 0.0)
    form: Form = "schema"  # what the endpoint can hold answers to
    headers: dict[str, str] = field(default_factory=dict)
    key_variable: str = "OPENAI_API_KEY"
    key: str | None = field(default=None, repr=False)  # in the place of that variable's
    ask: str = "dialogue"  # a key of ORACLES
    oracle: dict[str, Any] = field(default_factory=dict)  # fields of that class: attempts, repeat, sampling, ...

    def annotator(self, endpoint: Endpoint, catalog: Catalog) -> Oracle | OpenOracle:
        """Who annotates through the endpoint."""
        return ORACLES[self.ask](endpoint, catalog, **self.oracle)

    def endpoint(self, kind: type[Endpoint] = Endpoint, key: str | None = None) -> Endpoint:
        """A client of the model; UserError where a key is missing. key: in the place of all others."""
        return kind(
            self.url,
            self.model,
            concurrency=self.concurrency,
            timeout=self.timeout,
            retries=self.retries,
            backoff=self.backoff,
            cache=self.cache,
            prices=self.prices,
            form=self.form,
            key=key or self.key,
            key_variable=self.key_variable,
            headers=self.headers if key is None else {},
        )


def cache_dir() -> Path:
    """Where answers are kept unless another folder is named: shared by all runs."""
    from proactor_lib import models

    return models.cache_dir() / "answers"


@dataclass
class Summary:
    """What became of the dialogues: `annotated` + `failed` (by kind) are all of them."""

    annotated: int = 0
    references: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    calls: int = 0  # requests answered now
    cached: int = 0  # requests that the cache answered
    retries: int = 0
    invalid: int = 0  # answers that were shown their fault and asked for again
    prompt_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    @property
    def dialogues(self) -> int:
        """All dialogues so far."""
        return self.annotated + sum(self.failed.values())

    def count(self, result: DialogueReferences | Failed, endpoint: Endpoint) -> None:
        """Take in one more dialogue, and the endpoint's counts as they stand."""
        if isinstance(result, Failed):
            self.failed[result.kind] = self.failed.get(result.kind, 0) + 1
        else:
            self.annotated += 1
            self.references += len(result.references)
        for name in ("calls", "cached", "retries", "invalid", "prompt_tokens", "output_tokens"):
            setattr(self, name, getattr(endpoint.counts, name))
        self.cost = endpoint.cost

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.failed.items()))
        failed = f"{sum(self.failed.values())} failed" + (f" ({kinds})" if kinds else "")
        return (
            f"{self.annotated} dialogues annotated with {self.references} references, {failed};"
            f" {self.calls} calls, {self.cached} from the cache, {self.retries} retries"
        )


OnProgress = Callable[[Summary], None]


@contextmanager
def shown(total: int, text: str) -> Iterator[OnProgress]:
    """A bar on standard error with rate, failures and time left; gives what `annotate_file` tells."""
    from tqdm import tqdm

    with tqdm(total=total, desc=text, unit=" dialogues") as bar:

        def on_progress(summary: Summary) -> None:
            bar.set_postfix(failed=sum(summary.failed.values()), calls=summary.calls, refresh=False)
            bar.update()

        yield on_progress


def failures_path(out: Path) -> Path:
    """Beside a references file: the dialogues that have no references, each with its reason."""
    return Path(out).with_suffix(".failed.jsonl")


def annotate_file(
    dialogues: Iterable[Dialogue],
    catalog: Catalog,
    out: Path,
    settings: OracleSettings,
    on_progress: OnProgress = lambda summary: None,
) -> Summary:
    """Write `out` (schema.DialogueReferences lines, in order) and, where some failed, `failures_path(out)`.

    Dialogues are read as they are needed: memory does not grow with their number. `on_progress` hears of each one.
    Both files appear when all is done; started again after a kill, it repeats no call that was answered, and tries
    faults of transport again. Raises UserError where the endpoint refuses, is not there or has no credit left,
    ProcessError where every dialogue failed.
    """
    return run_async(_annotate_file(dialogues, catalog, Path(out), settings, on_progress))


async def _annotate_file(dialogues, catalog, out, settings, on_progress) -> Summary:
    summary, failures = Summary(), []
    async with settings.endpoint() as endpoint:
        with atomic(out) as good:
            oracle = settings.annotator(endpoint, catalog)
            async for dialogue, result in in_order(dialogues, oracle.annotate, ahead=4 * settings.concurrency):
                summary.count(result, endpoint)
                if isinstance(result, Failed):
                    _stop_if_hopeless(result, endpoint)
                    failures.append({"dialogue_id": dialogue.id, "kind": result.kind, "reason": result.reason})
                else:
                    line = result if settings.ask == "open" else with_observed(result, dialogue)
                    good.write(line.model_dump_json(exclude_unset=True) + "\n")
                on_progress(summary)
            _leave_failures(out, failures)
            if failures and not summary.annotated:
                raise ProcessError(
                    f"{out}: not one of {len(failures)} dialogues was annotated: {failures[0]['reason']}"
                )
    return summary


def _leave_failures(out: Path, failures: list[dict[str, str]]) -> None:
    """In the file beside `out`; where nothing can lie beside it (a pipe), in the log."""
    if is_stream(out):
        for failure in failures:
            log.warning("no references for %(dialogue_id)s: %(reason)s (%(kind)s)", failure)
    elif failures:
        write_jsonl(failures_path(out), failures)
    else:
        failures_path(out).unlink(missing_ok=True)


def _stop_if_hopeless(failed: Failed, endpoint: Endpoint) -> None:
    if failed.kind == "quota" or (failed.kind in ("refused", "unreachable") and not endpoint.counts.calls):
        raise UserError(f"the oracle {endpoint.model!r} at {endpoint.url} cannot be asked: {failed.reason}")


async def in_order(items: Iterable[T], work: Callable[[T], Awaitable[R]], ahead: int) -> AsyncIterator[tuple[T, R]]:
    """Each item with its result, in the items' order, while up to `ahead` of them are worked on at once."""
    waiting: deque[tuple[T, asyncio.Task[R]]] = deque()
    try:
        for item in items:
            waiting.append((item, asyncio.ensure_future(work(item))))
            if len(waiting) >= ahead:
                yield await _first(waiting)
        while waiting:
            yield await _first(waiting)
    finally:
        for _, task in waiting:
            task.cancel()


async def _first(waiting: deque[tuple[T, asyncio.Task[R]]]) -> tuple[T, R]:
    item, task = waiting.popleft()
    try:
        return item, await task
    except BaseException:
        task.cancel()
        raise


@dataclass(frozen=True)
class DryRun:
    """What a run would send: requests, estimated tokens, and their price."""

    dialogues: int
    calls: int
    cached: int
    prompt_tokens: int
    output_tokens: int
    price: float

    def __str__(self) -> str:
        return (
            f"{self.dialogues} dialogues: {self.calls} calls to send, {self.cached} in the cache; about"
            f" {self.prompt_tokens:,} prompt and {self.output_tokens:,} output tokens, price {self.price:,.2f}"
        )


def plan(dialogues: Iterable[Dialogue], catalog: Catalog, settings: OracleSettings) -> DryRun:
    """What `annotate_file` would send, retries apart. Nothing is sent.

    Tokens are estimates [ours]: prompts came out 3 to 12% too high on three corpora; answers are taken as 10 tokens
    for each action and each turn, which was between 0.7 and 1.9 times the truth.
    """
    return run_async(_plan(dialogues, catalog, settings))


async def _plan(dialogues, catalog, settings) -> DryRun:
    count = 0
    async with settings.endpoint(_Dry, key="none: nothing is sent") as endpoint:
        oracle = settings.annotator(endpoint, catalog)
        async for _ in in_order(dialogues, oracle.annotate, ahead=4 * settings.concurrency):
            count += 1
        c = endpoint.counts
    return DryRun(
        dialogues=count,
        calls=c.calls,
        cached=c.cached,
        prompt_tokens=c.prompt_tokens,
        output_tokens=c.output_tokens,
        price=price(c.prompt_tokens, c.output_tokens, settings.prices),
    )


_UNSENT = Failed("unreachable", "a dry run sends nothing")


class _Dry(Endpoint):
    """Answers what is not in the cache with nothing found, sends nothing, and counts what it would have sent."""

    async def complete_json(self, messages, schema, check, **asking):
        found = await super().complete_json(messages, schema, check, **asking)
        if found != _UNSENT:
            return found
        asked = schema["properties"]
        listed = any("ready" in p["items"]["properties"] for p in asked.values() if "items" in p)  # an answer of turns
        turns = messages[-1]["content"].count("\n[") if listed else 0
        self.counts.output_tokens += 10 * (len(asked) + turns)
        return Answer(check({name: p.get("minimum", []) for name, p in asked.items()}), "")

    async def _ask(self, request, headers):
        self.counts.calls += 1
        self.counts.prompt_tokens += estimated_tokens(request["messages"])
        return _UNSENT
