"""JSON Schema objects as parameters, and back."""

import json
import re
from collections.abc import Iterator
from typing import Any

from proactor_lib.schema import Action, Parameter

FORMATS = {"date", "date-time", "time", "duration", "email", "uri", "uuid", "hostname", "ipv4", "ipv6"}
TYPES = {"string", "integer", "number", "boolean", "array", "object"}
# Keywords that narrow a value and that a parameter has no place for.
NARROWING = (
    *("default", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "examples"),
)


class Notes(list[str]):
    """Sentences on what was lost; those that say the same of several places are one."""

    def add(self, what: str, place: str = "", when: Any = True) -> None:
        """Note `what` of `place`, if `when` holds."""
        if not when:
            return
        same = next((i for i, note in enumerate(self) if note == what or note.startswith(f"{what}: ")), None)
        if same is None:
            self.append(f"{what}: {place}" if place else what)
        elif place and place not in self[same].removeprefix(f"{what}: ").split(", "):
            self[same] += f", {place}"


def sanitise_name(name: str, notes: Notes) -> str:
    """The name without what the agent's output format gives a meaning: white space, `|` and `=`."""
    clean = re.sub(r"[\s|=]+", "_", name.strip())
    notes.add("renamed, for an agent could not write it", f"{name} to {clean}", clean != name)
    return clean


class Reader:
    """Reads parameters from schemas of one document, whose `$ref`s it follows."""

    def __init__(self, root: Any, notes: Notes):
        self.root, self.notes = root, notes

    def parameters(self, schema: dict, place: str, prefix: str = "", above: tuple = ()) -> Iterator[Parameter]:
        """One parameter for each property; those of an object in it as `object.property`."""
        schema, above = self.resolved(schema, place, above)
        required = schema.get("required", ())
        for name, below in schema.get("properties", {}).items():
            yield from self.parameter(f"{prefix}{name}", below, name in required, place, above)
        extra = schema.get("additionalProperties") or schema.get("patternProperties")
        self.notes.add("properties of any name have no place in a catalog", place, extra)

    def parameter(self, name: str, schema: dict, required: bool, place: str, above: tuple = ()) -> Iterator[Parameter]:
        """The parameter, or those of the object that it is. `above`: the references followed so far."""
        schema, above = self.resolved(schema, f"{place}.{name}", above)
        if schema.get("readOnly"):
            return
        if schema.get("properties"):
            self.notes.add("objects were flattened", f"{place}.{name}")
            inner = self.parameters(schema, place, f"{name}.", above)
            yield from (p if required else p.model_copy(update={"required": False}) for p in inner)
            return
        for keyword in NARROWING:
            self.notes.add(f"{keyword!r} has no place in a catalog", f"{place}.{name}", keyword in schema)
        yield Parameter(
            name=sanitise_name(name, self.notes),
            type=self._type(schema, f"{place}.{name}"),
            description=" ".join((schema.get("description") or schema.get("title") or "").split()),
            required=required,
            values=self._values(schema, f"{place}.{name}"),
        )

    def _type(self, schema: dict, place: str) -> str:
        named = schema.get("type")
        if named == "array":
            self.notes.add("a list is one text value in a catalog", place)
        if named == "string" and schema.get("format") in FORMATS:
            return schema["format"]
        return named or "string"

    def _values(self, schema: dict, place: str) -> tuple[str, ...]:
        values = [schema["const"]] if "const" in schema else schema.get("enum", [])
        kept = [v for v in values if isinstance(v, str | int | float | bool)]
        self.notes.add("allowed values that are no scalars", place, any(v is not None for v in values if v not in kept))
        return tuple(kept)

    def resolved(self, schema: Any, place: str, above: tuple = ()) -> tuple[dict, tuple]:
        """The schema with references, `allOf` and alternatives taken out, and the references followed so far."""
        if not isinstance(schema, dict):  # `true`: anything
            return {}, above
        if (ref := schema.get("$ref")) is not None:
            if ref in above:
                self.notes.add("an object that holds itself is cut there", place)
                return {"type": "object"}, above
            found, above = self.resolved(self._at(ref, place), place, (*above, ref))
            return {**found, **{k: v for k, v in schema.items() if k != "$ref"}}, above
        for part in schema.get("allOf", ()):
            more, above = self.resolved(part, place, above)
            schema = _joined(schema, more)
        return self._chosen(schema, place, above)

    def _chosen(self, schema: dict, place: str, above: tuple) -> tuple[dict, tuple]:
        """The first alternative that is not null; several are noted."""
        if isinstance(schema.get("type"), list):
            kinds = [t for t in schema["type"] if t != "null"]
            self.notes.add("of several types the first is kept", place, len(kinds) > 1)
            schema = {**schema, "type": kinds[0] if kinds else "string"}
        options = [o for o in schema.get("anyOf") or schema.get("oneOf") or () if o.get("type") != "null"]
        if not options:
            return schema, above
        self.notes.add("of several alternatives the first is kept", place, len(options) > 1)
        chosen, above = self.resolved(options[0], place, above)
        return {**chosen, **{k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}}, above

    def _at(self, ref: str, place: str) -> Any:
        here = self.root
        try:
            if not ref.startswith("#"):
                raise KeyError(ref)
            for key in ref.removeprefix("#").strip("/").split("/") if ref != "#" else ():
                here = here[key.replace("~1", "/").replace("~0", "~")]
            return here
        except (KeyError, TypeError):
            self.notes.add("references that lead nowhere in this file", f"{place} ({ref})")
            return {}


def _joined(schema: dict, more: dict) -> dict:
    joined = {**more, **{k: v for k, v in schema.items() if k != "allOf"}}
    joined["properties"] = {**more.get("properties", {}), **schema.get("properties", {})}
    joined["required"] = [*more.get("required", ()), *schema.get("required", ())]
    return joined | ({"allOf": schema["allOf"]} if "allOf" in schema else {})


def object_schema(action: Action) -> dict:
    """The action's parameters as one JSON Schema object; the inverse of `Reader.parameters` for flat names."""
    return {
        "type": "object",
        "properties": {p.name: _property(p) for p in action.params},
        "required": list(action.required),
    }


def _property(p: Parameter) -> dict:
    kind = (
        {"type": "string", "format": p.type} if p.type in FORMATS else {"type": p.type if p.type in TYPES else "string"}
    )
    described = {"description": p.description} if p.description else {}
    return {**kind, **described, **({"enum": [_typed(v, p.type) for v in p.values]} if p.values else {})}


def _typed(value: str, kind: str) -> Any:
    if kind not in ("integer", "number", "boolean"):
        return value
    try:
        return json.loads(value.lower())
    except ValueError:
        return value
