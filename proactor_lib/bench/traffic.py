"""Requests as dialogues make them: turn after turn of a session, many sessions at once; when each began and ended."""

import asyncio
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass

from proactor_lib.artf.serving.completions import CompletionClient


@dataclass(frozen=True)
class Talk:
    """A dialogue that begins `at` seconds from the start and asks for `turns` outputs, one after another."""

    session: str
    at: float
    turns: int


@dataclass(frozen=True)
class Done:
    """What came of it all: seconds from the first request to the last answer; each request's latency in seconds."""

    seconds: float
    latencies: list[float]
    retries: int

    @property
    def rps(self) -> float:
        """Requests answered a second."""
        return len(self.latencies) / self.seconds

    def latency(self, share: float) -> float:
        """The latency that `share` of the requests did not exceed."""
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


def bursts(count: int, rate: float, trickle: float, burst: float, calm: float, turns: int, seed: int = 0) -> list[Talk]:
    """`trickle` requests a second all the time, and `rate` during `count` bursts of `burst` seconds, `calm` seconds
    before each; the last burst ends the trace. Arrivals are Poisson's, whole dialogues of `turns` requests."""
    rng, found, now, length = random.Random(seed), [], 0.0, calm + burst
    while (now := now + rng.expovariate(rate / turns)) < count * length:
        if now % length >= calm or rng.random() < trickle / rate:
            found.append(Talk(f"d{len(found)}", now, turns))
    return found


def drive(urls: list[str], talks: Iterable[Talk], prompt: int = 32, tokens: int = 4, **kwargs) -> Done:
    """Hold the talks, each at `urls[its number % len(urls)]`; `kwargs` go to the samplers. Returns when all ended."""
    return asyncio.run(_drive(urls, list(talks), prompt, tokens, kwargs))


async def _drive(urls: list[str], talks: list[Talk], prompt: int, tokens: int, kwargs: dict) -> Done:
    samplers = [CompletionClient(url, tokens, **kwargs) for url in urls]
    began, latencies = time.perf_counter(), []

    async def hold(number: int, talk: Talk) -> None:
        sampler = samplers[number % len(samplers)]
        await asyncio.sleep(max(0.0, began + talk.at - time.perf_counter()))
        for turn in range(1, talk.turns + 1):
            asked = time.perf_counter()
            await sampler.sample("policy", _tokens(number, prompt * turn), 1, talk.session)
            latencies.append(time.perf_counter() - asked)
        await sampler.finish(talk.session)

    await asyncio.gather(*(hold(n, talk) for n, talk in enumerate(talks)))
    seconds = time.perf_counter() - began - min(t.at for t in talks)
    for sampler in samplers:
        await sampler.close()
    return Done(seconds, latencies, sum(s.counters["retries"] for s in samplers))


def _tokens(dialogue: int, length: int) -> list[int]:
    """A prompt of token ids; a dialogue's longer prompts begin with its shorter ones."""
    rng = random.Random(dialogue)
    return [rng.randrange(1000, 2000) for _ in range(length)]
