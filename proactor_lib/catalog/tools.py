"""Tool lists: OpenAI's, and an MCP server's answer to tools/list."""

from typing import Any

from proactor_lib.catalog.json_schema import FORMATS, TYPES, Notes, Reader, object_schema, sanitise_name
from proactor_lib.schema import Action, Catalog


def from_openai(document: Any, notes: Notes) -> tuple[Action, ...]:
    """Functions of a `tools` list, in the nested form of chat completions or the flat one of responses."""
    listed = document["tools"] if isinstance(document, dict) else document
    actions = []
    for tool in listed:
        function = tool.get("function", tool)
        if tool.get("type", "function") != "function":
            notes.add("tools that are no functions were left out", tool.get("name", tool["type"]))
            continue
        notes.add("'strict' has no place in a catalog", function["name"], function.get("strict"))
        actions.append(_action(function, function.get("parameters"), notes, effect="write"))
    notes.add("this format does not say what only reads: every action is a write", when=actions)
    return tuple(actions)


def from_mcp(document: Any, notes: Notes) -> tuple[Action, ...]:
    """The tools of a tools/list answer, with or without its JSON-RPC envelope. `readOnlyHint` gives the effect."""
    listing = document.get("result", document) if isinstance(document, dict) else {"tools": document}
    actions = []
    for tool in listing["tools"]:
        hints = tool.get("annotations") or {}
        for hint in ("destructiveHint", "idempotentHint", "openWorldHint"):
            notes.add(f"{hint!r} has no place in a catalog", tool["name"], hint in hints)
        notes.add("'outputSchema' has no place in a catalog", tool["name"], tool.get("outputSchema"))
        effect = "read" if hints.get("readOnlyHint") else "write"
        actions.append(_action(tool, tool.get("inputSchema"), notes, effect))
    notes.add("the list goes on at another page (nextCursor)", when=listing.get("nextCursor"))
    return tuple(actions)


def _action(tool: dict, schema: dict | None, notes: Notes, effect: str) -> Action:
    name = sanitise_name(tool["name"], notes)
    return Action(
        name=name,
        description=" ".join((tool.get("description") or tool.get("title") or "").split()),
        effect=effect,
        params=tuple(Reader(schema or {}, notes).parameters(schema or {}, name)),
    )


def to_openai(catalog: Catalog, notes: Notes) -> list[dict]:
    """The catalog as a `tools` list for chat completions."""
    _note_losses(catalog, notes)
    for a in catalog.actions:
        notes.add("which actions only read is lost", a.name, a.effect == "read")
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
        notes.add("preconditions are lost", a.name, a.preconditions)
        notes.add("groups are lost", a.name, a.group)
        for p in a.params:
            place = f"{a.name}.{p.name}"
            notes.add("where a value comes from is lost", place, p.source != "user")
            notes.add("types that JSON does not have became text", place, p.type not in TYPES | FORMATS)
