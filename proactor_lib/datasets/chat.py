"""Logged chats of tool-calling agents: OpenAI's messages (tool_calls, function_call) and Anthropic's content blocks.

JSONL, a chat per line, or one JSON: a chat (an object with `messages`, or the list of them) or a list of chats. A
system message and a tool's result are no turns. Each chat may have `tools` (or `functions`), in any provider's form.
A message's time stamp (`timestamp`, `created_at`, ...) is its turn's, and its calls'.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from proactor_lib.catalog import tools
from proactor_lib.catalog.json_schema import Notes as ToolNotes
from proactor_lib.catalog.references import Malformed
from proactor_lib.datasets.conversations import Call, Conversation, Notes, Result, Spoken, day, seconds
from proactor_lib.datasets.raw import documents, reason
from proactor_lib.errors import UserError
from proactor_lib.files import json_value, stem
from proactor_lib.schema import Action
from proactor_lib.values import normalise

SILENT = ("system", "developer")
RESULTS = ("tool", "function")
SPEAKERS = ("user", "assistant")
TEXTS = ("text", "input_text", "output_text", "refusal")
_TODAY = re.compile(r"\b(?:current (?:time|date)|today|today's date)\b(?: and time)?(?: is| =)? (\d{4}-\d\d-\d\d)\b")
_TIMED = {Spoken: "start", Call: "time"}
IDS = ("id", "custom_id", "conversation_id")
TIMES = ("timestamp", "created_at", "createdAt", "created", "time", "date", "ts")
AROUND = ("body", "request")  # what holds the chat in a batch's line or in a logged request


def read(path: Path, notes: Notes, speakers: Mapping[str, str] = {}) -> Iterator[Conversation]:
    """The file's chats, in order. `speakers`: other names for user and assistant.

    UserError names the file, the line, and what is not a chat's.
    """
    for number, (place, raw) in enumerate(_chats(path), start=1):
        try:
            chat = _unwrapped(raw)
            id = next((str(chat[key]) for key in IDS if chat.get(key)), f"{stem(path)}-{number}")
            if chat.get("system"):
                notes.left_out.add("a system message is no turn", id)
            events = tuple(_renamed(e, speakers) for e in _all_events(chat["messages"], id, notes))
            yield Conversation(id, events, _tools(chat, id, notes), _date(chat, id, notes))
        except (KeyError, TypeError, AttributeError, ValueError, Malformed) as error:
            raise UserError(f"{place} is not a chat with messages: {reason(error)}") from None


def _chats(path: Path) -> Iterator[tuple[str, Any]]:
    """Each chat as it is written, with its place."""
    for place, value in documents(path):
        many = isinstance(value, list) and not any(isinstance(item, dict) and "role" in item for item in value)
        if many:
            yield from ((f"{place}, item {n}", item) for n, item in enumerate(value, start=1))
        else:
            yield place, value


def _unwrapped(raw: Any) -> dict:
    """The object that has the messages, with the id of what is around it."""
    if isinstance(raw, list):
        return {"messages": raw}
    if not isinstance(raw, dict):
        raise ValueError(f"a chat must be an object or a list, got {str(raw)[:60]!r}")
    for key in AROUND:
        if "messages" not in raw and isinstance(raw.get(key), dict):
            inner = _unwrapped(raw[key])
            own = {k: raw[k] for k in IDS if k in raw}
            return own | inner | {"messages": [*inner["messages"], *_answers(raw.get("response"))]}
    if not isinstance(raw.get("messages"), list):
        raise ValueError(f"no list 'messages'; its keys: {', '.join(map(str, raw)) or 'none'}")
    return raw


def _answers(response: Any) -> list[dict]:
    """The message that a logged request was answered with; none where there is none."""
    if not isinstance(response, dict):
        return []
    if isinstance(response.get("body"), dict):
        return _answers(response["body"])
    if response.get("choices"):
        return [response["choices"][0]["message"]]
    return [response] if response.get("role") == "assistant" else []


def _tools(chat: dict, id: str, notes: Notes) -> tuple[Action, ...]:
    lists = [_parsed(chat.get(key)) for key in ("tools", "functions")]
    given = [list(map(_parsed, tools)) if isinstance(tools, list) else tools for tools in lists if tools]
    tool_notes = ToolNotes()
    actions = tools.read(given, tool_notes) if given else ()
    for sentence in tool_notes:
        notes.left_out.add(f"of its tools: {sentence}", id)
    return actions


def _parsed(tools: Any) -> Any:
    """Tools as they are; those written as JSON text, as that says."""
    try:
        return json_value(tools) if tools and isinstance(tools, str) else tools
    except ValueError as error:
        raise ValueError(f"its tools are not JSON: {error}") from None


def _all_events(messages: list[dict], id: str, notes: Notes) -> Iterator[Spoken | Call | Result]:
    if chat_without := [m for m in messages if not isinstance(m, dict)]:
        raise ValueError(f"a message must be an object, got {str(chat_without[0])[:60]!r}")
    for message in messages:
        yield from events(message, id, notes)


def _renamed(event: Spoken | Call | Result, speakers: Mapping[str, str]) -> Spoken | Call | Result:
    return replace(event, speaker=speakers.get(event.speaker, event.speaker)) if isinstance(event, Spoken) else event


def events(message: dict, id: str, notes: Notes) -> Iterator[Spoken | Call | Result]:
    """What a message says, calls and answers, in its order; calls beside its content come after it.

    ValueError, KeyError, TypeError or AttributeError for what is not a message.
    """
    role = message.get("role")
    if role in SILENT:
        notes.left_out.add(f"a {role} message is no turn", id)
    elif role in RESULTS:
        yield Result(_text(message.get("content")))
    elif role not in SPEAKERS:
        raise ValueError(f"role {role!r}; accepted: {', '.join((*SILENT, *SPEAKERS, *RESULTS))}")
    else:
        time = _time(message, id, notes)
        for event in _spoken_and_called(role, message, id, notes):
            yield event if isinstance(event, Result) else replace(event, **{_TIMED[type(event)]: time})


def _spoken_and_called(role: str, message: dict, id: str, notes: Notes) -> Iterator[Spoken | Call | Result]:
    yield from _content(role, [*_parts(message.get("content")), *_parts(message.get("refusal"))], id, notes)
    for call in [*(message.get("tool_calls") or ()), message.get("function_call")]:
        if call:
            yield _call(call, id, notes)


def _time(message: dict, id: str, notes: Notes) -> float | None:
    """The message's time stamp; one that cannot be read is noted."""
    written = next((message[key] for key in TIMES if message.get(key) is not None), None)
    try:
        return seconds(written)
    except ValueError:
        notes.left_out.add("a message's time stamp, which cannot be read", f"{id}: {str(written)[:40]!r}")
        return None


def _date(chat: dict, id: str, notes: Notes) -> date | None:
    """The day of the first time stamp, else of a sentence on the current date in a system message (a guess)."""
    stamps = (day(m[key]) for m in chat["messages"] for key in TIMES if m.get(key) is not None)
    if stamped := next(filter(None, stamps), None):
        return stamped
    instructions = [m.get("content") for m in chat["messages"] if m.get("role") in SILENT]
    for text in map(_text, [chat.get("system"), *instructions]):
        if found := _TODAY.search(normalise(text)):
            notes.guessed.add(
                "the day of a chat, from its system message: relative days count from it", f"{id}: {found[1]}"
            )
            return day(found[1])
    return None


def _content(role: str, content: Any, id: str, notes: Notes) -> Iterator[Spoken | Call | Result]:
    """Texts that follow each other are one turn; Anthropic's tool_use and tool_result stand between them."""
    texts: list[str] = []

    def spoken() -> Iterator[Spoken]:
        if text := "\n".join(texts).strip():
            yield Spoken(role, text)
        texts.clear()

    for part in _parts(content):
        kind = part.get("type", "text")
        if kind in TEXTS:
            texts.append(part.get("refusal" if kind == "refusal" else "text") or "")
        elif kind in ("tool_use", "tool_result"):
            yield from spoken()
            yield _call(part, id, notes) if kind == "tool_use" else Result(_text(part.get("content")))
        else:
            notes.left_out.add(f"content of the kind {kind!r}", id)
    yield from spoken()


def _parts(content: Any) -> list[dict]:
    parts = content if isinstance(content, list) else [] if content is None else [content]
    return [{"text": p} if isinstance(p, str) else p for p in parts]


def _text(content: Any) -> str:
    """A result's text; what is neither text nor parts, as JSON."""
    if isinstance(content, dict):
        return json.dumps(content, ensure_ascii=False)
    return "\n".join(p.get("text") or json.dumps(p, ensure_ascii=False) for p in _parts(content))


def _call(call: dict, id: str, notes: Notes) -> Call:
    """A call in any form: `function` or `custom` inside, or name and arguments (`input`, `args`) as they are."""
    inner = call.get("function") or call.get("custom") or call
    name = inner.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"a call must have a name, got {name!r}")
    given = next((inner[key] for key in ("arguments", "input", "args") if inner.get(key) is not None), {})
    if isinstance(given, str) and "custom" not in call:
        try:
            given = json_value(given or "{}")
        except ValueError:
            notes.left_out.add("the arguments of a call, which are not JSON", f"{id}: {name}")
            given = {}
    return Call(name, given if isinstance(given, dict) else {} if given is None else {"input": given})
