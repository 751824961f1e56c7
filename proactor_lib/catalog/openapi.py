"""The operations of an OpenAPI 3 or Swagger 2.0 document as actions; files beside it are followed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proactor_lib.catalog import references
from proactor_lib.catalog.json_schema import Notes, Reader, sanitise_name
from proactor_lib.catalog.references import Malformed, Part
from proactor_lib.errors import UserError
from proactor_lib.schema import Action, Parameter

METHODS = ("get", "put", "post", "delete", "patch", "head", "options", "trace")
READING = ("get", "head", "options", "trace")
ELSEWHERE = ("header", "cookie")
Entries = dict[str, Part]  # an object's keys, each with where its value stands


def read(document: Any, notes: Notes, source: Path | str = "the document") -> tuple[tuple[Action, ...], str, str]:
    """The operations, the document's title and its version. UserError where it is neither OpenAPI 3 nor Swagger 2.0."""
    version = document.get("openapi") or document.get("swagger") if isinstance(document, dict) else None
    if not str(version).startswith(("3", "2")):
        raise UserError(
            f"{source} is not an OpenAPI document: its version is {version!r}, accepted: openapi 3.x, swagger 2.0"
        )
    operations = _Operations(document, notes, Path(source) if isinstance(source, Path) else None)
    info = document.get("info") or {}
    notes.add("security schemes have no place in a catalog", when=document.get("security"))
    notes.add("webhooks were left out: nobody can call them", when=document.get("webhooks"))
    return tuple(operations.actions()), str(info.get("title") or ""), str(info.get("version") or "1")


class _Operations:
    def __init__(self, document: dict, notes: Notes, path: Path | None):
        self.notes, self.reader = notes, Reader(notes)
        whole = references.root(document, path)
        self.paths = self.entries(Part(document.get("paths") or {}, whole.scope), "paths")
        self.names: set[str] = set()

    def entries(self, part: Part, place: str) -> Entries:
        """An object's keys that are not null, with what its `$ref` leads to; its own keys go before those."""
        found: Entries = {}
        if part.value is not None and not isinstance(part.value, dict):
            raise Malformed(f"{place} must be an object, got {part.value!r}")
        for said in self.reader.followed(part, place) if part.value else ():
            found |= {k: Part(v, said.scope) for k, v in said.value.items() if v is not None}
        return found

    def items(self, part: Part | None, place: str) -> list[Part]:
        """A list's items, each where the list stands."""
        if part is None:
            return []
        if not isinstance(part.value, list):
            raise Malformed(f"{place} must be a list, got {part.value!r}")
        return [Part(item, part.scope) for item in part.value]

    def actions(self) -> Iterator[Action]:
        for path, part in self.paths.items():
            if path.startswith("x-"):  # an extension
                continue
            item = self.entries(part, path)
            shared = self.items(item.get("parameters"), f"{path}: parameters")
            for method in METHODS:
                if method in item:
                    yield self._action(path, method, self.entries(item[method], f"{method} {path}"), shared)

    def _action(self, path: str, method: str, operation: Entries, shared: list[Part]) -> Action:
        given = str(_value(operation, "operationId") or "").strip()
        name = self._unique(sanitise_name(given or _synthetic_name(method, path), self.notes))
        self.notes.add("operations without an operationId were named after their path", name, not given)
        self.notes.add("deprecated operations", name, _value(operation, "deprecated"))
        said = _value(operation, "summary") or _value(operation, "description") or ""
        return Action(
            name=name,
            description=" ".join(str(said).split()),
            group=str(next(iter(_value(operation, "tags") or ()), "")),
            effect="read" if method in READING else "write",
            params=tuple(self._parameters(name, operation, shared)),
        )

    def _unique(self, name: str) -> str:
        """The name, with a number where an operation before it has the same."""
        number, free = 1, name
        while free in self.names:
            number += 1
            free = f"{name}_{number}"
        self.notes.add("a second operation of one name got a number", free, free != name)
        self.names.add(free)
        return free

    def _parameters(self, name: str, operation: Entries, shared: list[Part]) -> Iterator[Parameter]:
        """Of the path and the query, then of the body; an operation's own go before those that its path shares."""
        parts = [*shared, *self.items(operation.get("parameters"), f"{name}: parameters")]
        given = [self.entries(p, f"{name}: a parameter") for p in parts]
        found: dict[str, Parameter] = {}
        bodies: list[Iterator[Parameter]] = []
        for p in {(_value(p, "name"), _value(p, "in")): p for p in given if p}.values():
            place = _value(p, "in")
            if place == "body":
                bodies.append(self._schema_of_body(name, p.get("schema"), bool(_value(p, "required"))))
            elif place in ELSEWHERE:
                self.notes.add("parameters in headers and cookies were left out", f"{name}.{_value(p, 'name')}")
            elif not isinstance(_value(p, "name"), str):
                raise Malformed(f"{name}: a parameter has no name; its keys: {', '.join(p)}")
            else:
                for q in self._parameter(name, p):
                    self.notes.add("of parameters of one name the last is kept", f"{name}.{q.name}", q.name in found)
                    found[q.name] = q
        for body in [*bodies, self._body(name, operation.get("requestBody"))]:
            for q in body:
                taken = q.name in found
                self.notes.add("a body's property has the name of another parameter", f"{name}.{q.name}", taken)
                found.setdefault(q.name, q)
        yield from found.values()

    def _parameter(self, name: str, p: Entries) -> Iterator[Parameter]:
        """A parameter in its own schema, its content's, or (Swagger 2.0) described by its own keys."""
        content = self._first_content(name, p.get("content"))
        schema = p.get("schema") or content.get("schema")
        own = {k: part.value for k, part in p.items() if k not in ("name", "in", "required", "schema", "content")}
        parts = [schema, Part({"description": own.get("description")}, schema.scope)] if schema else []
        parts = parts or [Part(own, p["name"].scope)]
        return self.reader.parameter((p["name"].value,), parts, bool(_value(p, "required")), name)

    def _first_content(self, name: str, content: Part | None) -> Entries:
        """The media type that is read: JSON, where there is one."""
        kinds = self.entries(content, f"{name}: content") if content else {}
        kind = next((k for k in kinds if "json" in k), next(iter(kinds), None))
        self.notes.add("of several media types one is kept", f"{name} ({kind})", len(kinds) > 1)
        return self.entries(kinds[kind], f"{name}: {kind}") if kind else {}

    def _body(self, name: str, body: Part | None) -> Iterator[Parameter]:
        if body is not None:
            said = self.entries(body, f"{name}: requestBody")
            content = self._first_content(name, said.get("content"))
            yield from self._schema_of_body(name, content.get("schema"), bool(_value(said, "required")))

    def _schema_of_body(self, name: str, schema: Part | None, required: bool) -> Iterator[Parameter]:
        if schema is None:
            return
        if self.reader.merged([schema], name).properties:
            yield from self.reader.parameters([schema], name)
        else:
            yield from self.reader.parameter(("body",), [schema], required, name)


def _value(entries: Entries, key: str) -> Any:
    return entries[key].value if key in entries else None


def _synthetic_name(method: str, path: str) -> str:
    return "_".join([method, *re.findall(r"[\w-]+", path)])
