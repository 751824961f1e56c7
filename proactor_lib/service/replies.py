"""What is answered: OpenAI's chat completions, whole or in chunks, and our own form of an answer per turn."""

import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

from proactor_lib.catalog.json_schema import arguments
from proactor_lib.schema import Catalog, PredictedAction
from proactor_lib.service.memory import Answer, Talk


def plain(actions: tuple[PredictedAction, ...]) -> list[dict[str, Any]]:
    """Actions as JSON: name, params, confidence (null where the policy has none)."""
    return [{"name": a.name, "params": a.params, "confidence": a.confidence} for a in actions]


def turn(answer: Answer) -> dict[str, Any]:
    """An answer as JSON: turn, ready, candidates, held, unknown, unreadable."""
    groups = {name: plain(getattr(answer, name)) for name in ("ready", "candidates", "held", "unknown")}
    return {"turn": answer.turn, **groups, "unreadable": answer.unreadable}


def tool_calls(talk: Talk, answer: Answer, catalog: Catalog) -> list[dict[str, Any]]:
    """The `ready` actions as OpenAI's calls; who asks again for a turn gets the same ids."""
    return [_call(talk.id, answer.turn, action, catalog) for action in answer.ready]


def _call(conversation: str, turn: int, action: PredictedAction, catalog: Catalog) -> dict[str, Any]:
    given = arguments(catalog.by_name[action.name], action.params)
    origin = json.dumps([conversation, turn, action.name, action.params], sort_keys=True)
    return {
        "id": f"call_{hashlib.sha256(origin.encode()).hexdigest()[:24]}",
        "type": "function",
        "function": {"name": action.name, "arguments": json.dumps(given, ensure_ascii=False)},
    }


class Completion:
    """An answer as a chat completion of `model`. `about`: what our own field `proactor` says of the conversation."""

    def __init__(self, model: str, talk: Talk, answer: Answer, catalog: Catalog, about: dict[str, Any]):
        self._answer, self._calls = answer, tool_calls(talk, answer, catalog)
        self._candidates = plain(answer.candidates)
        self._head = {"id": f"chatcmpl-{talk.id}-{answer.turn}", "created": int(time.time()), "model": model}
        self._about = {"proactor": {**about, **turn(answer)}}

    @property
    def _finish(self) -> str:
        return "tool_calls" if self._calls else "stop"

    def _usage(self) -> dict[str, int]:
        prompt, output = self._answer.prompt_tokens, self._answer.output_tokens
        return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}

    def whole(self) -> dict[str, Any]:
        """One object; `candidates` stand in the message, beside its calls."""
        message = {"role": "assistant", "content": None, "candidates": self._candidates}
        message |= {"tool_calls": self._calls} if self._calls else {}
        choice = {"index": 0, "message": message, "finish_reason": self._finish, "logprobs": None}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage(), **self._about}

    def chunks(self, usage: bool) -> Iterator[dict[str, Any]]:
        """The same in pieces: one per call, then the candidates; with `usage`, one with the tokens at the end."""
        yield self._chunk({"role": "assistant", "content": None})
        for index, call in enumerate(self._calls):
            yield self._chunk({"tool_calls": [{"index": index, **call}]})
        yield self._chunk({"candidates": self._candidates}, self._finish) | self._about
        if usage:
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}


def event(value: Any) -> str:
    """One server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}\n\n"
