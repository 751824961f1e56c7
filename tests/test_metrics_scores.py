"""Whole dialogues scored, against numbers worked out by hand, and properties that hold for any."""

import math
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proactor_lib.agent import reference_output
from proactor_lib.bench.synthetic import made_up_dialogues, made_up_predictions
from proactor_lib.errors import UserError
from proactor_lib.metrics import METRICS, evaluate_predictions, score_predictions, turn_scores
from proactor_lib.metrics.intervals import estimate
from proactor_lib.schema import Dialogue, Turn, TurnPrediction

from support.metric_cases import candidate, dialogue, needs, ready, reference, says


def metrics(references, predictions, dialogues=None, **options):
    """{metric: value}, None where undefined."""
    given_ = [dialogue()] if dialogues is None else dialogues
    values = estimate(evaluate_predictions(given_, references, predictions, **options))
    return {m: None if math.isnan(v) else pytest.approx(v) for m, v in zip(METRICS, values, strict=True)}


def triggered(references, outputs, **options):
    """{reference id: turn of its first match}, None if never."""
    table = score_predictions([dialogue()], [needs(*references)], says(outputs), **options).references
    return {r.id: None if math.isnan(r.triggered) else int(r.triggered) for r in table.itertuples()}


def test_two_dialogues_by_hand():
    """d: a window of turns 2..6, said at 2 (candidate), 3 and 4 (ready), a fault at 8. e: two needs, one met late."""
    references = [
        needs(reference(observed=5)),
        needs(reference("pay", (1, 1, 2), 2), reference("find", (4, 4, 4)), id="e"),
    ]
    predictions = says({2: candidate(), 3: ready(), 4: ready(), 8: ready()}) + says(
        {3: [ready("pay"), candidate("find")]}, "e"
    )
    found = metrics(references, predictions, [dialogue("d"), dialogue("e", 4)])
    # d: scored turns 2..6 and 8, AC 1, 1, 1, 0, 0, 0; e: scored 1, 2, 3, 4, AC all 0
    assert found["ac"] == (3 / 6 + 0) / 2 and found["max_ac"] == 0.25 and found["difference"] == 0
    assert found["pt"] == (2 / 6 + 0) / 2
    assert found["ftr"] == 2 / 4 and found["rar"] == 4 / 6
    # book: first ready at 3, in [2, 4]: 1. pay: at 3, one after close: 0, late. find: never.
    assert found["opportunity_timing"] == 1 / 3 and found["missed"] == 1 / 3
    assert found["late"] == 1 / 3 and found["premature"] == 0
    assert found["lead"] == ((5 - 3) + (2 - 3)) / 2


def test_leads_and_waits_in_seconds():
    """A turn's moment is its end, else its start; a logged trigger's own time goes before its turn's."""
    turns = [Turn(speaker="a", text="-", start=10 * i, end=10 * i + 4) for i in range(5)] + [
        Turn(speaker="a", text="-", start=60)
    ]
    timed = Dialogue(id="d", domain="d", turns=turns)
    own_time = reference("pay", (1, 1, 6), 6).model_copy(update={"observed_time": 57.5})
    references = [needs(reference(window=(2, 3, 6), observed=6), own_time, reference("find", (2, 2, 4)))]
    found = metrics(references, says({2: [ready(), ready("find")], 4: ready("pay")}), [timed])
    # book: said at 2 (14 s), logged at turn 6 (60 s); pay: said at 4 (34 s), ready at 1 (4 s); find: nothing logged
    assert found["lead_seconds"] == ((60 - 14) + (57.5 - 34)) / 2
    assert found["wait_seconds"] == (0 + 30 + 0) / 3
    untimed = metrics(references, says({2: ready()}), [dialogue("d")])
    assert untimed["lead_seconds"] is untimed["wait_seconds"] is None


def test_difference_comes_from_the_averages():
    """Turn 3: AC (1 + 0) / 2, Max AC 1; turn 4: both 1. AC .75, Max AC 1: (1 - .75) / .75."""
    found = metrics([needs(reference(window=(3, 3, 4)))], says({3: [ready(), ready("other")], 4: ready()}))
    assert found["ac"] == 0.75 and found["max_ac"] == 1 and found["difference"] == 1 / 3


def test_no_predictions():
    found = metrics([needs(reference(observed=5))], [])
    assert (found["ac"], found["max_ac"], found["pt"]) == (0, 0, 0)
    assert (found["difference"], found["ftr"], found["rar"], found["lead"]) == (None, None, None, None)
    assert (found["opportunity_timing"], found["missed"], found["late"], found["premature"]) == (0, 1, 0, 0)


@pytest.mark.parametrize("references", [[], [needs()]])
def test_no_references(references):
    found = metrics(references, says({3: [ready(), candidate("pay")]}))
    assert (found["ac"], found["max_ac"], found["pt"], found["ftr"], found["rar"]) == (0, 0, 0, 1, 0.5)
    assert found["difference"] is found["opportunity_timing"] is found["missed"] is found["lead"] is None


def test_neither_predictions_nor_references():
    found = metrics([], [])
    assert found.pop("false_needs") == 0  # silent at ten turns without a need
    assert {m for m, v in found.items() if v is not None} == set()


def test_a_dialogue_without_scored_turns_leaves_the_averages_alone():
    both = metrics([needs(reference())], says({3: ready()}), [dialogue(), dialogue("empty")])
    assert both == metrics([needs(reference())], says({3: ready()}))


def test_an_empty_output_is_silence():
    assert metrics([needs(reference())], says({3: []})) == metrics([needs(reference())], [])


@pytest.mark.parametrize(
    "turn, score, fate",
    [
        (1, 0, "premature"),
        (2, 1, "in window"),  # open
        (4, 1, "in window"),  # ready
        (5, 2 / 3, "in window"),
        (6, 1 / 3, "in window"),  # close
        (7, 0, "late"),  # close + 1
        (9, 0, "late"),
    ],
)
def test_timing_at_the_edges_of_a_window(turn, score, fate):
    found = score_predictions([dialogue()], [needs(reference(observed=6))], says({turn: ready()})).references
    assert found.timing.item() == pytest.approx(score)
    assert found.outcome.item() == fate and found.lead.item() == 6 - turn


@pytest.mark.parametrize("turn, score, fate", [(2, 0, "premature"), (3, 1, "in window"), (4, 0, "late")])
def test_timing_of_a_window_of_one_turn(turn, score, fate):
    found = score_predictions([dialogue()], [needs(reference(window=(3, 3, 3)))], says({turn: ready()})).references
    assert (found.timing.item(), found.outcome.item()) == (score, fate)


def test_only_the_first_match_counts():
    assert triggered([reference()], {1: ready(), 3: ready()}) == {"book-2": 1}


def test_a_candidate_triggers_nothing():
    assert triggered([reference()], {3: candidate()}) == {"book-2": None}


def test_a_ready_prediction_below_theta_triggers_nothing():
    assert triggered([reference(day="friday")], {3: ready(day="monday")}) == {"book-2": None}
    assert triggered([reference(day="friday")], {3: ready(day="monday")}, theta=0.5) == {"book-2": 3}


class TestTwoReferencesOfOneName:
    """Ready predictions go to references one to one, and repeats are ignored."""

    def test_one_prediction_triggers_one(self):
        assert triggered([reference(window=(2, 3, 4)), reference(window=(6, 7, 8))], {3: ready()}) == {
            "book-2": 3,
            "book-6": None,
        }

    def test_an_agent_that_repeats_through_each_window_triggers_both_in_time(self):
        """Neither the repeats at 3 and 4, nor one at 5 outside both windows, are taken for the second need."""
        two = [reference(window=(2, 3, 4)), reference(window=(6, 7, 8))]
        assert triggered(two, {t: ready() for t in range(2, 9)}) == {"book-2": 2, "book-6": 6}

    def test_like_values_are_told_apart(self):
        """Oslo/friday fits Oslo/sunday at 0.75, a match. Said again after its own window, it is a repeat."""
        two = [
            reference(window=(2, 3, 4), city="Oslo", day="friday"),
            reference(window=(6, 7, 8), city="Oslo", day="sunday"),
        ]
        stuck = {t: ready(city="Oslo", day="friday") for t in range(3, 9)}
        assert triggered(two, stuck) == {"book-2": 3, "book-6": None}
        assert triggered(two, stuck | {8: ready(city="Oslo", day="sunday")}) == {"book-2": 3, "book-6": 8}

    def test_a_repeat_with_more_parameters_is_a_repeat(self):
        two = [
            reference(window=(2, 3, 4), city="Oslo", day="friday"),
            reference(window=(6, 7, 8), city="Oslo", day="sunday"),
        ]
        refined = {2: ready(city="Oslo"), 3: ready(city="Oslo", day="friday")}
        assert triggered(two, refined) == {"book-2": 2, "book-6": None}

    def test_a_reference_that_covers_the_turn_comes_before_a_better_fit(self):
        two = [
            reference(window=(2, 2, 3), city="Oslo", day="friday"),
            reference(window=(6, 7, 8), city="Oslo", day="sunday"),
        ]
        assert triggered(two, {7: ready(city="Oslo", day="friday")}) == {"book-2": None, "book-6": 7}

    def test_then_the_better_fit_then_the_earlier_close(self):
        two = [reference(window=(2, 2, 9), day="friday", id="a"), reference(window=(2, 2, 5), day="sunday", id="b")]
        assert triggered(two, {3: ready(day="friday")}, theta=0.5) == {"a": 3, "b": None}
        assert triggered(two, {3: ready(day="monday")}, theta=0.5) == {"a": None, "b": 3}

    def test_two_predictions_of_one_turn_go_to_one_each(self):
        two = [reference(window=(2, 2, 5), day="friday", id="a"), reference(window=(2, 2, 5), day="sunday", id="b")]
        for said in ([ready(day="friday"), ready(day="monday")], [ready(day="monday"), ready(day="friday")]):
            assert triggered(two, {3: said}, theta=0.5) == {"a": 3, "b": 3}

    def test_of_two_that_fit_equally_the_shorter_one_goes_first_whatever_its_parameters_are_called(self):
        """Both fit the first reference by 5/6; the second is left to the longer one, which fits it by 3/4."""
        wanted = [
            reference(window=(1, 1, 1), id="r1", x="1", y="2"),
            reference(window=(1, 1, 2), id="r2", x="1", v="3"),
        ]
        for name in "wz":
            longer = ready(x="1", y="2", **{name: "9", name + "2": "9"})
            assert metrics([needs(*wanted)], says({1: [ready(x="1"), longer]}))["opportunity_timing"] == 1 / 2

    def test_the_same_prediction_twice_in_a_turn_is_one(self):
        two = [reference(window=(2, 2, 5), id="a"), reference(window=(2, 2, 9), id="b")]
        assert triggered(two, {3: [ready(), ready()]}) == {"a": 3, "b": None}
        assert triggered(two, {3: ready(), 4: ready(), 6: ready()}) == {"a": 3, "b": 6}  # at 6 only b is open


def test_an_output_is_a_set():
    """`Friday` and `friday` are one prediction; candidate and ready of one action are ready."""
    said = [ready(day="friday"), candidate(day="Friday"), ready(day="Friday"), candidate("pay")]
    found = metrics([needs(reference(window=(3, 3, 3), day="friday"))], says({3: said}))
    assert (found["ac"], found["pt"], found["rar"], found["ftr"]) == (1 / 2, 1 / 2, 1 / 2, 0)
    assert found["opportunity_timing"] == 1


class TestSampledTurns:
    """Two needs: `book` 2, 4, 6 and `pay` 9, 9, 9; asked at turns 1, 3 and 5."""

    def found(self, outputs, evaluated_turns=(1, 3, 5)):
        references = [needs(reference(), reference("pay", (9, 9, 9)))]
        return metrics(references, says(outputs), evaluated_turns={"d": evaluated_turns})

    def test_only_the_turns_asked_are_scored(self):
        assert self.found({3: candidate()})["ac"] == 1 / 2  # turns 3 and 5

    def test_what_was_said_at_another_turn_triggers_nothing(self):
        found = self.found({4: ready()})
        assert (found["missed"], found["opportunity_timing"]) == (1, 0)

    def test_a_reference_counts_only_if_it_can_be_executed_at_a_turn_asked(self):
        """Nothing was asked at turn 9; `book` is due at 5: until then a trigger is worth 1."""
        assert (self.found({})["missed"], self.found({})["opportunity_timing"]) == (1, 0)
        assert self.found({5: ready()})["opportunity_timing"] == 1
        assert self.found({3: ready()})["opportunity_timing"] == 1
        assert self.found({1: ready()})["premature"] == 1
        assert self.found({3: ready()}, evaluated_turns=[3])["opportunity_timing"] is None

    def test_after_the_first_such_turn_the_score_falls(self):
        """r' = 5: at turn 6 (6 + 1 - 6) / (6 + 1 - 5)."""
        assert self.found({6: ready()}, evaluated_turns=[1, 5, 6])["opportunity_timing"] == 1 / 2

    def test_nothing_is_known_of_executions(self):
        found = self.found({3: ready()})
        names = ("utility", "execution_precision", "execution_recall", "execution_f1", "false_executions")
        assert {found[m] for m in names} == {None}

    def test_all_turns_asked_are_no_sample(self):
        assert self.found({3: ready()}, evaluated_turns=range(1, 11))["utility"] == 1 / 2


@pytest.mark.parametrize(
    "references, predictions, message",
    [
        ([], says({1: []}, "x"), "unknown dialogue 'x'"),
        ([], says({11: []}), "turn 11; accepted: 1 to 10"),
        ([], says({3: []}) * 2, "turn 3 twice"),
        ([needs(id="x")], [], "unknown dialogue 'x'"),
        ([needs(), needs()], [], "the references twice"),
        ([needs(reference(window=(2, 4, 11)))], [], "turn 11; accepted: 1 to 10"),
        ([needs(reference(id="a"), reference("pay", id="a"))], [], "two references with the id 'a'"),
    ],
)
def test_what_does_not_fit_is_refused(references, predictions, message):
    with pytest.raises(UserError, match=message):
        evaluate_predictions([dialogue()], references, predictions)


def test_a_dialogue_twice_is_refused():
    with pytest.raises(UserError, match="dialogue 'd' is there twice"):
        evaluate_predictions([dialogue(), dialogue()], [], [])


@settings(max_examples=16, deadline=None)
@given(seed=st.integers(0, 10_000), theta=st.sampled_from([0.0, 0.5, 0.75, 1.0]))
def test_the_tables_agree_with_the_metrics_of_each_turn(seed, theta):
    """The frames and `turn_scores`, which rewards use, are one definition."""
    dialogues, references = made_up_dialogues(3, 8, seed)
    predictions = made_up_predictions(references, 8, seed + 1)
    table = evaluate_predictions(dialogues, references, predictions, theta).set_index("dialogue_id")
    for line in references:
        outputs = {p.turn: p.actions for p in predictions if p.dialogue_id == line.dialogue_id}
        turns = [turn_scores(outputs[t], line.references, t, theta) for t in range(1, 9)]
        scored = [t for t in turns if t.ac is not None]
        row = table.loc[line.dialogue_id]
        for name in ("ac", "max_ac", "pt"):
            assert row[name] == pytest.approx(np.mean([getattr(t, name) for t in scored]))
        for name in ("predictions", "ready", "faults"):
            assert row[name] == sum(getattr(t, name) for t in turns)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_dialogues_turns_actions_and_references_changes_nothing(seed):
    dialogues, references = made_up_dialogues(4, 10, seed)
    predictions = made_up_predictions(references, 10, seed + 1)
    before = evaluate_predictions(dialogues, references, predictions)
    rng = random.Random(seed)

    def shuffled(items):
        return rng.sample(list(items), len(items))

    after = evaluate_predictions(
        shuffled(dialogues),
        [line.model_copy(update={"references": shuffled(line.references)}) for line in shuffled(references)],
        [p.model_copy(update={"actions": shuffled(p.actions)}) for p in shuffled(predictions)],
    )
    pd.testing.assert_frame_equal(before, after)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_perfect_agent_is_perfect(seed):
    """It says what is open, at every turn, with what is known by then."""
    dialogues, references = made_up_dialogues(3, 12, seed)
    perfect = [
        TurnPrediction(dialogue_id=line.dialogue_id, turn=t, actions=reference_output(line.references, t))
        for line in references
        for t in range(1, 13)
    ]
    table = evaluate_predictions(dialogues, references, perfect)
    assert table.ac.tolist() == pytest.approx([1] * 3) and table.faults.sum() == 0 and table.premature.sum() == 0


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_reference_has_one_fate_and_metrics_stay_in_range(seed):
    dialogues, references = made_up_dialogues(4, 10, seed)
    scores = score_predictions(dialogues, references, made_up_predictions(references, 10, seed + 1))
    table = scores.dialogues
    in_window = scores.references.query("outcome == 'in window'").groupby("dialogue_id").size()
    fates = table.set_index("dialogue_id")[["missed", "late", "premature"]].sum(axis=1).add(in_window, fill_value=0)
    assert fates.tolist() == table.references.tolist()
    assert (table.ac <= table.max_ac + 1e-12).all() and (table.pt <= table.ac + 1e-12).all()
    assert table[["ac", "max_ac", "pt"]].stack().between(0, 1 + 1e-12).all()
