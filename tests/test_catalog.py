"""Catalogs from other formats: what comes through, what is reported, and round trips."""

import json
from pathlib import Path

import pytest
from proactor_lib import catalog as catalogs
from proactor_lib.catalog.json_schema import arguments
from proactor_lib.datasets import homeloan
from proactor_lib.datasets.forms import read_catalog
from proactor_lib.errors import UserError
from proactor_lib.schema import Action, Catalog, Parameter

from support.shared import SHARED, needs_shared

GUEST = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "vip": {"type": "boolean"}}}
BOOKING = {
    "type": "function",
    "function": {
        "name": "book table",
        "description": "Book a\n table",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "day": {"type": "string", "format": "date", "description": "which day"},
                "seats": {"type": ["integer", "null"], "enum": [2, 4], "minimum": 1},
                "guest": {"$ref": "#/$defs/guest"},
                "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
            },
            "required": ["day", "guest"],
            "$defs": {"guest": GUEST},
        },
    },
}


def write(folder: Path, value, name: str = "tools.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(value))
    return path


def params(action: Action) -> dict[str, tuple]:
    return {p.name: (p.type, p.required, p.values) for p in action.params}


def test_openai_tools(tmp_path):
    found = catalogs.read(write(tmp_path, [BOOKING, {"type": "web_search"}]), "openai")
    (action,) = found.catalog.actions
    assert (found.catalog.domain, action.name, action.description) == ("tools", "book_table", "Book a table")
    notes = "\n".join(found.notes)
    for lost in ("book table to book_table", "'strict'", "'minimum'", "left out: web_search", "what only reads"):
        assert lost in notes, lost


def test_references_to_the_schema_itself_are_followed(tmp_path):
    (action,) = catalogs.read(write(tmp_path, [BOOKING]), "openai").catalog.actions
    assert params(action) == {
        "day": ("date", True, ()),
        "seats": ("integer", False, ("2", "4")),
        "guest.name": ("string", True, ()),
        "guest.vip": ("boolean", False, ()),
        "note": ("string", False, ()),
    }


def test_an_object_that_holds_itself_ends(tmp_path):
    tree = {"type": "object", "properties": {"label": {"type": "string"}, "child": {"$ref": "#/$defs/tree"}}}
    tool = {"name": "plant", "inputSchema": {**tree, "$defs": {"tree": tree}}, "annotations": {"readOnlyHint": True}}
    found = catalogs.read(
        write(tmp_path, {"jsonrpc": "2.0", "id": 1, "result": {"tools": [tool], "nextCursor": "x"}}), "mcp"
    )
    (action,) = found.catalog.actions
    assert action.effect == "read" and "label" in params(action) and "child.label" in params(action)
    assert any("holds itself" in n for n in found.notes) and any("nextCursor" in n for n in found.notes)


OPENAPI = """
openapi: 3.1.0
info: {title: Clinic, version: "2"}
paths:
  /visits/{id}:
    parameters:
      - {name: id, in: path, required: true, schema: {type: integer}}
    get:
      operationId: getVisit
      summary: One visit
      tags: [visits]
      parameters:
        - {name: full, in: query, schema: {type: boolean}}
        - {name: X-Trace, in: header, schema: {type: string}}
    put:
      requestBody: {$ref: "#/components/requestBodies/Visit"}
components:
  requestBodies:
    Visit:
      required: true
      content:
        application/json:
          schema:
            allOf:
              - {type: object, required: [day], properties: {day: {type: string, format: date}}}
              - {type: object, properties: {id: {type: integer}, kind: {enum: [first, follow-up]}}}
"""


def test_openapi(tmp_path):
    path = tmp_path / "clinic.yaml"
    path.write_text(OPENAPI)
    found = catalogs.read(path, "openapi")
    get, put = found.catalog.actions
    assert (found.catalog.domain, found.catalog.version) == ("Clinic", "2")
    assert (get.name, get.effect, get.group, get.description) == ("getVisit", "read", "visits", "One visit")
    assert params(get) == {"id": ("integer", True, ()), "full": ("boolean", False, ())}
    assert (put.name, put.effect) == ("put_visits_id", "write")
    assert params(put) == {
        "id": ("integer", True, ()),
        "day": ("date", True, ()),
        "kind": ("string", False, ("first", "follow-up")),
    }
    notes = "\n".join(found.notes)
    for lost in ("getVisit.X-Trace", "without an operationId", "name of another parameter: put_visits_id.id"):
        assert lost in notes, lost


def flat() -> Catalog:
    """What the other formats can hold: no groups, preconditions, sources."""
    return Catalog(
        domain="tools",
        actions=(
            Action(
                name="look", description="Look it up", params=(Parameter(name="id", type="integer", required=True),)
            ),
            Action(
                name="send",
                params=(
                    Parameter(name="to", type="email", description="to whom", required=True),
                    Parameter(name="copies", type="integer", values=("1", "2")),
                    Parameter(name="urgent", type="boolean", values=("True", "False")),
                    Parameter(name="tone", values=("warm", "cold")),
                ),
            ),
        ),
    )


@pytest.mark.parametrize("form", catalogs.TARGETS)
def test_round_trip_of_what_the_form_can_hold(form, tmp_path):
    exported, notes = catalogs.export(flat(), form)
    assert catalogs.read(write(tmp_path, exported), form).catalog == flat()
    assert notes == ["the domain and version are lost: tools 1"]


def test_round_trip_says_what_is_lost(tmp_path):
    before = homeloan.catalog()
    exported, notes = catalogs.export(before, "mcp")
    after = catalogs.read(write(tmp_path, exported), "mcp", domain="homeloan").catalog
    bare = tuple(a.model_copy(update={"preconditions": ()}) for a in before.actions)
    assert after.actions == bare and after != before
    assert any(n == "preconditions are lost: pull_credit, lock_rate, book_closing" for n in notes)


def test_objects_are_flat_in_a_catalog_and_whole_again_outside(tmp_path):
    """Names with dots of their own, and those that no agent could write, go out as they came in."""
    guest = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name"],
    }
    properties = {"guest": guest, "page.limit": {"type": "integer"}, "first day": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["guest", "first day"]}
    (action,) = catalogs.read(write(tmp_path, [{"name": "book", "parameters": schema}]), "openai").catalog.actions
    assert [(p.name, p.path) for p in action.params] == [
        ("guest.name", ()), ("guest.age", ()), ("page.limit", ("page.limit",)), ("first_day", ("first day",)),
    ]  # fmt: skip
    (exported,), notes = catalogs.export(Catalog(domain="inn", actions=(action,)), "openai")
    assert exported["function"]["parameters"] == schema and notes == ["the domain and version are lost: inn 1"]
    values = {"guest.age": "41", "page.limit": "5", "first_day": "Friday", "guest.name": "Ann", "guest.vip": "yes"}
    assert arguments(action, values) == {
        "guest": {"age": 41, "name": "Ann", "vip": "yes"}, "page.limit": 5, "first day": "Friday",
    }  # fmt: skip


def test_a_part_of_what_is_a_parameter_itself_stays_beside_it():
    action = Action(
        name="f", params=tuple(Parameter(name=name, required=True) for name in ("a.b.c", "a", "g.h", "a.b"))
    )
    (exported,), notes = catalogs.export(Catalog(domain="d", actions=(action,)), "openai")
    schema = exported["function"]["parameters"]
    assert list(schema["properties"]) == schema["required"] == ["a.b.c", "a", "g", "a.b"]
    assert "a part of what is a parameter itself stands beside it: f.a.b.c, f.a.b" in notes
    assert arguments(action, {"a.b": "1", "g.h": "2"}) == {"a.b": "1", "g": {"h": "2"}}
    assert arguments(action, {"g": "1", "g.h": "2"}) == {"g": "1", "g.h": "2"}  # g is not the action's


def test_a_catalog_without_paths_is_the_same_as_before_there_were_any():
    plain, dotted = Parameter(name="a.b"), Parameter(name="a.b", path=("a.b",))
    assert "path" not in plain.model_dump() and dotted.model_dump(mode="json")["path"] == ["a.b"]
    assert Parameter.model_validate_json(dotted.model_dump_json()) == dotted


def test_names_that_openai_refuses_are_noted():
    names = ("Movies_2.FindMovies", "find-movies", "größe", "x" * 65, "x" * 64)
    catalog = Catalog(domain="d", actions=tuple(Action(name=name) for name in names))
    said = "names that OpenAI refuses (1 to 64 letters, digits, _ and - are accepted): Movies_2.FindMovies, größe, "
    assert said + "x" * 65 in catalogs.export(catalog, "openai")[1]
    assert not any("refuses" in note for note in catalogs.export(catalog, "mcp")[1])


@needs_shared
def test_sgd_survives_openai(tmp_path):
    before = read_catalog(SHARED / "data" / "sgd" / "dev" / "schema.json.gz", "sgd").catalog
    exported, _ = catalogs.export(before, "openai")
    after = catalogs.read(write(tmp_path, exported), "openai", domain="sgd").catalog
    assert [a.model_copy(update={"group": "", "effect": "write"}) for a in before.actions] == list(after.actions)
    assert len(before.actions) == 30


@needs_shared
def test_sgd_schema():
    found = read_catalog(SHARED / "data" / "sgd" / "dev" / "schema.json.gz", "sgd")
    action = found.catalog.by_name["Alarm_1.AddAlarm"]
    assert (action.effect, action.required, action.group) == ("write", ("new_alarm_time",), "Alarm_1")
    assert [p.name for p in action.params] == ["new_alarm_time", "new_alarm_name"]
    assert any("result slots" in n and "GetAlarms" in n for n in found.notes)


@needs_shared
def test_abcd_ontology_with_its_guidelines():
    found = read_catalog(SHARED / "data" / "abcd" / "ontology.json", "abcd")
    actions = found.catalog.by_name
    assert len(actions) == 30
    assert actions["validate-purchase"].required == ("username", "email", "order_id")
    assert actions["search-timing"].preconditions == ("search-faq",)
    assert actions["subscription-status"].preconditions == ("pull-up-account", "verify-identity")
    assert actions["pull-up-account"].description == "Get Full Name or Account ID for [Pull up Account]"
    assert actions["notify-team"].params[0].values == ("manager", "website team", "purchasing department")
    assert any("enter-details" in n for n in found.notes)


@pytest.mark.parametrize(
    "source, text, said",
    [
        ("graphql", "{}", "accepted: openapi, mcp, openai, anthropic, bedrock, gemini, sgd, abcd"),
        ("openai", "{", "is not JSON"),
        ("openai", "[]", "holds no tool"),
        ("mcp", '{"resources": []}', "no list of tools at its keys .resources"),
        ("openapi", '{"swagger": "1.2"}', "'1.2'"),
        ("sgd", "[{}]", "not an SGD schema"),
        ("openai", json.dumps([BOOKING, BOOKING]), "two actions share the name 'book_table'"),
    ],
)
def test_bad_files_are_named(source, text, said, tmp_path):
    path = tmp_path / "input.json"
    path.write_text(text)
    with pytest.raises(UserError, match="^(?s:.*)" + said.replace("[", r"\[")) as error:
        read_catalog(path, source)
    assert source == "graphql" or str(path) in str(error.value)
