"""A first answer from people's logs: what their triggers are worth, in turns and in seconds, worked out by hand."""

import json

import pytest
from proactor_lib import policies
from proactor_lib.annotate import evidence
from proactor_lib.cli import app
from proactor_lib.datasets import forms
from proactor_lib.errors import UserError
from proactor_lib.files import read_jsonl
from proactor_lib.schema import Case, DialogueReferences, ReferenceAction, ReferenceParam, TurnPrediction, Window
from typer.testing import CliRunner

from support.fake_endpoint import FakeEndpoint
from support.shared import SHARED, needs_shared
from support.truthful_oracle import Truthful

VTT = """WEBVTT

00:01.000 --> 00:02.000
<v Customer>Room B 12 please, is it free?

00:03.000 --> 00:04.000
<v Clerk>Let me look.

00:10.500 --> 00:11.000
<v Customer>Thank you.
"""
TRIGGERS = "turn,action,room\n2,ask_day,\n3,hold,B 12\n"


@pytest.fixture
def call(tmp_path, monkeypatch):
    """A call in which the room is held two turns, 9 s, after it was named, and a day is asked for."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "call.vtt").write_text(VTT)
    (tmp_path / "t.csv").write_text(TRIGGERS)
    return tmp_path


def assess(call, *further):
    files = [call / "call.vtt", "--from", "vtt", "--triggers", call / "t.csv", "--out", call / "out"]
    return CliRunner().invoke(app, ["assess", *map(str, [*files, *further])])


def test_the_log_as_a_policy_says_what_was_triggered(call):
    found = forms.read([call / "call.vtt"], "vtt", trigger_file=call / "t.csv")
    said = policies.logged(Case(found.dialogues[0], (), found.catalog))
    assert [[(a.name, a.status, a.params) for a in line.actions] for line in said] == [
        [],
        [("ask_day", "ready", {})],
        [("hold", "ready", {"room": "B 12"})],
    ]
    silent = found.dialogues[0].model_copy(update={"observed": None})
    with pytest.raises(UserError, match="'logged' needs one"):
        policies.logged(Case(silent, (), found.catalog))


def test_windows_by_the_log_tell_how_much_earlier(call, monkeypatch):
    """`hold` was ready at turn 1 and closed at 3: its trigger there scores 1 - 2/3; `ask_day` is known from nowhere."""
    done = assess(call)
    assert done.exit_code == 0, done.output
    page = (call / "out" / "assessment.md").read_text()
    assert "1 dialogues, 2 opportunities, 2 triggers" in page and "found from the log itself" in page
    assert "1 of 2 triggers came by the turn at which all was known; on average they came 1.00 turns after it" in page
    assert "turns after it, 4.5 s where" in page
    assert "- call: `hold` at turn 3, 2 turns after all was known (9.0 s)" in page
    assert "| opportunity timing | 0.667 |" in page and (call / "out" / "report.html").exists()
    lines = list(read_jsonl(call / "out" / "predictions" / "logged.jsonl", TurnPrediction))
    monkeypatch.setattr("proactor_lib.report.build", lambda out: None)  # its figures are drawn above
    assert assess(call).exit_code == 0
    assert list(read_jsonl(call / "out" / "predictions" / "logged.jsonl", TurnPrediction)) == lines
    (call / "t.csv").write_text("turn,action,room\n1,hold,B 12\n")
    assert isinstance(assess(call).exception, UserError)  # other files: the folder holds other windows


def test_windows_by_an_oracle_tell_what_was_missed_and_false(call, monkeypatch):
    """`hold` 1..2..3 triggered at 3: 1 - 1/2; `greet` missed; `ask_day` false: utility (0.5 - 0.25 * 1) / 2."""
    monkeypatch.setattr("proactor_lib.report.build", lambda out: None)
    catalog = {"domain": "inn", "actions": [{"name": "greet"}, {"name": "ask_day"}]}
    catalog["actions"].append({"name": "hold", "params": [{"name": "room", "required": True}]})
    (call / "catalog.json").write_text(json.dumps(catalog))
    found = forms.read([call / "call.vtt"], "vtt", call / "catalog.json", call / "t.csv")
    room = {"room": ReferenceParam(value="B 12", turn=1)}
    truth = (
        ReferenceAction(id="r1", name="hold", params=room, window=Window(open=1, ready=2, close=3)),
        ReferenceAction(id="r2", name="greet", window=Window(open=1, ready=1, close=1)),
    )
    line = DialogueReferences(dialogue_id="call", references=truth)
    with FakeEndpoint(Truthful(list(found.dialogues), [line])) as server:
        oracle = ("--tools", call / "catalog.json", "--oracle-url", server.url, "--oracle-model", "m")
        dry = assess(call, *oracle, "--dry-run", "--price", 1, 2, "--json")
        assert json.loads(dry.stdout)["calls"] == 1 and not server.requests
        done = assess(call, *oracle)
        assert done.exit_code == 0, done.output
        assert len(server.requests) == 1
        again = assess(call, *oracle, "--json")
        assert len(server.requests) == 1 and json.loads(again.stdout)["logged"]["utility"][0] == 0.125
    page = (call / "out" / "assessment.md").read_text()
    assert "1 of 2 opportunities were never triggered" in page
    assert "- call: `greet` would have helped at turns 1 to 1" in page
    assert "1 of 2 triggers served no need" in page and "- call: `ask_day` at turn 2" in page


def test_nothing_triggered_and_no_oracle_for_a_dry_run_are_named(call):
    (call / "t.json").write_text('[{"name": "hold"}]')
    base = [
        "assess",
        str(call / "call.vtt"),
        "--from",
        "vtt",
        "--tools",
        str(call / "t.json"),
        "--out",
        str(call / "o"),
    ]
    assert "nothing was triggered in these files" in str(CliRunner().invoke(app, base).exception)
    assert "--oracle-url" in str(CliRunner().invoke(app, [*base, "--dry-run"]).exception)
    alone = CliRunner().invoke(app, [*base, "--oracle-url", "http://127.0.0.1:9/v1"])
    assert str(alone.exception) == "--oracle-url and --oracle-model need each other"
    assert not (call / "o").exists()


@needs_shared
def test_the_airlines_chats_with_a_scripted_oracle(tmp_path, monkeypatch):
    """The oracle sees the needs of two look-ups (14 and 31 calls) and no others: every other execution is false.

    Three calls of airline-13-0 (update_reservation_flights) repeat an earlier one, and execute nothing: 137 - 3 = 134.
    """
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("proactor_lib.report.build", lambda out: None)
    path = SHARED / "data" / "tau" / "airline-chat.jsonl"
    found = forms.read([path], "chat")
    lines = [evidence.annotate(d, found.catalog) for d in found.dialogues]
    seen = ("get_user_details", "get_reservation_details")
    truth = [
        line.model_copy(update={"references": tuple(r for r in line.references if r.name in seen)}) for line in lines
    ]
    with FakeEndpoint(Truthful(list(found.dialogues), truth)) as server:
        command = ["assess", path, "--from", "chat", "--out", tmp_path / "out", "--json"]
        oracle = ["--oracle-url", server.url, "--oracle-model", "m"]
        done = CliRunner().invoke(app, [str(word) for word in [*command, *oracle]])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "assessment.md").read_text()
    assert "24 dialogues, 45 opportunities, 137 triggers in the log." in page and "could not be annotated" not in page
    assert "0 of 45 opportunities were never triggered" in page
    assert "89 of 134 triggers served no need" in page
    assert json.loads(done.stdout)["logged"]["execution_precision"][0] == pytest.approx(45 / 134)
