"""Alignment and the metrics of one turn, against numbers worked out by hand."""

import pytest
from proactor_lib.metrics import alignment, as_set, f1, matches, pair, turn_kind, turn_scores

from support.metric_cases import candidate, ready, reference


@pytest.mark.parametrize(
    "predicted, wanted, expected",
    [
        ({}, {}, 1.0),
        ({}, {"a": "1"}, 0.0),
        ({"a": "1"}, {}, 0.0),
        ({"a": "1"}, {"a": "1", "b": "2", "c": "3"}, 0.5),  # 2 * 1 / (1 + 3)
        ({"a": "1", "b": "9"}, {"a": "1", "b": "2"}, 0.5),  # a wrong value
        ({"a": "1", "z": "2"}, {"a": "1", "b": "2"}, 0.5),  # a wrong key
        ({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "2"}, 0.8),  # 2 * 2 / (3 + 2)
    ],
)
def test_f1_of_parameters(predicted, wanted, expected):
    assert f1(predicted, wanted) == pytest.approx(expected)


def test_names_that_differ_align_at_zero():
    assert alignment(ready("cancel"), reference("book"), 3) == 0


def test_a_name_alone_is_worth_half():
    assert alignment(ready(day="monday"), reference(day="friday"), 3) == 0.5


def test_values_are_compared_normalised_unless_exact_is_asked():
    p, r = ready(day="March 8th, 2019", time="5 pm"), reference(day="2019-03-08", time="17:00")
    assert alignment(p, r, 3) == 1
    assert alignment(p, r, 3, values="exact") == 0.5


def test_a_candidate_is_compared_with_what_is_known_and_a_ready_one_with_everything():
    r = reference(city=("Oslo", 2), day=("friday", 4))
    assert alignment(candidate(city="Oslo"), r, 3) == 1
    assert alignment(candidate(city="Oslo"), r, 4) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert alignment(ready(city="Oslo"), r, 3) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert alignment(candidate(), reference(day=("friday", 4)), 3) == 1  # nothing is known yet: two empty sets


def test_theta_itself_is_a_match():
    s = alignment(ready(a="1"), reference(a="1", b="2", c="3"), 2)
    assert s == 0.75 and matches(s, 0.75) and not matches(s, 0.76)
    assert matches(0.1 + 0.2, 0.3) and matches(0.3, 0.1 + 0.2)
    assert not matches(0.0, 0.0)  # other names


def test_a_turn_with_everything_in_it():
    references = [
        reference("book", city="Oslo", day="friday"),
        reference("find", (1, 1, 3)),
        reference("pay", (9, 9, 9)),
    ]
    predictions = [
        ready("book", city="Oslo", day="friday"),  # 1
        ready("book", city="Oslo"),  # 0.5 + 0.5 * 2/3 = 5/6, a match too
        candidate("find"),  # 1, but not ready
        ready("pay"),  # 0: not open yet
    ]
    scores = turn_scores(predictions, references, turn=3)
    assert scores.ac == pytest.approx((1 + 5 / 6 + 1 + 0) / 4)
    assert scores.max_ac == 1
    assert scores.pt == pytest.approx((1 + 5 / 6) / 4)
    assert (scores.predictions, scores.ready, scores.faults, scores.open) == (4, 3, 1, 2)
    assert scores.rar == 0.75 and scores.ftr == pytest.approx(1 / 3)


def test_below_theta_a_ready_prediction_is_at_fault_but_still_aligned():
    scores = turn_scores([ready(day="monday")], [reference(day="friday")], turn=4)
    assert (scores.ac, scores.max_ac, scores.pt, scores.ftr) == (0.5, 0.5, 0, 1)
    assert turn_scores([ready(day="monday")], [reference(day="friday")], turn=4, theta=0.5).ftr == 0


@pytest.mark.parametrize("turn, fault", [(1, 1), (2, 0), (4, 0), (6, 0), (7, 1)])
def test_coverage_holds_both_ends(turn, fault):
    scores = turn_scores([ready()], [reference(window=(2, 4, 6))], turn)
    assert scores.faults == fault and scores.ac == scores.max_ac == scores.pt == 1 - fault


def test_silence():
    missed = turn_scores([], [reference()], turn=3)
    assert (missed.ac, missed.max_ac, missed.pt, missed.rar, missed.ftr) == (0, 0, 0, None, None)
    quiet = turn_scores([], [reference()], turn=1)
    assert (quiet.ac, quiet.max_ac, quiet.pt, quiet.rar, quiet.ftr) == (None, None, None, None, None)


def test_predictions_where_nothing_is_open():
    scores = turn_scores([candidate()], [], turn=1)
    assert (scores.ac, scores.max_ac, scores.pt, scores.rar, scores.ftr) == (0, 0, 0, 0, None)


def test_the_same_prediction_twice_counts_once():
    scores = turn_scores([ready(), ready(), candidate("pay")], [reference()], turn=4)
    assert scores.ac == scores.pt == 1 / 2 and scores.ready == 1 and scores.faults == 0


def test_an_output_is_a_set():
    """The same name and the same values, however spelled, are one prediction; it is ready if any of them is."""
    said = [candidate(day="Friday"), candidate("pay"), ready(day=" friday "), ready(day="friday"), candidate()]
    assert as_set(said) == [ready(day=" friday "), candidate("pay"), candidate()]
    assert as_set(said, "exact") == [candidate(day="Friday"), candidate("pay"), *said[2:]]
    assert as_set([]) == []


@pytest.mark.parametrize(
    "turn, kind", [(1, "silent"), (2, "early"), (3, "early"), (4, "due"), (6, "due"), (7, "silent")]
)
def test_kinds_of_turns(turn, kind):
    assert turn_kind([reference(window=(2, 4, 6))], turn) == kind
    assert turn_kind([reference(window=(1, 8, 8)), reference("pay", window=(2, 4, 6))], turn) == (
        kind if kind == "due" else "early"
    )


def test_pairs_are_one_to_one_and_the_best_first():
    """s of the day alone: 1/2 + 1/2 * 2/3 = 5/6 with the first, 1 with the second; both details: 1 and 5/6."""
    both = [reference(id="a", window=(2, 4, 6), city="Oslo", day="friday"), reference(id="b", day="friday")]
    assert pair([ready(day="friday"), ready(city="Oslo", day="friday")], both, 4, 0.75) == [(1, 0, 1.0), (0, 1, 1.0)]
    assert pair([ready(day="friday"), ready(day="friday")], both, 4, 0.75) == [
        (0, 1, 1.0),
        (1, 0, pytest.approx(5 / 6)),
    ]
    assert pair([ready(day="monday"), ready("pay")], both, 4, 0.75) == []  # s = 1/2, and another name


def test_equal_pairs_go_by_close_then_open_then_id():
    equal = [reference(id="c", window=w) for w in ((1, 4, 7), (2, 4, 6), (1, 4, 6))]
    equal.append(reference(id="b", window=(1, 4, 6)))
    assert [j for _, j, _ in pair([ready()] * 4, equal, 4, 0.75)] == [3, 2, 1, 0]
