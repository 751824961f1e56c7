"""Values that are free text, lists or objects: compared, found in what is said, and what that means for metrics."""

import json

import jsonschema
import pytest
from proactor_lib import policies
from proactor_lib.agent import parse, render
from proactor_lib.annotate import evidence, oracle
from proactor_lib.comparison import agreement, leaves, similarity
from proactor_lib.files import read_jsonl, write_jsonl
from proactor_lib.metrics.alignment import alignment
from proactor_lib.params import load_params
from proactor_lib.rewards import Group, make_reward
from proactor_lib.schema import (
    Action,
    Case,
    Catalog,
    Dialogue,
    DialogueReferences,
    ObservedAction,
    Parameter,
    PredictedAction,
    Turn,
)

from support.reward_cases import scores

FRAUD = "Somebody transferred $500 from my account"
RETOLD = "someone transferred 500 dollars from my account"
CATALOG = Catalog(
    domain="bank",
    actions=(
        Action(name="report", params=(Parameter(name="what", required=True, match="text"),)),
        Action(name="note", params=(Parameter(name="text", required=True, match="any"), Parameter(name="to"))),
        Action(name="book", params=(Parameter(name="people", type="array", required=True),)),
    ),
)


def dialogue(*texts, observed=()):
    turns = tuple(Turn(speaker="user" if i % 2 == 0 else "agent", text=t) for i, t in enumerate(texts))
    return Dialogue(id="d", domain="bank", turns=turns, observed=tuple(ObservedAction(**o) for o in observed))


def test_a_list_or_an_object_agrees_by_its_parts():
    one, two = {"first": "Ann", "last": "Lee"}, {"first": "ann", "last": "Li"}
    assert agreement(json.dumps(one), json.dumps(one, indent=1)) == 1
    assert agreement(json.dumps(one), json.dumps(two)) == 2 * 1 / 4
    assert agreement(json.dumps([one, "12.50"]), json.dumps(["$12.5", two])) == pytest.approx(2 * (1 + 1 / 2) / 4)
    assert agreement('["a", "b", "c"]', '["c", "a"]') == pytest.approx(2 * 2 / 5)
    assert agreement("[]", "[]") == agreement('{"a": null}', '{"a": ""}') == 1
    assert agreement("[1]", "1") == 1 and agreement("[1", "[2") == agreement('[["a"]]', '["b"]') == 0
    assert agreement("[1]", "2") == agreement('["a"]', '{"a": 1}') == 0
    assert agreement('["a","b"]', '["ab"]') == agreement("[1,234]", "[1234]") == agreement("[1,2]", "[1.2]") == 0


def test_free_text_agrees_from_a_similarity_on_and_anything_agrees_with_anything():
    assert similarity(FRAUD, RETOLD) > 0.8 and similarity(FRAUD, "my card was stolen") < 0.5
    assert agreement(FRAUD, RETOLD) == 0 and agreement(FRAUD, RETOLD, "text") == 1
    assert agreement(FRAUD, RETOLD, "text", 0.95) == 0 == agreement(FRAUD, "my card was stolen", "text")
    assert agreement(FRAUD, "whatever", "any") == 1


def test_the_scalar_values_in_a_value():
    assert leaves("plain") == ["plain"] and leaves("[broken") == ["[broken"]
    assert leaves('{"a": [1, {"b": true, "c": null}], "d": "x"}') == ["1", "True", "x"]


def test_values_of_any_json_form_are_kept_as_text(tmp_path):
    reference = {"id": "r", "name": "book", "window": {"open": 1, "ready": 1, "close": 1}}
    reference["params"] = {"people": {"value": [{"b": 1, "a": "é"}], "turn": 1}}
    line = {"dialogue_id": "d", "references": [reference]}
    (tmp_path / "r.jsonl").write_text(json.dumps(line))
    (read,) = read_jsonl(tmp_path / "r.jsonl", DialogueReferences)
    assert read.references[0].values() == {"people": '[{"a": "é", "b": 1}]'}
    write_jsonl(tmp_path / "again.jsonl", [read])
    assert list(read_jsonl(tmp_path / "again.jsonl", DialogueReferences)) == [read]
    assert "match" not in (tmp_path / "again.jsonl").read_text()  # what is compared exactly says nothing of it


def test_an_action_whose_only_parameter_is_free_text_can_be_met():
    """Compared exactly, s = 0.5 < 0.75 at best, and every reward is 0: by similarity the retold report is right."""
    told = dialogue(
        "Hello.", "Yes?", RETOLD, "I see.", observed=[{"turn": 3, "name": "report", "params": {"what": FRAUD}}]
    )
    (reference,) = evidence.annotate(told, CATALOG).references
    assert reference.params["what"].match == "text" and reference.window.ready == reference.params["what"].turn == 3
    right = PredictedAction(name="report", params={"what": "Someone has transferred $500 from my account"})
    wrong = PredictedAction(name="report", params={"what": "I lost my card"})
    assert (alignment(right, reference, 3), alignment(wrong, reference, 3)) == (1, 0.5)
    texts = (render([right]), render([wrong]))
    group = Group(Case(told, (reference,), CATALOG), 3, texts, tuple(map(parse, texts)), 0.5)
    assert [s.value for s in scores(make_reward(load_params(None, {"reward": "rac"})), group)[0]] == [1, 0.5]


def test_the_policy_with_a_wrong_parameter_is_wrong_in_free_text_too():
    logged = {"turn": 2, "name": "report", "params": {"what": RETOLD}}
    (reference,) = evidence.annotate(dialogue(FRAUD, "OK", observed=[logged]), CATALOG).references
    case = Case(dialogue(FRAUD, "OK"), (reference,), CATALOG)
    said = [p for line in policies.wrong_parameter(case) for p in line.actions]
    assert len(said) == 2 and {alignment(p, reference, 2) for p in said} == {0.5}


def test_what_may_be_anything_is_waited_for_by_nobody_and_missed_nowhere():
    observed = {"turn": 3, "name": "note", "params": {"text": "called about her car", "to": "Ann"}}
    told = dialogue("A note for Ann, please.", "Go on.", "Thanks.", observed=[observed])
    tally = evidence.Tally()
    (reference,) = evidence.annotate(told, CATALOG, tally).references
    assert tuple(reference.window.model_dump().values()) == (1, 1, 3)
    assert (tally.values, tally.not_found) == (1, 0)
    said = PredictedAction(name="note", params={"text": "she should call back", "to": "Ann"})
    assert alignment(said, reference, 3) == 1


def test_a_list_is_known_when_all_its_parts_are_said():
    people = [{"name": "Ann"}, {"name": "Bo", "age": 7}]
    told = dialogue("Ann and I.", "Who are you?", "Bo.", "How old?", "Seven.", "Done.",
                    observed=[{"turn": 5, "name": "book", "params": {"people": people}}])  # fmt: skip
    (reference,) = evidence.annotate(told, CATALOG).references
    assert reference.window.ready == reference.params["people"].turn == 5
    half = PredictedAction(name="book", params={"people": '[{"name": "Ann"}]'})
    assert alignment(half, reference, 5) == pytest.approx(0.5 + 0.5 * 2 * 1 / 3)  # one of one and two people


def test_the_oracles_references_say_how_they_are_compared():
    part = oracle.parts(3, 60, 0)[0]
    answer = {a.name: [] for a in CATALOG.actions}
    answer["report"] = [{"params": {"what": {"value": FRAUD, "turn": 1}}, "candidate": [], "ready": [1]}]
    (found,) = oracle.read(answer, CATALOG.actions, part, [])
    assert found.params["what"].match == "text" and found.params["what"].text_threshold == 0.6


def test_the_oracle_gives_a_list_as_a_list():
    part = oracle.parts(3, 60, 0)[0]
    answer = {a.name: [] for a in CATALOG.actions}
    answer["book"] = [{"params": {"people": {"value": ["Ann", "Bo"], "turn": 1}}, "candidate": [], "ready": [1]}]
    jsonschema.validate(answer, oracle.answer_schema(CATALOG.actions, part, []))
    (found,) = oracle.read(answer, CATALOG.actions, part, [])
    assert found.params["people"].value == '["Ann", "Bo"]'
    assert agreement(found.params["people"].value, '["bo", "ann"]') == 1
