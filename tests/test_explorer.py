"""The explorer, as a model of widgets: what a hand does to them is what these tests do."""

import json

import pytest
from proactor_lib.annotate import corrections
from proactor_lib.schema import (
    Dialogue,
    DialogueReferences,
    ObservedAction,
    PredictedAction,
    ReferenceAction,
    ReferenceParam,
    Turn,
    TurnPrediction,
    Window,
)
from proactor_lib.widgets import Explorer, explorer, transcript

from support.runs import make_run


def ref(id, name, open, ready, close, **params):
    return ReferenceAction(
        id=id,
        name=name,
        params={k: ReferenceParam(value=v, turn=1) for k, v in params.items()},
        window=Window(open=open, ready=ready, close=close),
    )


def dialogue(id, *observed):
    turns = tuple(Turn(speaker="u", text=f"<{id} {i}>") for i in range(1, 11))
    return Dialogue(id=id, domain="x", turns=turns, observed=observed)


PAID = ObservedAction(turn=5, name="pay", params={"sum": "5"})
DIALOGUES = [dialogue("a", ObservedAction(turn=9, name="book")), dialogue("b", PAID), dialogue("c")]
LINES = [
    DialogueReferences(dialogue_id="a", references=(ref("r1", "book", 5, 6, 7, to="Rome"), ref("r2", "book", 1, 2, 3))),
    DialogueReferences(dialogue_id="b", references=(ref("r1", "pay", 2, 4, 6),)),
    DialogueReferences(dialogue_id="c"),
]
SECOND = [LINES[0], DialogueReferences(dialogue_id="b", references=(ref("x", "pay", 5, 5, 9),))]
SAID = [TurnPrediction(dialogue_id="b", turn=4, actions=(PredictedAction(name="pay"), PredictedAction(name="hold")))]


@pytest.fixture
def shown(tmp_path):
    return Explorer(DIALOGUES, LINES, tmp_path / "overlay.jsonl", {"trained": SAID}, SECOND)


def written(shown):
    return [json.loads(line) for line in shown._path.read_text().splitlines()]


def test_it_opens_on_the_first_dialogue_and_its_first_window_and_writes_nothing(shown):
    assert (shown.dialogue.value, shown.reference.value) == ("a", "r1")
    assert (shown.span.value, shown.ready.value, shown.span.max) == ((5, 7), 6, 10)
    assert shown.dialogue.options[0][0] == "a (2 references, coverage 0.00, IoU 1.00)"
    shown.dialogue.value, shown.policy.value = "b", "trained"
    shown.show.value = explorer.DISAGREE
    assert not shown._path.exists()


def test_dragging_the_bar_writes_the_window_and_pulls_ready_along(shown):
    shown.span.value = (7, 9)
    window = {"open": 7, "ready": 7, "close": 9}
    assert written(shown) == [{"dialogue_id": "a", "name": "book", "occurrence": 2, "window": window}]
    assert [shown.numbers[k].value for k in ("open", "ready", "close")] == [7, 7, 9] and shown.ready.value == 7
    assert "written to" in shown.note.value


def test_ready_moves_alone_or_pulls_a_border_along(shown):
    shown.ready.value = 7
    assert written(shown)[-1]["window"] == {"open": 5, "ready": 7, "close": 7}
    shown.ready.value = 2
    assert written(shown)[-1]["window"] == {"open": 2, "ready": 2, "close": 7}


def test_numbers_write_a_window_or_say_why_not(shown):
    shown.numbers["close"].value = 10
    assert written(shown)[-1]["window"] == {"open": 5, "ready": 6, "close": 10}
    shown.numbers["open"].value = 8
    assert len(written(shown)) == 1 and "open ≤ ready ≤ close" in shown.note.value
    shown.numbers["ready"].value = 9
    assert written(shown)[-1]["window"] == {"open": 8, "ready": 9, "close": 10} and shown.span.value == (8, 10)


def test_withdrawn_and_as_annotated(shown):
    shown.withdraw.click()
    assert (
        written(shown)[-1]["window"] is None
        and shown.span.disabled
        and '<td class="pa-lane pa-open pa-selected' not in shown._view.value
    )
    shown.restore.click()
    assert written(shown)[-1]["window"] == {"open": 5, "ready": 6, "close": 7} and not shown.span.disabled
    assert corrections.apply(LINES, shown._path) == LINES


def test_corrections_are_there_when_it_is_opened_again(shown):
    shown.span.value = (6, 8)
    again = Explorer(DIALOGUES, LINES, shown._path)
    assert again.span.value == (6, 8)
    again.show.value = explorer.CORRECTED
    assert [d for _, d in again.dialogue.options] == ["a"]


def test_the_last_correction_counts_whatever_names_the_reference(tmp_path):
    overlay, first = tmp_path / "overlay.jsonl", {"dialogue_id": "a", "window": {"open": 5, "ready": 6, "close": 8}}
    by_name, by_id = first | {"name": "book", "occurrence": 2}, first | {"reference_id": "r1"}
    overlay.write_text("".join(json.dumps(c) + "\n" for c in (by_name, by_id)))
    shown = Explorer(DIALOGUES, LINES, overlay)
    shown.numbers["close"].value = 9
    assert shown.span.value == (5, 9) and corrections.apply(LINES, overlay)[0].references[0].window.close == 9


def test_a_correction_is_written_and_shown_again_in_its_own_split_only(shown):
    """Dialogue a is in both splits; what was corrected before splits were told apart is shown in each."""
    shown.numbers["close"].value = 8
    opened = {s: Explorer(DIALOGUES, LINES, shown._path, split=s) for s in ("train", "dev")}
    assert [e.span.value for e in opened.values()] == [(5, 8), (5, 8)]
    opened["dev"].span.value = (6, 9)
    assert written(shown)[-1]["split"] == "dev"
    again = {s: Explorer(DIALOGUES, LINES, shown._path, split=s).span.value for s in ("train", "dev")}
    assert again == {"train": (5, 8), "dev": (6, 9)}


@pytest.mark.parametrize(
    ("show", "action", "expected"),
    [(explorer.EVERY, explorer.ANY_ACTION, ["a", "b", "c"]), (explorer.EVERY, "pay", ["b"]),
     (explorer.OUTSIDE, explorer.ANY_ACTION, ["a"]), (explorer.OTHER_PARAMS, explorer.ANY_ACTION, ["b"]),
     (explorer.DISAGREE, explorer.ANY_ACTION, ["b"]),
     (explorer.DISAGREE, "book", []), (explorer.CORRECTED, explorer.ANY_ACTION, [])],
)  # fmt: skip
def test_filters(shown, show, action, expected):
    shown.show.value, shown.action.value = show, action
    assert [d for _, d in shown.dialogue.options] == expected
    assert ("No dialogue" in shown._view.value) == (not expected)
    if action == "pay" and expected:
        assert shown.reference.value == "r1"


def test_dialogues_are_found_by_their_words_and_sorted_by_the_policys_utility(shown):
    """In b the right trigger at turn 4 is worth 1, the false one costs 0.25; in a both references are missed."""
    shown.search.value = "<B 7>"
    assert [d for _, d in shown.dialogue.options] == ["b"]
    shown.search.value = ""
    shown.order.value = explorer.BEST
    assert [d for _, d in shown.dialogue.options] == ["a", "b", "c"]  # no policy is chosen yet
    shown.policy.value = "trained"
    assert [d for _, d in shown.dialogue.options] == ["b", "a", "c"]
    assert shown._utilities() == {"a": 0.0, "b": 0.75, "c": 0.0}
    shown.order.value = explorer.WORST
    assert [d for _, d in shown.dialogue.options] == ["a", "c", "b"]


def test_the_utility_is_of_the_dialogues_that_are_shown_by_the_rules_given_and_windows_as_corrected(tmp_path):
    """A quality filter took a out, whose references are still annotated."""
    rules = {"theta": 0.75, "price": 1.0}
    shown = Explorer(DIALOGUES[1:], LINES, tmp_path / "overlay.jsonl", {"trained": SAID}, rules=rules)
    shown.order.value, shown.policy.value = explorer.BEST, "trained"
    assert shown._utilities() == {"b": 0.0, "c": 0.0}  # 1 for the right trigger, less 1 for the false one
    shown.dialogue.value = "b"
    shown.span.value = (5, 6)
    assert shown._utilities() == {"b": -2.0, "c": 0.0}  # at turn 4 pay is false now too


def test_a_run_is_explored_by_its_own_rules(tmp_path):
    run = make_run(tmp_path, theta=0.5, execution_price=1.0)
    shown = Explorer.of(run, "test")
    assert shown._rules == {"theta": 0.5, "price": 1.0} and explorer.WORST in shown.order.options


def test_where_turns_were_sampled_there_is_no_order_by_utility(tmp_path):
    assert Explorer.of(make_run(tmp_path, evaluation_turns=2), "test").order.options == (explorer.AS_READ,)


def test_a_dialogue_without_references_shows_and_writes_nothing(shown):
    shown.dialogue.value = "c"
    assert shown.reference.value is None and shown.span.disabled and "&lt;c 1&gt;" in shown._view.value
    shown.withdraw.click()
    assert not shown._path.exists()


def test_the_transcript_has_a_lane_a_reference_and_marks_where_things_happened():
    html = transcript.render(DIALOGUES[0], LINES[0].references, "r1")
    rows = html.split("<tr>")[2:]
    assert [row.count("pa-open") for row in rows] == [1, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert [row.count("pa-ready") for row in rows] == [0, 1, 1, 0, 0, 1, 1, 0, 0, 0]
    assert [row.count("◆") for row in rows] == [0] * 8 + [1, 0] and "book(to=Rome)" in html
    html = transcript.render(DIALOGUES[1], LINES[1].references, None, SAID, "trained")
    row = html.split("<tr>")[5]
    assert row.count("●") == 2 and "hold" in html and "pa-ready" in row
