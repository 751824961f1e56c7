"""What a request asks for: OpenAI's chat completions, and turns of a growing transcript."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proactor_lib.catalog.json_schema import clean
from proactor_lib.datasets import chat
from proactor_lib.datasets.conversations import Call, Notes, Spoken
from proactor_lib.datasets.inferred import flat
from proactor_lib.files import first_error
from proactor_lib.metrics.alignment import PredictionKey, prediction_key
from proactor_lib.schema import Catalog, Count, PredictedAction, Turn
from proactor_lib.service.errors import ApiError

NAME = Field(min_length=1, max_length=200)


class Tools(BaseModel):
    """The part of a request that says what may be called. OpenAI's other fields are taken and mean nothing here."""

    model_config = ConfigDict(extra="allow")

    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto"] | None = None  # the agent alone decides what it calls, and when
    stream: bool | None = None

    def shown(self, catalog: Catalog) -> Catalog:
        """The catalog, or its actions among `tools`. ApiError (400) for a tool that it does not have."""
        wanted = tuple(_name(tool) for tool in self.tools or ())
        for name in wanted:
            if name not in catalog.by_name:
                some = ", ".join(catalog.by_name)[:300]
                raise ApiError(400, f"unknown tool {name!r}; the catalog has: {some}", "unknown_tool", "tools")
        return catalog.subset(wanted)


class ChatRequest(Tools):
    """POST /v1/chat/completions."""

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    n: Literal[1] | None = None
    metadata: dict[str, str] | None = None  # `conversation` names the conversation
    stream_options: dict[str, Any] | None = None

    def heard(self, catalog: Catalog) -> tuple[list[Turn], list[PredictionKey]]:
        """The turns, and which actions of `catalog` the messages say were called already.

        ApiError (400) for what is not a message.
        """
        turns, calls, notes = [], [], Notes()
        for number, message in enumerate(self.messages):
            try:
                for event in chat.events(message, "request", notes):
                    if isinstance(event, Spoken):
                        turns.append(Turn(speaker=str(message.get("name") or event.speaker), text=event.text))
                    elif isinstance(event, Call):
                        calls.append(_key(event, catalog))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ApiError(400, f"messages[{number}]: {error}", "invalid_message", "messages") from None
        if not turns:
            raise ApiError(400, "messages: nobody has said anything (user, assistant)", "no_turns", "messages")
        return turns, calls


class TurnsRequest(Tools):
    """POST /v1/proactor/turns: further turns of a conversation."""

    model_config = ConfigDict(extra="forbid")

    conversation: str = NAME
    turns: list[Turn] = Field(min_length=1)
    begin: Count | None = Field(None, alias="from")  # the place of the first of them, from 1; none: after the last


def read(model: type[BaseModel], body: bytes) -> Any:
    """The request. ApiError (400) names the key, the value, and what is accepted."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        raise ApiError(400, first_error(error), "invalid_request", str(where[0]) if where else None) from None


def _name(tool: Mapping[str, Any]) -> str:
    named = tool["function"] if isinstance(tool.get("function"), dict) else tool
    if not isinstance(named.get("name"), str):
        raise ApiError(400, f"tools: a tool without a name: {str(dict(tool))[:80]}", "invalid_tool", "tools")
    return named["name"]


def _key(call: Call, catalog: Catalog) -> PredictionKey:
    """The call in the catalog's words, as an import reads it: a part of an object is a parameter of its own."""
    name = clean(call.name)
    known = {p.name for p in catalog.by_name[name].params} if name in catalog.by_name else ()
    return prediction_key(PredictedAction(name=name, params=flat(call.arguments, known)))
