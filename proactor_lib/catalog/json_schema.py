"""JSON Schema objects as parameters, and back."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from proactor_lib.catalog.references import Circle, Malformed, Nowhere, Part, followed
from proactor_lib.schema import Action, Parameter

DEEPEST = 6  # objects within objects that are flattened
MANY = 1000  # schemas read at one place, from which each is read once there, not once per way that leads to it
STRUCTURE = ("properties", "required", "allOf", "anyOf", "oneOf", "$ref")
FORMS = {
    "properties": (dict,), "required": (list, bool), "enum": (list,), "allOf": (list,), "anyOf": (list,),
    "oneOf": (list,), "type": (str, list), "format": (str,),
}  # fmt: skip
NAMES = {dict: "an object", list: "a list", bool: "true or false", str: "text"}

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


def clean(name: str) -> str:
    """The name as an agent can write it: `_` for white space, `|` and `=`, and for no name at all."""
    return re.sub(r"[\s|=]+", "_", name.strip()) or "_"


def sanitise_name(name: str, notes: Notes) -> str:
    """`clean`, with a note where that is another name."""
    notes.add("renamed, for an agent could not write it", f"{name} to {clean(name)}", clean(name) != name)
    return clean(name)


def flat_name(path: tuple[str, ...]) -> str:
    """The parameter's name of what these keys lead to: `object.property`."""
    return ".".join(map(clean, path))


def own_path(path: tuple[str, ...]) -> tuple[str, ...]:
    """A parameter's `path`: the keys where its name does not say them, for they have dots or could not be written."""
    return () if path == tuple(flat_name(path).split(".")) else path


@dataclass
class Schema:
    """One schema, its references, `allOf` and alternatives taken out."""

    keywords: dict[str, Any] = field(default_factory=dict)  # all but the following two
    properties: dict[str, list[Part]] = field(default_factory=dict)  # by name, what all parts say of it
    required: set[str] = field(default_factory=set)

    def take_in(self, other: "Schema") -> None:
        """With what a later part says, which goes before what is known; of two lists of values what both allow."""
        before = self.keywords.get("enum")
        self.keywords |= other.keywords
        if before is not None and "enum" in other.keywords:
            self.keywords["enum"] = [v for v in before if v in other.keywords["enum"]]
        for name, parts in other.properties.items():
            self.properties[name] = [*self.properties.get(name, ()), *parts]
        self.required |= other.required


Read = dict[tuple[int, frozenset[int]], Schema]  # by the id of a schema's value, and what was referred to on the way


class Reader:
    """Reads parameters from schemas, whose `$ref`s it follows."""

    def __init__(self, notes: Notes):
        self.notes = notes

    def parameters(self, parts: list[Part], place: str, above: tuple[str, ...] = ()) -> Iterator[Parameter]:
        """One parameter for each property; those of an object in it as `object.property`. `above`: objects around."""
        schema = self.merged(parts, place)
        for name, below in schema.properties.items():
            yield from self.parameter((*above, str(name)), below, name in schema.required, place)
        extra = schema.keywords.get("additionalProperties") or schema.keywords.get("patternProperties")
        self.notes.add("properties of any name have no place in a catalog", place, extra)

    def parameter(self, path: tuple[str, ...], parts: list[Part], required: bool, place: str) -> Iterator[Parameter]:
        """The parameter that all of `parts` describe, or those of the object that it is. `path`: the keys to it."""
        here = f"{place}.{'.'.join(path)}"
        schema = self.merged(parts, here)
        keywords = schema.keywords
        if keywords.get("readOnly"):
            return
        if "required" in keywords:  # true or false: how JSON Schema said it until 2010
            self.notes.add("'required' inside a property is taken as that property's own", here)
            required = required or keywords["required"]
        if schema.properties and len(path) <= DEEPEST:
            self.notes.add("objects were flattened", here)
            inner = self.parameters(parts, place, path)
            yield from (p if required else p.model_copy(update={"required": False}) for p in inner)
            return
        self.notes.add(f"what stands in {DEEPEST} objects is cut there", here, schema.properties)
        for keyword in NARROWING:
            self.notes.add(f"{keyword!r} has no place in a catalog", here, keyword in keywords)
        name, written = flat_name(path), ".".join(path)
        renamed = f"{written or 'a property without a name'} to {name}"
        self.notes.add("renamed, for an agent could not write it", renamed, name != written)
        yield Parameter(
            name=name,
            path=own_path(path),
            type=self._type(keywords, here),
            description=" ".join(str(keywords.get("description") or keywords.get("title") or "").split()),
            required=required,
            values=self._values(keywords, here),
            keys=tuple(schema.properties) or self._item_keys(keywords, here),
        )

    def _item_keys(self, keywords: dict, place: str) -> tuple[str, ...]:
        """The keys of the objects in a list; what else narrows its items is noted."""
        if not isinstance(items := keywords.get("items"), Part):
            return ()
        schema = self.merged([items], f"{place}[]")
        for keyword in ("enum", "const", *NARROWING):
            self.notes.add(f"{keyword!r} has no place in a catalog", f"{place}[]", keyword in schema.keywords)
        return tuple(schema.properties)

    def _type(self, keywords: dict, place: str) -> str:
        named = keywords.get("type")
        if isinstance(named, list):
            kinds = [t for t in named if t != "null"]
            self.notes.add("of several types the first is kept", place, len(kinds) > 1)
            named = kinds[0] if kinds else "string"
        named = (named or "string").lower()  # Gemini's are in capitals
        self.notes.add("a list is one value in a catalog, whatever its items are", place, named == "array")
        if named == "string" and keywords.get("format") in FORMATS:
            return keywords["format"]
        return named

    def _values(self, keywords: dict, place: str) -> tuple[str, ...]:
        values = [keywords["const"]] if "const" in keywords else keywords.get("enum", [])
        kept = [v for v in values if isinstance(v, str | int | float | bool)]
        self.notes.add("allowed values that are no scalars", place, any(v is not None for v in values if v not in kept))
        return tuple(kept)

    def merged(self, parts: Iterable[Part], place: str, read: Read | None = None) -> Schema:
        """What all of `parts` say together; a later one goes before an earlier one. `read`: at this place so far."""
        schema, read = Schema(), {} if read is None else read
        for part in parts:
            if not isinstance(part.value, dict):  # `true`: anything
                continue
            key = id(part.value), frozenset(part.scope.above if len(read) < MANY else ())
            if key not in read:
                whole = Schema()
                for said in self.followed(part, place):
                    whole.take_in(self._own(said, place, read))
                read[key] = whole
            schema.take_in(read[key])
        return schema

    def followed(self, part: Part, place: str) -> Iterator[Part]:
        """What the part's reference leads to, itself followed, then its own keys; what cannot be followed is noted."""
        try:
            *targets, own = followed(part)
        except Circle:
            self.notes.add("an object that holds itself is cut there", place)
            targets, own = [], Part({"type": "object"}, part.scope)
        except Nowhere as nowhere:
            self.notes.add("references that lead nowhere in this file", f"{place} ({nowhere})")
            targets, own = [], Part({k: v for k, v in part.value.items() if k != "$ref"}, part.scope)
        for target in targets:
            if isinstance(target.value, dict):
                yield from self.followed(target, place)
        yield own

    def _own(self, part: Part, place: str, read: Read) -> Schema:
        """What a schema says itself, without its `$ref`."""
        value, scope = checked(part.value, place), part.scope
        above = self.merged([Part(p, scope) for p in value.get("allOf", ())], place, read)
        options = [Part(o, scope) for o in value.get("anyOf") or value.get("oneOf") or ()]
        above.take_in(self._chosen(options, place, read))
        own = {k: v for k, v in value.items() if k not in STRUCTURE}
        if "items" in value:
            own["items"] = Part(value["items"], scope)
        if isinstance(value.get("required"), bool):
            own["required"] = value["required"]
        required = value.get("required", ())
        above.take_in(Schema(
            keywords=own,
            properties={name: [Part(below, scope)] for name, below in value.get("properties", {}).items()},
            required=set() if isinstance(required, bool) else set(required),
        ))  # fmt: skip
        return above

    def _chosen(self, options: list[Part], place: str, read: Read) -> Schema:
        """The alternative that is not null; of several the first, with a note, unless all of them are values.

        Required is what all of them require.
        """
        said = [self.merged([option], place, read) for option in options]
        said = [s for s in said if s.keywords.get("type") != "null"]
        values = [s.keywords.get("enum") or ([s.keywords["const"]] if "const" in s.keywords else None) for s in said]
        if len(said) > 1 and all(values):
            shared = {k: v for k, v in said[0].keywords.items() if k != "const"}
            return Schema({**shared, "enum": [v for some in values for v in some]})
        self.notes.add("of several alternatives the first is kept", place, len(said) > 1)
        if not said:
            return Schema()
        required = set.intersection(*(s.required for s in said))
        return Schema(said[0].keywords, said[0].properties, required)


def checked(schema: dict, place: str) -> dict:
    """The schema without what is null; Malformed, with the place and the key, where a keyword has no usable form."""
    value = {k: v for k, v in schema.items() if v is not None}
    if value.get("properties") == []:  # an empty object, as PHP writes it
        value["properties"] = {}
    for key, wanted in FORMS.items():
        if key in value and not isinstance(value[key], wanted):
            accepted = " or ".join(NAMES[kind] for kind in wanted)
            raise Malformed(f"{place}: {key!r} must be {accepted}, got {value[key]!r}")
    return value


def places(action: Action, others: Iterable[str] = ()) -> dict[str, tuple[str, ...]]:
    """The keys that lead to each parameter in a call, of `others` too, which the action does not know.

    What would be a part of another one's value (`a.b` beside `a`) is none: its name is its key.
    """
    found = {name: tuple(name.split(".")) for name in others}
    found |= {p.name: p.path or tuple(p.name.split(".")) for p in action.params}
    values = set(found.values())
    while inside := [n for n, path in found.items() if any(path[:i] in values for i in range(1, len(path)))]:
        found |= {name: (name,) for name in inside}
        values = set(found.values())
    return found


def object_schema(action: Action) -> dict:
    """The action's parameters as one JSON Schema object; the inverse of `Reader.parameters`.

    An object that has a required part is required.
    """
    paths, whole = places(action), _object()
    for p in action.params:
        *above, last = paths[p.name]
        inner = whole
        for key in above:
            _require(inner, key, p.required)
            inner = inner["properties"].setdefault(key, _object())
        _require(inner, last, p.required)
        inner["properties"][last] = _property(p)
    return whole


def _object() -> dict:
    return {"type": "object", "properties": {}, "required": []}


def _require(schema: dict, key: str, required: bool) -> None:
    if required and key not in schema["required"]:
        schema["required"].append(key)


def _property(p: Parameter) -> dict:
    kind = (
        {"type": "string", "format": p.type} if p.type in FORMATS else {"type": p.type if p.type in TYPES else "string"}
    )
    described = {"description": p.description} if p.description else {}
    inner = {"type": "object", "properties": {key: {"type": "string"} for key in p.keys}} if p.keys else {}
    if p.type == "array":  # endpoints refuse a list that says nothing of its items
        kind["items"] = inner
    elif p.type == "object":
        kind |= inner
    return {**kind, **described, **({"enum": [typed(v, p.type) for v in p.values]} if p.values else {})}


def arguments(action: Action, values: Mapping[str, str]) -> dict[str, Any]:
    """A call's arguments as its tool wants them: values of their parameters' types, those of an object in it again."""
    paths, types = places(action, values), {p.name: p.type for p in action.params}
    whole: dict[str, Any] = {}
    for name, value in values.items():
        *above, last = paths[name]
        inner = whole
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = typed(value, types.get(name, "string"))
    return whole


def typed(value: str, kind: str) -> Any:
    """A value's text as JSON of its parameter's type; as text where it cannot be."""
    if kind not in ("integer", "number", "boolean", "array", "object"):
        return value
    try:
        return json.loads(value if kind in ("array", "object") else value.lower())
    except ValueError:
        return value
