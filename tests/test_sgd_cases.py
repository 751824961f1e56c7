"""SGD's raw form as others write it: the cases 07b, 08b and 08c of ../shared/docs/CASES.md, in our own words."""

import json

import pytest
from proactor_lib import datasets
from proactor_lib.annotate import evidence
from proactor_lib.errors import UserError
from proactor_lib.metrics.alignment import alignment
from proactor_lib.schema import PredictedAction

SLOT = {"name": "area", "description": "area", "is_categorical": False, "possible_values": []}
INTENT = {
    "name": "FindCafe", "description": "search", "is_transactional": False, "required_slots": ["area"],
    "optional_slots": {},
}  # fmt: skip
SCHEMA = [{"service_name": "Cafe", "description": "cafes", "slots": [SLOT], "intents": [INTENT]}]


def turn(speaker, text, held=None, call=None):
    state = {} if held is None else {"state": {"active_intent": "FindCafe", "slot_values": held}}
    called = {"service_call": {"method": "FindCafe", "parameters": call}} if call else {}
    return {"speaker": speaker, "utterance": text, "frames": [{"service": "Cafe", **state, **called}]}


def load(folder, *turns):
    (folder / "train").mkdir()
    (folder / "train" / "schema.json").write_text(json.dumps(SCHEMA))
    dialogue = {"dialogue_id": "1", "services": ["Cafe"], "turns": turns}
    (folder / "train" / "dialogues_001.json").write_text(json.dumps([dialogue]))
    return datasets.load("sgd", folder, "train")


@pytest.mark.parametrize("user, system", [("USER", "SYSTEM"), ("user", "system")])
@pytest.mark.parametrize("held", [["north"], []], ids=["held", "an empty list"])
def test_speakers_in_any_case_and_a_slot_without_a_value(tmp_path, user, system, held):
    corpus = load(
        tmp_path, turn(user, "A cafe.", {}), turn(system, "Where?"),
        turn(user, "in the north", {"area": held}), turn(system, "found", call={"area": "North"}),
    )  # fmt: skip
    (observed,) = corpus.dialogues[0].observed
    assert (observed.turn, observed.intent_turn) == (3, 1)
    assert observed.evidence == ({"area": 3} if held else {})
    (reference,) = evidence.annotate(corpus.dialogues[0], corpus.catalog).references
    assert tuple(reference.window.model_dump().values()) == (1, 3, 3) and reference.params["area"].turn == 3


def test_days_are_told_from_the_corpus_own_day(tmp_path):
    """1 March 2019 was a Friday."""
    corpus = load(
        tmp_path, turn("USER", "A cafe this Saturday", {"area": ["this Saturday"]}),
        turn("SYSTEM", "found", call={"area": "2019-03-02"}),
    )  # fmt: skip
    (reference,) = evidence.annotate(corpus.dialogues[0], corpus.catalog).references
    assert alignment(PredictedAction(name="Cafe.FindCafe", params={"area": "this Saturday"}), reference, 1) == 1
    assert alignment(PredictedAction(name="Cafe.FindCafe", params={"area": "this Sunday"}), reference, 1) == 0.5


def test_a_value_may_be_written_as_the_user_said_it(tmp_path):
    corpus = load(
        tmp_path, turn("USER", "A cafe at SFO", {"area": ["SFO", "san francisco"]}),
        turn("SYSTEM", "found", call={"area": "San Francisco"}),
    )  # fmt: skip
    (reference,) = evidence.annotate(corpus.dialogues[0], corpus.catalog).references
    assert (reference.params["area"].value, reference.params["area"].spellings) == ("San Francisco", ("SFO",))
    for area, s in (("SFO", 1), ("San Francisco", 1), ("SF", 0.5)):
        assert alignment(PredictedAction(name="Cafe.FindCafe", params={"area": area}), reference, 1) == s


def test_a_split_without_any_service_call_logs_no_triggers(tmp_path):
    corpus = load(tmp_path, turn("USER", "A cafe in the north", {"area": ["north"]}), turn("SYSTEM", "There are two."))
    assert corpus.dialogues[0].observed is corpus.dialogues[0].date is None and not corpus.logged
    with pytest.raises(UserError, match="no log of triggers.*use the oracle annotator"):
        evidence.annotate(corpus.dialogues[0], corpus.catalog)
