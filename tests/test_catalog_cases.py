"""Tool lists and API descriptions as the public writes them: the cases of ../shared/docs/CASES.md, in our own words."""

import json

import pytest
import yaml
from proactor_lib import catalog as catalogs
from proactor_lib.errors import UserError

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
GEMINI = {
    "type": "OBJECT",
    "properties": {"city": {"type": "STRING"}, "days": {"type": "INTEGER"}},
    "required": ["city"],
}


def imported(folder, value, source="openai", name="tools.json"):
    """(action -> {parameter -> (type, required, values)}, the notes) of an import."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    found = catalogs.read(path, source)
    return {
        a.name: {p.name: (p.type, p.required, p.values) for p in a.params} for a in found.catalog.actions
    }, found.notes


@pytest.mark.parametrize(
    "tools",
    [
        [{"name": "forecast", "input_schema": CITY}],
        {"model": "m", "tools": [{"type": "custom", "name": "forecast", "input_schema": CITY}]},
        {"tools": [{"name": "forecast", "inputSchema": CITY}]},
        {"jsonrpc": "2.0", "result": {"tools": [{"name": "forecast", "inputSchema": CITY}]}},
        [{"type": "function", "function": {"name": "forecast", "parameters": CITY}}],
        [{"type": "function", "name": "forecast", "parameters": CITY, "description": None}],
        {"functions": [{"name": "forecast", "parameters": CITY}]},
        {"toolConfig": {"tools": [{"toolSpec": {"name": "forecast", "inputSchema": {"json": CITY}}}]}},
        {"tools": [{"functionDeclarations": [{"name": "forecast", "parameters": GEMINI}]}]},
        [{"function_declarations": [{"name": "forecast", "parameters": GEMINI}]}],
        {"name": "forecast", "input_schema": CITY},
    ],
    ids=["Anthropic", "a request of Anthropic's", "MCP", "MCP's envelope", "OpenAI", "responses", "functions", 
         "Bedrock", "Gemini", "Gemini in Python", "one tool"],
)  # fmt: skip
@pytest.mark.parametrize("source", ["openai", "mcp"])
def test_every_providers_form_is_read_whatever_it_is_called(tmp_path, tools, source):
    actions, _ = imported(tmp_path, tools, source)
    assert actions == {"forecast": {"city": ("string", True, ()), "days": ("integer", False, ())}}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"mcpServers": {"files": {"command": "x"}}}, "MCP client's configuration .mcpServers: files.*tools/list"),
        ({"functions": []}, "holds no tool"),
        ({"openapi": "3.0.0", "paths": {}}, "no list of tools at its keys .openapi, paths"),
        ([{"description": "nameless", "type": "function"}], "tool number 1"),
        ([{"name": "a", "args_schema": CITY}], "tool 'a' has a schema at 'args_schema'; accepted: parameters, "),
        ([{"name": "a", "parameters": ["x"]}], "tool 'a': its schema must be an object"),
        ([{"name": "a", "parameters": {"properties": 3}}], "a: 'properties' must be an object, got 3"),
        (
            [{"name": "a", "parameters": {"properties": {"b": {"enum": "x"}}}}],
            "a.b: 'enum' must be a list, got 'x'",
        ),
        ("text", "tool must be an object, got 'text'"),
    ],
)
def test_what_is_no_list_of_tools_is_named_by_form_tool_and_key(tmp_path, document, says):
    with pytest.raises(UserError, match=f"tools.json:? .*{says}"):
        imported(tmp_path, json.dumps(document))


def test_an_empty_list_in_place_of_an_empty_object_is_no_parameters(tmp_path):
    nested = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "opts": {"type": "object", "properties": []}},
    }
    tools = [{"name": "who", "inputSchema": {"properties": []}}, {"name": "plain", "inputSchema": []}]
    actions, _ = imported(tmp_path, {"tools": [*tools, {"name": "far", "inputSchema": nested}]}, "mcp")
    assert actions == {"who": {}, "plain": {}, "far": {"city": ("string", False, ()), "opts": ("object", False, ())}}


def test_required_inside_a_property_is_that_propertys_own_and_noted(tmp_path):
    to = {"type": "object", "required": True, "properties": {"zip": {"type": "string"}}}
    schema = {"properties": {"to": to, "note": {"type": "string", "required": True}, "by": {"required": False}}}
    actions, notes = imported(tmp_path, [{"name": "ship", "parameters": schema}])
    assert {k: required for k, (_, required, _) in actions["ship"].items()} == {
        "to.zip": False, "note": True, "by": False,
    }  # fmt: skip
    assert "'required' inside a property is taken as that property's own: ship.to, ship.note, ship.by" in notes


def test_references_from_the_root_and_a_title_that_is_a_number(tmp_path):
    point = {"type": "object", "title": 7, "properties": {"x": {"type": "number", "title": 3}}, "required": ["x"]}
    move = {
        "properties": {"from": point, "to": {"$ref": "#/properties/from"}, "via": {"$ref": "#/definitions/missing"}},
        "required": ["from", "to"],
    }
    wrapped = {
        "$ref": "#/$defs/Args",
        "$defs": {"Args": {"properties": {"q": {"$ref": "#/$defs/Q"}}, "required": ["q"]}, "Q": {"enum": ["a", "b"]}},
    }
    actions, notes = imported(
        tmp_path, [{"name": "move", "parameters": move}, {"name": "wrapped", "parameters": wrapped}]
    )
    assert actions["move"] == {
        "from.x": ("number", True, ()), "to.x": ("number", True, ()), "via": ("string", False, ()),
    }  # fmt: skip
    assert actions["wrapped"] == {"q": ("string", True, ("a", "b"))}
    assert any("lead nowhere" in n and "move.via" in n for n in notes)


def openapi(paths, **more):
    return {"openapi": "3.1.0", "info": {"title": "T", "version": 1}, "paths": paths, **more}


def post(schema):
    content = {"application/json": {"schema": schema}}
    return {"/x": {"post": {"operationId": "x", "requestBody": {"required": True, "content": content}}}}


def test_a_schema_that_is_used_twice_is_no_circle(tmp_path):
    person = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    manager = {"required": ["manager"], "properties": {"manager": {"$ref": "#/components/schemas/Person"}}}
    employee = {"allOf": [{"$ref": "#/components/schemas/Person"}, manager]}
    schemas = {"schemas": {"Person": person, "Employee": employee}}
    paths = post({"$ref": "#/components/schemas/Employee"})
    actions, notes = imported(tmp_path, openapi(paths, components=schemas), "openapi")
    assert actions == {"x": {"name": ("string", True, ()), "manager.name": ("string", True, ())}}
    assert not any("holds itself" in n for n in notes)


def test_a_circle_through_a_list_of_parts_ends(tmp_path):
    node = {
        "allOf": [{"properties": {"label": {"type": "string"}}}],
        "properties": {"next": {"$ref": "#/components/n"}},
    }
    actions, notes = imported(tmp_path, openapi(post({"$ref": "#/components/n"}), components={"n": node}), "openapi")
    assert actions["x"] == {"label": ("string", False, ()), "next": ("object", False, ())}
    assert any("holds itself" in n for n in notes)


def test_references_by_index_and_percent_encoded(tmp_path):
    """As PagerDuty's document has them."""
    own = {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}
    paths = {
        "/a/{id}": {"get": {"operationId": "a", "parameters": [own]}},
        "/b/{id}": {"get": {"operationId": "b", "parameters": [{"$ref": "#/paths/~1a~1%7Bid%7D/get/parameters/0"}]}},
    }  # fmt: skip
    actions, notes = imported(tmp_path, openapi(paths), "openapi")
    assert actions["b"] == actions["a"] == {"id": ("integer", True, ())} and not any("nowhere" in n for n in notes)


def test_parts_that_refine_one_property_are_merged(tmp_path):
    base = {"properties": {"type": {"type": "string", "enum": ["a", "b", "c"]}, "at": {"type": "string"}}}
    refined = {"properties": {"type": {"enum": ["b", "z"], "description": "which"}, "at": {"format": "date"}}}
    actions, _ = imported(tmp_path, openapi(post({"allOf": [base, refined], "required": ["type"]})), "openapi")
    assert actions["x"] == {"type": ("string", True, ("b",)), "at": ("date", False, ())}


def test_alternatives_that_are_all_values_are_values(tmp_path):
    kind = {"oneOf": [{"const": "a"}, {"enum": ["b", "c"]}, {"type": "null"}]}
    actions, notes = imported(tmp_path, openapi(post({"properties": {"kind": kind}})), "openapi")
    assert actions["x"] == {"kind": ("string", False, ("a", "b", "c"))}
    assert not any("alternatives" in n for n in notes)


def test_names_that_come_twice_get_a_number_and_a_note(tmp_path):
    paths = {path: {"get": {"operationId": "list"}} for path in ("/a", "/b", "/c")}
    paths |= {"/pets": {"get": {}}, "/pets/": {"get": {"operationId": ""}}, "/": {"get": {"operationId": None}}}
    actions, notes = imported(tmp_path, openapi(paths), "openapi")
    assert list(actions) == ["list", "list_2", "list_3", "get_pets", "get_pets_2", "get"]
    assert "a second operation of one name got a number: list_2, list_3, get_pets_2" in notes


def test_yaml_values_are_kept_as_they_are_written(tmp_path):
    text = """
openapi: 3.0.3
info: {title: Lamps, version: 1.0}
paths:
  /lamps:
    put:
      operationId: setLamp
      parameters:
        - {name: state, in: query, required: true, schema: {type: string, enum: [on, off, dimmed]}}
        - {name: country, in: query, schema: {type: string, enum: [DE, SE, NO]}}
        - {name: since, in: query, schema: {type: string, enum: [2024-01-01]}}
        - {name: at, in: query, schema: {type: string, enum: [12:30, 07:15, 010]}}
      responses: {200: {description: done}}
"""
    actions, _ = imported(tmp_path, text, "openapi", "lamps.yaml")
    assert {k: values for k, (_, _, values) in actions["setLamp"].items()} == {
        "state": ("on", "off", "dimmed"),
        "country": ("DE", "SE", "NO"),
        "since": ("2024-01-01",),
        "at": ("12:30", "07:15", "010"),
    }


def test_a_document_in_many_files_loses_nothing(tmp_path):
    """As DigitalOcean's: a reference starts from the file that it stands in."""
    files = {
        "api/spec.yaml": openapi({"/boats": {"$ref": "paths/boats.yaml"}, "/boats/{id}": {
            "parameters": [{"$ref": "shared.yaml#/id"}],
            "get": {"operationId": "getBoat"}, "delete": {"$ref": "paths/sink.yaml"}}}),
        "api/paths/boats.yaml": {"post": {"operationId": "buildBoat", "requestBody": {"content": {"application/json": {
            "schema": {"$ref": "../models/boat.json"}}}}}},
        "api/paths/sink.yaml": {"operationId": "sinkBoat", "parameters": [{"$ref": "../shared.yaml#/why"}]},
        "api/shared.yaml": {
            "id": {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
            "why": {"name": "why", "in": "query", "schema": {"$ref": "#/reason"}},
            "reason": {"enum": ["old", "leaks"]}},
        "api/models/boat.json": {
            "required": ["name"], "properties": {"name": {"type": "string"}, "crew": {"$ref": "crew.json"}}},
        "api/models/crew.json": {"properties": {"captain": {"type": "string"}}},
    }  # fmt: skip
    for name, value in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(yaml.safe_dump(value) if name.endswith("yaml") else json.dumps(value))
    found = catalogs.read(tmp_path / "api" / "spec.yaml", "openapi")
    assert {a.name: {p.name: p.required for p in a.params} for a in found.catalog.actions} == {
        "buildBoat": {"name": True, "crew.captain": False},
        "getBoat": {"id": True},
        "sinkBoat": {"id": True, "why": False},
    }
    assert found.catalog.by_name["sinkBoat"].params[1].values == ("old", "leaks")
    assert not any("nowhere" in n for n in found.notes)


def test_a_file_that_is_not_there_is_noted_and_a_broken_one_is_named(tmp_path):
    paths = {
        "/a": {"get": {"operationId": "a", "parameters": [{"name": "p", "in": "query", "schema": {"$ref": "x.json"}}]}}
    }
    actions, notes = imported(tmp_path, openapi(paths), "openapi", "spec.json")
    assert actions == {"a": {"p": ("string", False, ())}} and any("nowhere" in n and "x.json" in n for n in notes)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match="x.json is not JSON"):
        imported(tmp_path, openapi(paths), "openapi", "spec.json")


def test_swagger_2(tmp_path):
    pet = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    operation = {
        "operationId": "addPet",
        "parameters": [
            {"name": "limit", "in": "query", "type": "integer", "enum": [1, 2], "description": "most"},
            {"name": "id", "in": "path", "required": True, "type": "string", "format": "uuid"},
            {"name": "trace", "in": "header", "type": "string"},
            {"name": "pet", "in": "body", "required": True, "schema": {"$ref": "#/definitions/Pet"}},
        ],
    }
    form = {"operationId": "upload", "parameters": [{"name": "file", "in": "formData", "type": "string"}]}
    document = {"swagger": "2.0", "info": {"title": "Pets", "version": "1"}, "definitions": {"Pet": pet},
                "paths": {"/pets/{id}": {"post": operation}, "/files": {"post": form}}}  # fmt: skip
    for text, name in ((json.dumps(document), "s.json"), (yaml.safe_dump({**document, "swagger": 2.0}), "s.yaml")):
        actions, notes = imported(tmp_path, text, "openapi", name)
        assert actions == {
            "addPet": {
                "limit": ("integer", False, ("1", "2")), "id": ("uuid", True, ()), "name": ("string", True, ()),
            },
            "upload": {"file": ("string", False, ())},
        }  # fmt: skip
        assert any("addPet.trace" in n for n in notes)


def test_what_is_nested_too_deep_is_cut_with_a_note(tmp_path):
    schema = {"type": "string"}
    for level in range(9):
        schema = {"type": "object", "properties": {f"l{level}": schema}}
    actions, notes = imported(tmp_path, [{"name": "deep", "parameters": schema}])
    assert list(actions["deep"].values()) == [("object", False, ())]
    assert any("what stands in 6 objects is cut there" in n for n in notes)


def test_what_is_required_is_what_all_alternatives_require(tmp_path):
    properties = {name: {"type": "string"} for name in ("email", "phone", "name")}
    options = [{"required": ["name", "email"]}, {"required": ["phone", "name"]}]
    for key in ("anyOf", "oneOf"):
        schema = {"properties": properties, key: [*options, {"type": "null"}]}
        actions, notes = imported(tmp_path, [{"name": "call", "parameters": schema}])
        assert {k: required for k, (_, required, _) in actions["call"].items()} == {
            "email": False, "phone": False, "name": True,
        }  # fmt: skip
        assert "of several alternatives the first is kept: call" in notes


def test_what_narrows_a_lists_items_is_noted(tmp_path):
    days = {"type": "array", "items": {"type": "string", "enum": ["mon", "tue"]}}
    codes = {"type": "array", "items": {"anyOf": [{"pattern": "[A-Z]+", "maxLength": 3}, {"type": "null"}]}}
    schema = {"properties": {"days": days, "codes": codes, "free": {"type": "array", "items": {"type": "string"}}}}
    _, notes = imported(tmp_path, [{"name": "f", "parameters": schema}])
    for keyword, place in (("enum", "days"), ("pattern", "codes"), ("maxLength", "codes")):
        assert f"'{keyword}' has no place in a catalog: f.{place}[]" in notes


def test_types_that_name_each_other_are_read_in_time(tmp_path):
    """Twelve: read once per way through them that was for ever (nine took 41 seconds)."""
    names = [f"T{i}" for i in range(12)]
    others = {n: {"anyOf": [{"$ref": f"#/$defs/{m}"} for m in names if m != n]} for n in names}
    schema = {"properties": {"n": {"$ref": "#/$defs/T0"}}, "$defs": others}
    actions, notes = imported(tmp_path, [{"name": "f", "parameters": schema}])
    assert actions == {"f": {"n": ("object", False, ())}}
    assert "an object that holds itself is cut there: f.n" in notes


def test_extensions_among_paths_are_no_paths_and_names_after_paths_are_plain(tmp_path):
    paths = {"x-internal": True, "/v1.0/p/{id}.json": {"get": {"operationId": " "}}, "/user-groups/_all": {"put": {}}}
    actions, _ = imported(tmp_path, openapi(paths), "openapi")
    assert list(actions) == ["get_v1_0_p_id_json", "put_user-groups__all"]


def test_of_parameters_that_come_to_one_name_one_is_left_and_noted(tmp_path):
    kinds = {"start date": {"type": "string"}, "start_date": {"type": "integer"}, "": {"type": "string"}}
    actions, notes = imported(tmp_path, [{"name": "f", "parameters": {"properties": kinds}}])
    assert actions == {"f": {"start_date": ("string", False, ()), "_": ("string", False, ())}}
    assert "a second parameter of one name was left out: f.start_date" in notes
    renamed = "start date to start_date, a property without a name to _"
    assert f"renamed, for an agent could not write it: {renamed}" in notes
    own = [
        {"name": "id", "in": where, "schema": {"type": kind}}
        for where, kind in (("path", "integer"), ("query", "string"))
    ]
    paths = {"/p/{id}": {"get": {"operationId": "f", "parameters": own}}}
    actions, notes = imported(tmp_path, openapi(paths), "openapi")
    assert (
        actions == {"f": {"id": ("string", False, ())}} and "of parameters of one name the last is kept: f.id" in notes
    )
