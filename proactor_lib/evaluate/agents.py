"""Who is evaluated: fixed policies, models behind an endpoint with a prompt, and our own policies by their tokens.

An agent is shown a dialogue's turns and says what it would prepare or trigger at those that are asked.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from proactor_lib import agent, policies
from proactor_lib.agent import PROMPTS, Parsed, parse
from proactor_lib.connection import session
from proactor_lib.endpoint import Answer, Endpoint, Failed
from proactor_lib.evaluate import few_shot, graph
from proactor_lib.evaluate.confidence import with_confidence
from proactor_lib.replies import after_thinking
from proactor_lib.schema import Case, TurnPrediction

if TYPE_CHECKING:
    from proactor_lib.artf.serving.completions import CompletionClient, Output
    from proactor_lib.artf.training.tokens import DialogueTokens

Known = Mapping[int, TurnPrediction]
OnPrediction = Callable[[TurnPrediction], None]
Message = dict[str, str]  # role and content


@dataclass(frozen=True)
class EvalCase(Case):
    """A case, and the turns at which agents are asked about it."""

    turns: tuple[int, ...]  # increasing


class Unanswered(RuntimeError):
    """An endpoint or a server that does not answer: no prediction can be made of that."""


class Agent(Protocol):
    """Makes predictions. `at_once`: how many dialogues it follows at the same time."""

    at_once: int

    async def follow(self, case: EvalCase, known: Known, on_prediction: OnPrediction) -> None:
        """Pass to `on_prediction` a prediction for each asked turn that is not `known`. Raises Unanswered."""

    async def close(self) -> None:
        """Let go of connections."""


class Fixed:
    """One of proactor_lib.policies."""

    at_once = 1

    def __init__(self, name: str, seed: int):
        self._policy, self._seed = policies.FIXED_POLICIES[name], seed

    async def follow(self, case: EvalCase, known: Known, on_prediction: OnPrediction) -> None:
        """As Agent; nothing is asked."""
        for line in self._policy(case, self._seed):
            if line.turn in case.turns and line.turn not in known:
                on_prediction(line)

    async def close(self) -> None:
        """Nothing to close."""


class Prompted:
    """A model behind an endpoint with one of the PROMPTS: non-reasoning, reasoning, reasoning + ASG [paper]; few-shot

    is the first with worked examples [ours].
    """

    def __init__(self, name: str, endpoint: Endpoint, max_tokens: int, sampling: Mapping[str, Any] | None = None,
                 shots: Sequence[Message] = (), constrained: bool = False):  # fmt: skip
        """`sampling`: further fields of its requests; shots: messages before the question; constrained: vLLM lets

        nothing be said that cannot be read.
        """
        self._template, self._endpoint = PROMPTS[name], endpoint
        self._shots, self._constrained = list(shots), constrained
        self._sampling = {"temperature": 0.0, "max_tokens": max_tokens, **(sampling or {})}
        self._carries = name == "reasoning_asg"
        self.at_once = max(endpoint.concurrency if self._carries else endpoint.concurrency // 4, 1)

    async def follow(self, case: EvalCase, known: Known, on_prediction: OnPrediction) -> None:
        """As Agent: turns at the same time, but one after the other where a graph is carried."""
        if self._carries:
            await self._carry(case, known, on_prediction)
        else:
            await asyncio.gather(*(self._turn(case, turn, on_prediction) for turn in case.turns if turn not in known))

    async def _turn(self, case: EvalCase, turn: int, on_prediction: OnPrediction) -> None:
        answer = await self._ask(case, agent.transcript(case.dialogue, turn))
        text = spoken(answer)
        parsed = Parsed((), unreadable=True) if text is None else parse(text)
        on_prediction(_line(case, turn, answer, parsed))

    async def _carry(self, case: EvalCase, known: Known, on_prediction: OnPrediction) -> None:
        state: graph.Graph = {}
        for turn in case.turns:
            if turn in known:
                if known[turn].actions or not known[turn].unreadable:
                    state, _ = graph.updated(state, after_thinking(known[turn].text or "") or "")
                continue
            seen = agent.transcript(case.dialogue, turn)
            answer = await self._ask(case, f"{seen}The graph as it was:\n{graph.render(state)}\n")
            changed, parsed = _changed(state, spoken(answer))
            state = changed if parsed.actions or not parsed.unreadable else state  # as a call that goes on knows it
            on_prediction(_line(case, turn, answer, parsed))

    async def _ask(self, case: EvalCase, seen: str) -> Answer[str] | Failed:
        system = agent.system_text(case.catalog, self._template)
        messages = [{"role": "system", "content": system}, *self._shots, {"role": "user", "content": seen}]
        form = {"structured_outputs": {"grammar": few_shot.grammar(case.catalog)}} if self._constrained else {}
        headers = session(case.dialogue.id)
        answer = await self._endpoint.complete(messages, headers=headers, **self._sampling, **form)
        if isinstance(answer, Failed) and answer.kind != "rejected":
            raise Unanswered(f"{self._endpoint.model!r} at {self._endpoint.url} does not answer: {answer.reason}")
        return answer

    async def close(self) -> None:
        """Let go of the endpoint's connections."""
        await self._endpoint.__aexit__()


def _changed(state: graph.Graph, text: str | None) -> tuple[graph.Graph, Parsed]:
    """The graph after what was said, and what it says now: nothing where the output was cut off or did not come."""
    if text is None:
        return state, Parsed((), unreadable=True)
    changed, whole = graph.updated(state, text)
    return changed, Parsed(graph.actions(changed), unreadable=not whole)


def spoken(answer: Answer[str] | Failed) -> str | None:
    """What was said after the thinking; None where nothing was (cut off, or a request that was rejected)."""
    return None if isinstance(answer, Failed) or answer.cut else after_thinking(answer.text)


def _line(case: EvalCase, turn: int, answer: Answer[str] | Failed, parsed: Parsed) -> TurnPrediction:
    """A request that was rejected (a prompt beyond the context, say) is an unreadable output without a text."""
    said = {"dialogue_id": case.dialogue.id, "turn": turn, "actions": parsed.actions, "unreadable": parsed.unreadable}
    if isinstance(answer, Failed):
        return TurnPrediction(**said, reason=answer.reason)
    if answer.cached:
        return TurnPrediction(**said, text=answer.text)
    return TurnPrediction(**said, text=answer.text, prompt_tokens=answer.prompt_tokens,
                          output_tokens=answer.output_tokens, latency_s=round(answer.latency_s, 4))  # fmt: skip


class Served:
    """A policy of ours on a vLLM server, asked exactly as in training, but greedily."""

    def __init__(
        self,
        model: str,
        sampler: "CompletionClient",
        trunk: Callable[[Case], "DialogueTokens"],
        longest: int,
        at_once: int,
    ):
        """`model`: its name on the server; `longest`: tokens of a prompt at most."""
        self._model, self._sampler, self._trunk = model, sampler, trunk
        self._longest, self.at_once = longest, at_once

    async def follow(self, case: EvalCase, known: Known, on_prediction: OnPrediction) -> None:
        """As Agent: of several prompts the longest warms the server's cache, then all turns at once."""
        trunk = self._trunk(case)
        left = {turn: trunk.prompt(turn) for turn in case.turns if turn not in known}
        fitting = {turn: prompt for turn, prompt in left.items() if len(prompt) <= self._longest}
        for turn in left.keys() - fitting.keys():
            on_prediction(_beyond_context(case, turn, len(left[turn])))
        if len(fitting) > 1:
            await self._ask(self._sampler.warm(self._model, fitting[max(fitting)], case.dialogue.id))
        await asyncio.gather(*(self._turn(case, turn, prompt, on_prediction) for turn, prompt in fitting.items()))

    async def _turn(self, case: EvalCase, turn: int, prompt: list[int], on_prediction: OnPrediction) -> None:
        start = time.perf_counter()
        (output,) = await self._ask(self._sampler.sample(self._model, prompt, 1, case.dialogue.id))
        parsed = read(output)
        on_prediction(TurnPrediction(
            dialogue_id=case.dialogue.id, turn=turn, actions=parsed.actions, unreadable=parsed.unreadable,
            text=output.text, prompt_tokens=len(prompt), output_tokens=len(output.tokens),
            latency_s=round(time.perf_counter() - start, 4),
        ))  # fmt: skip

    async def _ask(self, request):
        import httpx

        from proactor_lib.artf.serving.completions import WrongModel

        try:
            return await request
        except (httpx.HTTPError, WrongModel) as error:
            raise Unanswered(f"the vLLM server does not answer: {error or type(error).__name__}") from None

    async def close(self) -> None:
        """Let go of the connections."""
        await self._sampler.close()


def read(output: "Output") -> Parsed:
    """What an output says, by training's rule (one that was cut off is unreadable), with confidences of `ready`."""
    if output.truncated:
        return Parsed((), unreadable=True)
    parsed = parse(output.text)
    return replace(parsed, actions=with_confidence(parsed.actions, output))


def _beyond_context(case: EvalCase, turn: int, tokens: int) -> TurnPrediction:
    return TurnPrediction(dialogue_id=case.dialogue.id, turn=turn, unreadable=True, prompt_tokens=tokens)
