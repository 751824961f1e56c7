"""What an endpoint's replies say, in all the forms in which servers send it: text, refusals, errors, waits [ours]."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, Literal

from proactor_lib.files import json_value

Kind = Literal["refused", "rejected", "quota", "unreachable", "timeout", "rate_limit", "server", "garbled", "invalid"]

SHOWN = 300  # characters of a server's own words
MOST_STARTS = 100  # places at which JSON is looked for in a text

_THINKING = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"))
_NO_SYSTEM = re.compile(
    r"system (?:role|message|prompt)s?\b.{0,20}\bnot (?:supported|allowed)|no system role"
    r"|only user and assistant roles|roles must alternate",
    re.IGNORECASE,
)
_SPENT = re.compile(
    r"insufficient[_ ](?:quota|balance|credit|funds)|billing_hard_limit|credit balance is too low", re.I
)


class Fault(Exception):
    """A reply that is no answer: its kind, and the server's own words."""

    def __init__(self, kind: Kind, reason: str, paid: bool = False):
        super().__init__(reason)
        self.kind, self.reason, self.paid = kind, reason, paid


@dataclass(frozen=True)
class Reply:
    """A chat completion: its text, or why the model refuses, and whether the token limit ended it."""

    text: str
    refusal: str = ""
    cut: bool = False


def body(text: str) -> Any:
    """A reply's JSON value, or its text where it is none; half a character, which no file can hold, is U+FFFD."""
    try:
        return json_value(text)
    except (ValueError, RecursionError):
        return text


def usage(reply: Any) -> tuple[int, int]:
    """Prompt and output tokens that the server counts; 0 where it says nothing."""
    counted = reply.get("usage") if isinstance(reply, dict) else None
    names = ("prompt_tokens", "completion_tokens")
    given = [counted.get(name) if isinstance(counted, dict) else 0 for name in names]
    return tuple(n if isinstance(n, int) and not isinstance(n, bool) else 0 for n in given)


def read(reply: Any) -> Reply:
    """The chat completion in a reply of status 200. Raises Fault: an error inside, or no chat completion."""
    paid = any(usage(reply))
    if isinstance(reply, dict) and reply.get("error") and not reply.get("choices"):
        error = reply["error"]
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        raise Fault(kind_of(status, reply), own_words(reply), paid)
    try:
        choice = reply["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        text, refusal = _text(message.get("content"))
        text = text or _called(message)
        refusal = message.get("refusal") or refusal
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise Fault("garbled", f"the reply is not a chat completion: {own_words(reply) or error}", paid) from None
    if reason == "content_filter" and not refusal:
        refusal = text or "its content filter ended the answer"
    return Reply(text, str(refusal), cut=reason == "length")


def _text(content: Any) -> tuple[str, str]:
    """The text of a message's content, and a refusal among its parts. TypeError for what is neither text nor parts."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list):
        raise TypeError(f"content is a {type(content).__name__}")
    parts = [{"type": "text", "text": p} if isinstance(p, str) else p for p in content]
    texts = [p["text"] for p in parts if p.get("type", "text") in ("text", "output_text")]
    return "".join(texts), "".join(p["refusal"] for p in parts if p.get("type") == "refusal")


def _called(message: dict) -> str:
    """The arguments of a tool call that stands in place of a text."""
    calls = [c["function"] for c in message.get("tool_calls") or ()] or [message.get("function_call")]
    arguments = (calls[0] or {}).get("arguments") or ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def own_words(reply: Any) -> str:
    """What a server says of an error, whatever form it has."""
    words = _words(reply)
    if words.lstrip().startswith("<"):
        words = re.sub(r"<[^>]*>", " ", words)
    return " ".join(words.split())[:SHOWN]


def _words(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(filter(None, map(_words, value)))
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    for key in ("error", "message", "detail", "msg", "errors", "error_description"):
        if value.get(key):
            place = ".".join(map(str, value["loc"])) + ": " if isinstance(value.get("loc"), list) else ""
            code = value.get("code")
            named = f" ({code})" if key == "message" and isinstance(code, str) and code not in str(value[key]) else ""
            return f"{place}{_words(value[key])}{named}"
    return json.dumps(value, ensure_ascii=False) if value else ""


def kind_of(status: int, reply: Any = None) -> Kind:
    """What an HTTP status means for this request and the next ones."""
    if status == 402 or (status in (400, 403, 429) and _SPENT.search(json.dumps(reply, default=str))):
        return "quota"
    if status == 429:
        return "rate_limit"
    if status >= 500 or status in (408, 409):
        return "server"
    return "refused" if status in (401, 403, 404) else "rejected"


def refuses_system(reason: str) -> bool:
    """Whether a server's words say that the model knows no system message."""
    return bool(_NO_SYSTEM.search(reason))


def asked_wait(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date; else 0."""
    after = headers.get("retry-after", "")
    for read_one in (
        lambda: float(headers["retry-after-ms"]) / 1000,
        lambda: float(after),
        lambda: parsedate_to_datetime(after).timestamp() - time(),
    ):
        try:
            return max(0.0, read_one())  # in this order nan is 0
        except (KeyError, TypeError, ValueError):
            continue
    return 0.0


def after_thinking(text: str) -> str | None:
    """The text behind the last end of thinking; None where the thinking has no end."""
    for start, end in _THINKING:
        _, ended, rest = text.rpartition(end)
        if ended:
            return rest
        if start in text:
            return None
    return text


def find_json(text: str, cut: bool = False) -> str:
    """The JSON in an answer without what a model puts around it (thoughts, a fence, prose); of several the longest.

    ValueError if there is none. In a text that is `cut` off, nothing is looked for inside it.
    """
    text = (after_thinking(text) or "").strip()
    try:
        json.loads(text)
        return text
    except (ValueError, RecursionError) as error:
        fault = error
    if cut:
        raise ValueError(f"the answer is not JSON ({fault}); it was cut off at the token limit")
    candidates, at = [], 0
    for _ in range(MOST_STARTS):
        if not (start := re.compile(r"[{\[]").search(text, at)):
            break
        at = _end(text, start.start())
        candidates.append(text[start.start() : at])
    longest = max(candidates, key=len, default="")
    if len(longest) < 2 or not longest.startswith(("{", "[")) or _end(longest, 0) != len(longest):
        raise ValueError(f"the answer is not JSON ({fault})")
    return longest


def _end(text: str, start: int) -> int:
    """Where the JSON value that begins at `start` ends; one further if none does."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return start + 1
