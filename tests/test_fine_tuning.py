"""Chats for fine-tuning: what a perfect agent does at each turn of a dialogue, worked out by hand."""

import json

from proactor_lib.annotate import evidence
from proactor_lib.catalog.json_schema import Notes
from proactor_lib.cli import app
from proactor_lib.datasets import fine_tuning, forms, jsonl
from proactor_lib.files import write_jsonl
from proactor_lib.schema import (
    Action,
    Case,
    Catalog,
    Dialogue,
    ObservedAction,
    Parameter,
    ReferenceAction,
    ReferenceParam,
    Turn,
    Window,
)
from typer.testing import CliRunner

TABLE = Action(
    name="book_table",
    params=(
        Parameter(name="people", type="integer", required=True),
        Parameter(name="day", required=True),
        Parameter(name="extras", type="array"),
    ),
)
CATALOG = Catalog(domain="inn", actions=(TABLE, Action(name="greet")))
DIALOGUE = Dialogue(
    id="d",
    domain="inn",
    turns=[Turn(speaker="user", text=t) for t in ("Hello.", "A table for 4.", "On Friday,\nwith a cake.", "Bye.")],
    observed=(ObservedAction(turn=4, name="book_table", params={"people": 4, "day": "Friday", "extras": ["cake"]}),),
)
BOOKED = ReferenceAction(
    id="r1",
    name="book_table",
    params={
        "people": ReferenceParam(value="4", turn=2),
        "day": ReferenceParam(value="Friday", turn=3),
        "extras": ReferenceParam(value='["cake"]', turn=3),
    },
    window=Window(open=2, ready=3, close=4),
)
GREETED = ReferenceAction(id="r2", name="greet", window=Window(open=1, ready=1, close=1))


def test_a_call_at_ready_and_a_candidate_before_it():
    line = fine_tuning.chat(Case(DIALOGUE, (BOOKED, GREETED), CATALOG), Notes())
    system, *messages = line["messages"]
    assert system["role"] == "system" and "never speak" in system["content"]

    def call(id, name, arguments):
        function = {"name": name, "arguments": json.dumps(arguments)}
        calls = [{"id": id, "type": "function", "function": function}]
        return [
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": id, "content": "triggered"},
        ]

    assert messages == [
        {"role": "user", "content": "[1] user: Hello."},
        *call("call_r2", "greet", {}),
        {"role": "user", "content": "[2] user: A table for 4."},
        {"role": "assistant", "content": "candidate: book_table | people=4"},
        {"role": "user", "content": "[3] user: On Friday, with a cake."},
        *call("call_r1", "book_table", {"people": 4, "day": "Friday", "extras": ["cake"]}),
        {"role": "user", "content": "[4] user: Bye."},
        {"role": "assistant", "content": "none"},
    ]
    assert [t["function"]["name"] for t in line["tools"]] == ["book_table", "greet"]
    assert line["tools"][0]["function"]["parameters"]["required"] == ["people", "day"]


def test_objects_in_logged_calls_are_written_as_they_were_logged(tmp_path):
    given = {"guest": {"name": "Ann", "": 7}, "page.limit": 4, "first day": "Friday"}
    call = {"id": "1", "function": {"name": "book", "arguments": json.dumps(given)}}
    chat = [{"role": "user", "content": "Ann on Friday: 4 pages, 7"}, {"role": "assistant", "tool_calls": [call]}]
    (tmp_path / "log.json").write_text(json.dumps(chat))
    found = forms.read([tmp_path / "log.json"], "chat")
    assert found.dialogues[0].observed[0].params == {
        "guest.name": "Ann", "guest._": "7", "page.limit": "4", "first_day": "Friday",
    }  # fmt: skip
    case = Case(found.dialogues[0], evidence.annotate(found.dialogues[0], found.catalog).references, found.catalog)
    notes = Notes()
    line = fine_tuning.chat(case, notes)
    written = [m["tool_calls"][0]["function"]["arguments"] for m in line["messages"] if "tool_calls" in m]
    assert [json.loads(text) for text in written] == [given]
    properties = line["tools"][0]["function"]["parameters"]["properties"]
    assert list(properties) == list(given) and list(properties["guest"]["properties"]) == ["name", ""]
    assert not any("guest" in note for note in notes)


def test_the_command_writes_what_the_import_reads(tmp_path):
    """By the log the window is ready at turn 3; with windows from a file, only dialogues that it has are written."""
    jsonl.write(tmp_path, "train", CATALOG, [DIALOGUE, DIALOGUE.model_copy(update={"id": "e"})])
    command = ["data", "export", "--dataset", "jsonl", "--data-dir", tmp_path, "--form", "chat", "--out", tmp_path]
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    found = forms.read([tmp_path / "train-chat.jsonl"], "chat")
    calls = [(o.name, o.params) for d in found.dialogues for o in d.observed]
    assert calls == [("book_table", {"people": "4", "day": "Friday", "extras": '["cake"]'})] * 2
    assert found.catalog.by_name["book_table"].required == ("people", "day")
    write_jsonl(tmp_path / "w.jsonl", [evidence.annotate(DIALOGUE, CATALOG)])
    done = CliRunner().invoke(app, [str(word) for word in [*command, "--references", tmp_path / "w.jsonl"]])
    assert "1 chats" in done.stderr and "1 dialogues without windows left out" in done.stderr
    assert len((tmp_path / "train-chat.jsonl").read_text().splitlines()) == 1
