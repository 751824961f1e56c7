"""The oracle asked turn by turn, and for `open` alone: the truth comes out as the truth, priced before and resumed."""

import json
import re
from functools import partial

import jsonschema
import pytest
from proactor_lib import datasets, policies
from proactor_lib.agent import reference_output
from proactor_lib.annotate import evidence, oracle, oracle_open, oracle_run, oracle_turns
from proactor_lib.catalog import tools
from proactor_lib.catalog.json_schema import Notes
from proactor_lib.datasets import forms
from proactor_lib.errors import UserError
from proactor_lib.files import read_jsonl
from proactor_lib.metrics import METRICS, score_predictions
from proactor_lib.metrics.alignment import f1
from proactor_lib.metrics.intervals import estimate
from proactor_lib.params import load_params
from proactor_lib.schema import Action, Catalog, Dialogue, DialogueReferences, ObservedAction, Parameter, Turn, cases

from support.fake_endpoint import FakeEndpoint
from support.shared import SHARED, needs_shared
from support.truthful_oracle import Truthful

ROOM = Parameter(name="room", required=True)
BOOK = Action(name="book", params=(ROOM, Parameter(name="day", required=True)))
CATALOG = Catalog(domain="inn", actions=(BOOK, Action(name="greet")))


class TurnByTurn(Truthful):
    """Answers what a perfect agent says at the turn that it is asked about."""

    def answer(self, request, dialogue, references):
        turn = int(re.search(r"exist at turn (\d+)\?", request["messages"][1]["content"])[1])
        schema = request["response_format"]["json_schema"]["schema"]["properties"]
        answer = {name: [] for name in schema}
        for action in reference_output(references, turn):
            names = schema[action.name]["items"]["properties"]["params"]["properties"]
            params = {name: action.params.get(name) for name in names}
            answer[action.name].append({"params": params, "status": action.status})
        return answer


class Opened(Truthful):
    """Answers the true `open` of the triggers that it is asked about."""

    def answer(self, request, dialogue, references):
        asked = request["response_format"]["json_schema"]["schema"]["properties"]
        questions = {q.id: q for q in oracle_open.questions(dialogue, self.catalog)}
        return {id: self.true_open(questions[id], references) for id in asked}

    def true_open(self, question, references):
        of_trigger = (r.window for r in references if (r.name, r.window.close) == (question.name, question.last))
        return next((w.open for w in of_trigger if w.open >= question.first), question.first)


def annotated(server, corpus, out, ask, **oracle_fields):
    settings = oracle_run.OracleSettings(
        server.url, "m", cache=out.parent / "cache", prices=(2.0, 8.0), ask=ask, oracle=oracle_fields
    )
    plan = oracle_run.plan(corpus.dialogues, corpus.catalog, settings)
    assert not server.requests
    summary = oracle_run.annotate_file(corpus.dialogues, corpus.catalog, out, settings)
    assert summary.calls == plan.calls == len(server.requests) and plan.price > 0
    again = oracle_run.annotate_file(corpus.dialogues, corpus.catalog, out, settings)
    assert again.calls == 0 and again.cached == plan.calls == len(server.requests)
    return list(read_jsonl(out, DialogueReferences)), summary


def windows(line):
    return sorted((r.name, tuple(sorted(r.values().items())), *r.window.model_dump().values()) for r in line.references)


def test_asked_turn_by_turn_the_truth_comes_out_as_the_truth(tmp_path):
    calls = datasets.load("homeloan", None, "train", limit=2, seed=5, log=False)
    with FakeEndpoint(TurnByTurn(calls.dialogues, calls.truth)) as server:
        lines, summary = annotated(server, calls, tmp_path / "refs.jsonl", "turn")
    assert [windows(line) for line in lines] == [windows(line) for line in calls.truth]
    assert summary.calls == sum(len(d.turns) for d in calls.dialogues) and summary.invalid == 0


def at(turn, status, **params):
    """What an answer about `book` says at a turn, read."""
    item = {"params": {"room": None, "day": None} | params, "status": status}
    answer = {"book": [item], "greet": []}
    jsonschema.validate(answer, oracle_turns.turn_schema(CATALOG.actions))
    return oracle_turns.read_turn(answer, CATALOG.actions, turn)


def test_answers_about_turns_become_opportunities():
    """A gap of one turn is bridged; a candidate after a ready one, another value or a longer gap is another need; what
    never is ready is none. A value's evidence is the turn at which it is first given."""
    b12, friday = {"room": "B 12"}, {"day": "Friday"}
    said = [
        at(1, "candidate"), at(2, "candidate", **b12), [], at(4, "ready", **b12, **friday),
        at(5, "candidate"), at(6, "ready", room="b-12", **friday),
        at(7, "ready", room="C 7", **friday), [], [], [], [], at(12, "ready", room="C 7", **friday),
        at(13, "ready", room="D", **friday) + at(13, "candidate"),
    ]  # fmt: skip
    found = oracle_turns.linked(said)
    assert [(sorted(o.candidate), sorted(o.ready)) for o in found] == [
        ([1, 2], [4]),
        ([5], [6]),
        ([], [7]),
        ([], [12]),
        ([], [13]),
    ]
    assert [(k, p.value, p.turn) for k, p in found[0].params.items()] == [("room", "B 12", 2), ("day", "Friday", 4)]
    with pytest.raises(ValueError, match="1 of book is ready without its required parameter 'day'"):
        at(1, "ready", **b12)


@pytest.fixture(scope="module")
def logged():
    """40 simulated calls with their log and their true windows."""
    return datasets.load("homeloan", None, "train", limit=40, seed=5)


def test_with_open_by_an_oracle_the_logs_windows_are_the_true_ones(logged, tmp_path):
    """`open` is the oracle's in every window; `ready` and `close` are the log's."""
    answers = Opened(logged.dialogues, logged.truth)
    answers.catalog = logged.catalog
    with FakeEndpoint(answers) as server:
        lines, summary = annotated(server, logged, tmp_path / "refs.jsonl", "open")
    pairs = [
        (w, t)
        for line, truth in zip(lines, logged.truth, strict=True)
        for w, t in zip(windows(line), windows(truth), strict=True)
    ]
    assert all((w[0], w[2], w[4]) == (t[0], t[2], t[4]) for w, t in pairs)  # name, open, close
    assert sum(w == t for w, t in pairs) >= 0.98 * len(pairs)
    assert summary.calls == 40 and all(r.observed_turn for line in lines for r in line.references)


def test_the_oracle_policy_on_the_true_windows_against_the_annotated_ones(logged):
    predictions = [p for case in cases(logged.dialogues, logged.truth, logged.catalog) for p in policies.oracle(case)]
    lines = [evidence.annotate(d, logged.catalog) for d in logged.dialogues]
    scores = score_predictions(logged.dialogues, lines, predictions)
    assert dict(zip(METRICS, estimate(scores.dialogues), strict=True))["ac"] >= 0.95


def test_what_the_log_leaves_room_for_bounds_the_answer():
    """`greet` runs at 2 and 5, so that its second need shows at 3, 4 or 5; a trigger at the first turn is not asked."""
    turns = [Turn(speaker="u", text=text) for text in ("Hello", "room C", "day", "hm", "Friday, then")]
    observed = (
        ObservedAction(turn=1, name="greet"),
        ObservedAction(turn=5, name="book", params={"room": "C", "day": "Friday"}),
        ObservedAction(turn=5, name="greet"),
        ObservedAction(turn=5, name="greet"),
    )
    dialogue = Dialogue(id="d", domain="inn", turns=turns, observed=observed)
    asked = oracle_open.questions(dialogue, CATALOG)
    assert [(q.id, q.first, q.last) for q in asked] == [("r1", 1, 1), ("r2", 1, 5), ("r3", 2, 5), ("r4", 5, 5)]
    with pytest.raises(jsonschema.ValidationError, match="1 is less than the minimum of 2"):
        jsonschema.validate({"r2": 1, "r3": 1}, oracle_open.open_schema(asked[1:3]))
    text = oracle_open.open_messages(dialogue, asked[1:2])[1]["content"]
    assert "[5] u: Friday, then\n" in text
    assert "r2. book, room = C, day = Friday; triggered at turn 5; its need showed at one of the turns 1 to 5\n" in text
    found = evidence.annotate(dialogue, CATALOG, opened={"r2": 3, "r3": 4}).references
    assert [tuple(r.window.model_dump().values()) for r in found] == [(1, 1, 1), (3, 5, 5), (4, 4, 5), (5, 5, 5)]


def test_the_command_and_what_it_refuses(logged, tmp_path, cli):
    answers = Opened(logged.dialogues, logged.truth)
    answers.catalog = logged.catalog
    with FakeEndpoint(answers) as server:
        words = "annotate --dataset homeloan --seed 5 --limit 2 --model m".split()  # noqa: SIM905
        words += ["--url", server.url, "--cache", tmp_path / "c", "--out", tmp_path / "r.jsonl"]
        command = partial(cli, *words, "--annotator")
        planned = command("evidence+oracle", "--dry-run", "--json")
        assert json.loads(planned.stdout)["calls"] == 2 and not server.requests
        done = command("evidence+oracle")
        assert done.returncode == 0 and len(server.requests) == 2
        assert json.loads(command("oracle", "--protocol", "turn", "--dry-run", "--json").stdout)["calls"] == sum(
            len(d.turns) for d in datasets.load("homeloan", None, "train", limit=2, seed=5).dialogues
        )
        silent = command("evidence+oracle", "--no-log")
        assert silent.returncode == 2 and "has no log of triggers" in silent.stderr
        assert "'dialogue' or 'turn', got 'word'" in command("oracle", "--protocol", "word").stderr
        assert "accepted: evidence, oracle, evidence+oracle" in command("log").stderr
    with pytest.raises(UserError, match=r"annotator 'evidence\+oracle' needs oracle_model and oracle_url"):
        load_params(None, {"annotator": "evidence+oracle"})


PASSENGERS = {
    "type": "array",
    "items": {"type": "object", "properties": {"first_name": {"type": "string"}, "last_name": {"type": "string"}}},
}
TOOL = {"name": "fly", "parameters": {"type": "object", "required": ["passengers"], "properties": {
    "passengers": PASSENGERS, "seats": {"type": "array", "items": {"type": "string"}}, "extras": {"type": "object"},
}}}  # fmt: skip


def test_lists_of_objects_in_an_answer():
    """Keys that the tool names are the schema's; an object of unknown keys is a list of pairs; null is absent."""
    (action,) = tools.read([TOOL], Notes())
    assert [p.keys for p in action.params] == [("first_name", "last_name"), (), ()]
    (tool,) = tools.to_openai(Catalog(domain="air", actions=(action,)), Notes())
    assert tool["function"]["parameters"]["properties"]["passengers"] == PASSENGERS
    assert tool["function"]["parameters"]["properties"]["seats"] == {"type": "array", "items": {}}
    assert tools.read([tool], Notes()) == (action,)
    who = [{"first_name": "Ann", "last_name": None}, {"first_name": "Bo", "last_name": "Li"}]
    params = {
        "passengers": {"value": who, "turn": 1},
        "seats": {"value": ["4 A", "4 B"], "turn": 2},
        "extras": {"value": [{"key": "meal", "value": "vegan"}], "turn": 2},
    }  # fmt: skip
    part = oracle.Part(range(1, 4), range(1, 4), last=True)
    answer = {"fly": [{"params": params, "candidate": [1], "ready": [2]}]}
    jsonschema.validate(answer, oracle.answer_schema([action], part, []))
    (found,) = oracle.read(answer, [action], part, [])
    assert {k: p.value for k, p in found.params.items()} == {
        "passengers": '[{"first_name": "Ann"}, {"first_name": "Bo", "last_name": "Li"}]',
        "seats": '["4 A", "4 B"]',
        "extras": '{"meal": "vegan"}',
    }
    wrong = [{"params": params | {"passengers": {"value": ["Ann"], "turn": 1}}, "candidate": [], "ready": [2]}]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"fly": wrong}, oracle.answer_schema([action], part, []))
    dialogue = Dialogue(id="d", domain="d", turns=[Turn(speaker="u", text="hi")] * 3)
    system = oracle.messages(dialogue, [action], part, [])[0]["content"]
    assert "passengers*: array, with first_name, last_name\n" in system
    assert "extras: object, an object: a list of its {key, value}\n" in system


@needs_shared
def test_every_call_of_the_airlines_chats_fits_into_an_answer(tmp_path):
    """137 windows with lists of objects, amounts and long texts, said by an oracle: all come back."""
    found = forms.read([SHARED / "data" / "tau" / "airline-chat.jsonl"], "chat")
    truth = [evidence.annotate(d, found.catalog) for d in found.dialogues]
    out = tmp_path / "refs.jsonl"
    with FakeEndpoint(Truthful(list(found.dialogues), truth)) as server:
        settings = oracle_run.OracleSettings(server.url, "m", cache=tmp_path / "cache")
        summary = oracle_run.annotate_file(found.dialogues, found.catalog, out, settings)
    assert (summary.annotated, summary.references, summary.invalid) == (24, 137, 0)

    def ordered(line):
        return sorted(line.references, key=lambda r: (r.name, tuple(r.window.model_dump().values()), r.observed_turn))

    pairs = [
        pair
        for line, true in zip(read_jsonl(out, DialogueReferences), truth, strict=True)
        for pair in zip(ordered(line), ordered(true), strict=True)
    ]
    assert all((r.name, r.window, r.observed_turn) == (t.name, t.window, t.observed_turn) for r, t in pairs)
    assert sum(f1(r.values(), t.values(), how=t.params) for r, t in pairs) == pytest.approx(137)
