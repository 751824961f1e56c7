"""An OpenAPI 3 document's operations as actions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proactor_lib.catalog.json_schema import Notes, Reader, sanitise_name
from proactor_lib.errors import UserError
from proactor_lib.schema import Action, Parameter

METHODS = ("get", "put", "post", "delete", "patch", "head", "options", "trace")
READING = ("get", "head", "options", "trace")


def read(document: Any, notes: Notes, source: Path | str = "the document") -> tuple[tuple[Action, ...], str, str]:
    """The operations, the document's title and its version. UserError where it is not OpenAPI 3."""
    if not isinstance(document, dict) or not str(document.get("openapi", "")).startswith("3"):
        said = document.get("openapi") or document.get("swagger") if isinstance(document, dict) else None
        raise UserError(f"{source} is not an OpenAPI 3 document: its version is {said!r}, `openapi: 3.x` is read")
    operations = _Operations(document, notes)
    info = document.get("info", {})
    notes.add("security schemes have no place in a catalog", when=document.get("security"))
    return tuple(operations.actions()), info.get("title", ""), str(info.get("version", "1"))


class _Operations:
    def __init__(self, document: dict, notes: Notes):
        self.paths, self.notes, self.reader = document.get("paths") or {}, notes, Reader(document, notes)

    def actions(self) -> Iterator[Action]:
        for path, item in self.paths.items():
            item, _ = self.reader.resolved(item, path)
            for method in METHODS:
                if method in item:
                    yield self._action(path, method, item[method], item.get("parameters", ()))

    def _action(self, path: str, method: str, operation: dict, shared: list) -> Action:
        name = sanitise_name(operation.get("operationId") or _synthetic_name(method, path), self.notes)
        self.notes.add(
            "operations without an operationId were named after their path", name, "operationId" not in operation
        )
        self.notes.add("deprecated operations", name, operation.get("deprecated"))
        said = operation.get("summary") or operation.get("description") or ""
        return Action(
            name=name,
            description=" ".join(said.split()),
            group=next(iter(operation.get("tags", ())), ""),
            effect="read" if method in READING else "write",
            params=tuple(self._parameters(name, operation, shared)),
        )

    def _parameters(self, name: str, operation: dict, shared: list) -> Iterator[Parameter]:
        """Of the path and the query, then of the body; an operation's own go before those that its path shares."""
        given = [self.reader.resolved(p, name)[0] for p in [*shared, *operation.get("parameters", ())]]
        found: dict[str, Parameter] = {}
        for p in {(p.get("name"), p.get("in")): p for p in given}.values():
            if p.get("in") not in ("path", "query"):
                self.notes.add("parameters in headers and cookies were left out", f"{name}.{p.get('name')}")
                continue
            schema = {"description": p.get("description", ""), **self._schema(p)}
            found |= {q.name: q for q in self.reader.parameter(p["name"], schema, bool(p.get("required")), name)}
        for q in self._body(name, operation.get("requestBody")):
            self.notes.add("a body's property has the name of another parameter", f"{name}.{q.name}", q.name in found)
            found.setdefault(q.name, q)
        yield from found.values()

    def _schema(self, holder: dict) -> dict:
        content = next(iter((holder.get("content") or {}).values()), {})
        schema = holder.get("schema") or content.get("schema") or {}
        return self.reader.resolved(schema, "")[0]

    def _body(self, name: str, body: dict | None) -> Iterator[Parameter]:
        if body is None:
            return
        body, _ = self.reader.resolved(body, name)
        kinds = body.get("content") or {}
        kind = next((k for k in kinds if "json" in k), next(iter(kinds), None))
        self.notes.add("of several media types one is kept", f"{name} ({kind})", len(kinds) > 1)
        schema, above = self.reader.resolved((kinds.get(kind) or {}).get("schema") or {}, name)
        if schema.get("properties"):
            yield from self.reader.parameters(schema, name, above=above)
        elif schema:
            yield from self.reader.parameter("body", schema, bool(body.get("required")), name, above)


def _synthetic_name(method: str, path: str) -> str:
    parts = [part.strip("{}") for part in path.split("/") if part]
    return "_".join([method, *parts])
