"""K outputs of one turn from the policy's servers, with the log-probabilities that the server sampled them by."""

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from proactor_lib import connection
from proactor_lib.errors import ProcessError

log = logging.getLogger(__name__)


class WrongModel(ProcessError):
    """Another model than the one that was asked has answered: the base model, say, for want of the adapter."""


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


class CompletionClient:
    """Asks an OpenAI-compatible server (or the router before several) for completions of token ids.

    Temperature as given, top_p 1, nothing masks the logits, and never a seed: it kills vLLM's CPU engine. A failed
    request, or one that another model answered, is asked again for `patience` seconds: a server may die and need
    replacing. counters: requests, retries, wrong_model. `routed`: the url is a router's, to which sessions are given
    back.
    """

    def __init__(self, url: str, max_tokens: int, temperature: float = 1.0, patience: float = 60.0,
                 key: str | None = None, top: int = 0, routed: bool = False):  # fmt: skip
        self._client = httpx.AsyncClient(
            base_url=url,
            trust_env=False,  # the servers are ours: no proxy leads to them
            timeout=httpx.Timeout(600.0, connect=10.0),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=connection.IDLE),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        self._max_tokens, self._temperature, self._patience, self._top = max_tokens, temperature, patience, top
        self._routed = routed
        self.counters: Counter = Counter()

    async def sample(self, model: str, prompt: list[int], k: int, session: str) -> list[Output]:
        """K outputs for the prompt. httpx.HTTPError or WrongModel when patience is at its end."""
        answer = await self._post(model, prompt, k, self._max_tokens, session)
        return [_output(choice) for choice in answer["choices"]]

    async def warm(self, model: str, prompt: list[int], session: str) -> None:
        """Have the prompt computed once, so that requests for its prefixes find it in the server's cache."""
        await self._post(model, prompt, 1, 1, session)

    async def _post(self, model: str, prompt: list[int], k: int, max_tokens: int, session: str) -> dict:
        body = {"model": model, "prompt": prompt, "n": k, "max_tokens": max_tokens, "temperature": self._temperature}
        body |= {"top_p": 1.0, "logprobs": self._top, "return_token_ids": True}
        deadline, pause = None, 0.25
        while True:
            self.counters["requests"] += 1
            try:
                response = await self._client.post("/v1/completions", json=body, headers=connection.session(session))
                response.raise_for_status()
                return self._checked(response.json(), model)
            except (httpx.HTTPError, WrongModel) as error:
                deadline = deadline or time.monotonic() + self._patience  # from the first failure: some wait for long
                if time.monotonic() > deadline or _hopeless(error):
                    raise
                self.counters["retries"] += 1
                log.warning("request of %s failed (%s); once more", session, str(error) or type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)

    def _checked(self, answer: dict, model: str) -> dict:
        if answer["model"] != model:
            self.counters["wrong_model"] += 1
            raise WrongModel(f"{model} was asked, {answer['model']} answered")
        return answer

    async def finish(self, session: str) -> None:
        """Give the session back, so that the router counts its server as less loaded."""
        if self._routed:
            with suppress(httpx.HTTPError):
                await self._client.post(
                    "/finish_session", params={"session_id": connection.session_id(session)}, timeout=5.0
                )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()


def _hopeless(error: Exception) -> bool:
    """Whether asking again cannot help: the server understood and refused."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (400, 401, 403, 422)


def _output(choice: dict) -> Output:
    tokens, log_probs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    if len(tokens) != len(log_probs):
        raise ValueError(f"the server answered {len(tokens)} tokens and {len(log_probs)} log-probabilities")
    offsets, top = (choice["logprobs"].get(k) or [] for k in ("text_offset", "top_logprobs"))
    return Output(choice["text"], tokens, log_probs, choice["finish_reason"] == "length", offsets, top)
