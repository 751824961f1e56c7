"""Tool lists of any provider: OpenAI's, Anthropic's, Bedrock's, Gemini's, and an MCP server's answer to tools/list."""

import re
from collections.abc import Iterator
from typing import Any

from proactor_lib.catalog import references
from proactor_lib.catalog.json_schema import FORMATS, TYPES, Notes, Reader, object_schema, places, sanitise_name
from proactor_lib.catalog.references import Malformed
from proactor_lib.schema import Action, Catalog, Parameter

LISTS = ("tools", "functions", "functionDeclarations", "function_declarations")  # what holds tools
SCHEMAS = ("parameters", "input_schema", "inputSchema", "parametersJsonSchema", "parameters_json_schema")
SERVERS = ("mcpServers", "servers", "context_servers")  # of an MCP client's configuration
FUNCTIONS = ("function", "custom", None)  # types of a tool that the assistant's own side runs
_OPENAI_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
HINTS = ("destructiveHint", "idempotentHint", "openWorldHint")


def read(document: Any, notes: Notes) -> tuple[Action, ...]:
    """The tools of a list in any provider's form, alone or in the envelope of a request or an answer.

    An MCP server's `readOnlyHint` gives the effect; the other forms do not say it. Raises Malformed, naming the form or
    the tool, for what is no list of tools.
    """
    actions, silent = [], False
    for number, tool in enumerate(_tools(document, notes), start=1):
        name = tool.get("name")
        if not isinstance(name, str) or not name.strip():
            raise Malformed(f"tool number {number} has no name; it has the keys: {', '.join(tool) or 'none'}")
        if tool.get("type") not in FUNCTIONS:
            notes.add("tools that are no functions were left out", name)
            continue
        silent |= "inputSchema" not in tool
        actions.append(_action(tool, name, notes))
    notes.add("this format does not say what only reads: every action is a write", when=silent)
    return tuple(actions)


def _tools(document: Any, notes: Notes) -> Iterator[dict]:
    """Each tool as an object with its name, description and schema, whatever is around it."""
    if isinstance(document, list):
        for item in document:
            yield from _tools(item, notes)
        return
    if not isinstance(document, dict):
        raise Malformed(f"a tool must be an object, got {document!r}")
    if servers := next((key for key in SERVERS if isinstance(document.get(key), dict)), None):
        raise Malformed(
            f"this is an MCP client's configuration ({servers}: {', '.join(document[servers])}): it names servers, not"
            " their tools; save a server's answer to tools/list and import that"
        )
    notes.add("the list goes on at another page (nextCursor)", when=document.get("nextCursor"))
    for key in ("result", "toolConfig", "tool_config", "toolSpec"):
        if isinstance(document.get(key), dict):
            yield from _tools(document[key], notes)
            return
    if lists := [document[key] for key in LISTS if isinstance(document.get(key), list)]:
        for items in lists:
            yield from _tools(items, notes)
    elif isinstance(document.get("function"), dict):
        yield document["function"] | {"type": document.get("type", "function")}
    elif "name" in document or "type" in document:
        kind = document.get("type")
        yield document if kind in FUNCTIONS else {"name": kind, **document}
    else:
        raise Malformed(
            f"there is no list of tools at its keys ({', '.join(document) or 'none'}); accepted: a list, or an object "
            f"with {', '.join(LISTS)}"
        )


def _action(tool: dict, name: str, notes: Notes) -> Action:
    hints = tool.get("annotations") or {}
    for hint in HINTS:
        notes.add(f"{hint!r} has no place in a catalog", name, hint in hints)
    for key in ("strict", "outputSchema"):
        notes.add(f"{key!r} has no place in a catalog", name, tool.get(key))
    clean = sanitise_name(name, notes)
    params: dict[str, Parameter] = {}
    for p in Reader(notes).parameters([references.root(_schema(tool, name))], clean):
        notes.add("a second parameter of one name was left out", f"{clean}.{p.name}", p.name in params)
        params.setdefault(p.name, p)
    return Action(
        name=clean,
        description=" ".join(str(tool.get("description") or tool.get("title") or "").split()),
        effect="read" if hints.get("readOnlyHint") else "write",
        params=tuple(params.values()),
    )


def _schema(tool: dict, name: str) -> dict:
    """The schema of a tool's parameters; empty where it has none. Malformed where it stands at an unknown key."""
    given = next((tool[key] for key in SCHEMAS if tool.get(key) is not None), None)
    if given is None:
        if odd := [key for key, value in tool.items() if isinstance(value, dict) and {"properties", "type"} & {*value}]:
            raise Malformed(f"tool {name!r} has a schema at {odd[0]!r}; accepted: {', '.join(SCHEMAS)}")
        return {}
    given = given.get("json", given) if isinstance(given, dict) else given  # Bedrock's
    if given == []:  # an empty object, as PHP writes it
        return {}
    if not isinstance(given, dict):
        raise Malformed(f"tool {name!r}: its schema must be an object, got {given!r}")
    return given


def to_openai(catalog: Catalog, notes: Notes) -> list[dict]:
    """The catalog as a `tools` list for chat completions."""
    _note_losses(catalog, notes)
    for a in catalog.actions:
        notes.add("which actions only read is lost", a.name, a.effect == "read")
        refused = not _OPENAI_NAME.fullmatch(a.name)
        notes.add("names that OpenAI refuses (1 to 64 letters, digits, _ and - are accepted)", a.name, refused)
    return [
        {"type": "function", "function": {"name": a.name, **_described(a), "parameters": object_schema(a)}}
        for a in catalog.actions
    ]


def to_mcp(catalog: Catalog, notes: Notes) -> dict:
    """The catalog as an MCP server's answer to tools/list."""
    _note_losses(catalog, notes)
    return {
        "tools": [
            {
                "name": a.name,
                **_described(a),
                "inputSchema": object_schema(a),
                "annotations": {"readOnlyHint": a.effect == "read"},
            }
            for a in catalog.actions
        ]
    }


def _described(action: Action) -> dict:
    return {"description": action.description} if action.description else {}


def _note_losses(catalog: Catalog, notes: Notes) -> None:
    notes.add("the domain and version are lost", f"{catalog.domain} {catalog.version}")
    for a in catalog.actions:
        paths = places(a)
        notes.add("preconditions are lost", a.name, a.preconditions)
        notes.add("groups are lost", a.name, a.group)
        for p in a.params:
            place = f"{a.name}.{p.name}"
            apart = "." in p.name and not p.path and len(paths[p.name]) == 1
            notes.add("a part of what is a parameter itself stands beside it", place, apart)
            notes.add("where a value comes from is lost", place, p.source != "user")
            notes.add("types that JSON does not have became text", place, p.type not in TYPES | FORMATS)
