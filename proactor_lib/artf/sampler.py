"""K outputs of one turn from the policy's servers, with the log-probabilities that the server sampled them by."""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field

import httpx

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Output:
    """One sampled output: its text, its tokens (the end token among them), their log-probabilities, cut off or not.

    offsets: where in the text each token begins; top: its likeliest alternatives' log-probabilities, if asked for.
    """

    text: str
    tokens: list[int]
    log_probs: list[float]
    truncated: bool
    offsets: list[int] = field(default_factory=list)
    top: list[dict[str, float]] = field(default_factory=list)


class Sampler:
    """Asks an OpenAI-compatible server (or the router before several) for completions of token ids.

    Temperature as given, top_p 1, nothing masks the logits, and never a seed: it kills vLLM's CPU engine. A failed
    request is asked again, up to `attempts` times; counters: requests, retries.
    """

    def __init__(self, url: str, max_tokens: int, temperature: float = 1.0, attempts: int = 8, key: str | None = None,
                 top: int = 0):  # fmt: skip
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(600.0, connect=10.0),
            limits=httpx.Limits(max_connections=None),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        self._max_tokens, self._temperature, self._attempts, self._top = max_tokens, temperature, attempts, top
        self.counters: Counter = Counter()

    async def sample(self, model: str, prompt: list[int], k: int, session: str) -> list[Output]:
        """K outputs for the prompt. httpx.HTTPError when the last attempt fails too."""
        answer = await self._post(model, prompt, k, self._max_tokens, session)
        return [_output(choice) for choice in answer["choices"]]

    async def warm(self, model: str, prompt: list[int], session: str) -> None:
        """Have the prompt computed once, so that requests for its prefixes find it in the server's cache."""
        await self._post(model, prompt, 1, 1, session)

    async def _post(self, model: str, prompt: list[int], k: int, max_tokens: int, session: str) -> dict:
        body = {"model": model, "prompt": prompt, "n": k, "max_tokens": max_tokens, "temperature": self._temperature}
        body |= {"top_p": 1.0, "logprobs": self._top, "return_token_ids": True}
        for attempt in range(1, self._attempts + 1):
            self.counters["requests"] += 1
            try:
                response = await self._client.post("/v1/completions", json=body, headers={"x-session-id": session})
                response.raise_for_status()
                return response.json()
            except httpx.HTTPError as error:
                if attempt == self._attempts or _hopeless(error):
                    raise
                self.counters["retries"] += 1
                log.warning("request of %s failed (%s), attempt %d", session, error or type(error).__name__, attempt)
                await asyncio.sleep(min(0.25 * 2**attempt, 10.0))
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()


def _hopeless(error: httpx.HTTPError) -> bool:
    """Whether asking again cannot help: the server understood and refused."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (400, 401, 403, 422)


def _output(choice: dict) -> Output:
    tokens, log_probs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    if len(tokens) != len(log_probs):
        raise ValueError(f"the server answered {len(tokens)} tokens and {len(log_probs)} log-probabilities")
    offsets, top = (choice["logprobs"].get(k) or [] for k in ("text_offset", "top_logprobs"))
    return Output(choice["text"], tokens, log_probs, choice["finish_reason"] == "length", offsets, top)
