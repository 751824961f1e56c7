"""What an agent would have executed, and what that is worth, against numbers worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from proactor_lib import datasets, policies
from proactor_lib.annotate.evidence import annotate
from proactor_lib.evaluate.splits import spread
from proactor_lib.metrics import compare, evaluate_predictions, score_predictions, table
from proactor_lib.metrics.executions import Executor
from proactor_lib.metrics.intervals import METRICS, estimate
from proactor_lib.metrics.utility import curve, primary, utility_at
from proactor_lib.schema import cases

from support.metric_cases import candidate, dialogue, needs, ready, reference, says

ROOT = Path(__file__).parents[1]


def executed(references, outputs, theta=0.75):
    """[(turn, reference id or None, timing score)] of the executions."""
    executor = Executor(references, theta)
    return [
        (turn, None if e.reference is None else references[e.reference].id, pytest.approx(e.timing))
        for turn, output in outputs.items()
        for e in executor.turn(turn, output if isinstance(output, list) else [output])
    ]


def worth(references, outputs, **options):
    values = estimate(evaluate_predictions([dialogue()], [needs(*references)], says(outputs), **options))
    return {m: None if np.isnan(v) else pytest.approx(v) for m, v in zip(METRICS, values, strict=True)}


def test_a_repeat_is_ignored_and_candidates_never_execute():
    """Window 2, 4, 6: executed at 3, said again until 8."""
    said = {2: candidate()} | {t: ready() for t in range(3, 9)}
    assert executed([reference()], said) == [(3, "book-2", 1)]
    assert executed([], {3: ready(), 5: ready()}) == [(3, None, 0)]  # a false one too


def test_an_extension_of_a_right_execution_is_ignored():
    """The city is enough (s = 5/6); the day comes later, when nothing else is open."""
    wanted = [reference(city="Oslo", day="friday")]
    said = {4: ready(city="Oslo"), 5: ready(city="Oslo", day="Friday"), 6: ready(city="oslo", day="monday")}
    assert executed(wanted, said) == [(4, "book-2", 1)]
    # what drops a value does not extend it, nor does anything extend a false execution
    assert executed(wanted, {4: ready(city="Oslo", day="friday"), 5: ready(city="Oslo")}) == [
        (4, "book-2", 1),
        (5, None, 0),
    ]
    assert executed([], {4: ready(city="Oslo"), 5: ready(city="Oslo", day="friday")}) == [(4, None, 0), (5, None, 0)]


def test_of_two_predictions_that_fit_equally_the_shorter_one_is_executed_whatever_its_parameters_are_called():
    """Both fit by 5/6; the other extends it, and is ignored."""
    wanted = [reference(city="Oslo", day="friday")]
    for name in "az":
        longer = ready(city="Oslo", day="friday", **{name: "1", name + "2": "2"})
        for output in ([ready(city="Oslo"), longer], [longer, ready(city="Oslo")]):
            assert executed(wanted, {4: output}) == [(4, "book-2", 1)]


def test_two_references_of_one_name():
    """Both open at 4: the better fit takes its own, whatever the order. Alone, the earlier close comes first."""
    two = [reference(id="a", window=(2, 4, 9), day="friday"), reference(id="b", window=(2, 4, 6), day="sunday")]
    assert executed(two, {4: [ready(day="sunday"), ready(day="friday")]}) == [(4, "b", 1), (4, "a", 1)]
    like = [reference(id=i, window=w) for i, w in (("a", (2, 4, 9)), ("b", (2, 4, 6)), ("c", (1, 4, 6)))]
    assert executed(like, {4: ready()}) == [(4, "c", 1)]  # equal close: the earlier open
    assert executed(like[:2], {4: ready()}) == [(4, "b", 1)]
    same = [reference(id="z", window=(2, 4, 6)), reference(id="y", window=(2, 4, 6))]
    assert executed(same, {4: ready()}) == [(4, "y", 1)]  # all equal: the id


def test_a_repeat_takes_only_a_reference_that_it_fits_exactly():
    """Said again at 5 and 8, it takes `b`, of the very same values, not `c`, which it fits at 5/6."""
    like = [
        reference(id="a", window=(2, 2, 3), day="friday"),
        reference(id="b", window=(5, 5, 6), day="friday"),
        reference(id="c", window=(8, 8, 9), day="friday", time="noon"),
    ]
    said = {t: ready(day="friday") for t in (2, 3, 5, 8)}
    assert executed(like, said) == [(2, "a", 1), (5, "b", 1)]
    assert executed(like[2:], {8: ready(day="friday")}) == [(8, "c", 1)]  # as a first execution it does


def test_ready_before_ready_is_on_time_and_before_open_false():
    """At 1, before open 2, it is false; said again at 3 it fits exactly and is right."""
    assert executed([reference()], {1: ready(), 3: ready()}) == [(1, None, 0), (3, "book-2", 1)]
    assert executed([reference(day="friday")], {1: ready(), 3: ready()}) == [(1, None, 0)]  # 1/2 < theta


def test_at_close_and_after():
    """Window 2, 4, 6: (6 + 1 - 6) / (6 + 1 - 4) at close, false after it."""
    assert executed([reference()], {6: ready()}) == [(6, "book-2", 1 / 3)]
    assert executed([reference()], {7: ready()}) == [(7, None, 0)]


def test_equal_predictions_of_one_turn_are_one():
    two = [reference(id="a"), reference(id="b")]
    assert executed(two, {4: [ready(), ready(), candidate()]}) == [(4, "a", 1)]
    assert executed([], {4: [ready(day="Friday"), ready(day="friday")]}) == [(4, None, 0)]


def test_what_executions_are_worth():
    """`book` right at 5 (2/3), `pay` never; false: `find` at 1 and `pay` at 3, before its window."""
    wanted = [reference(), reference("pay", (8, 8, 9))]
    found = worth(wanted, {1: ready("find"), 3: ready("pay"), 5: ready()})
    assert found["utility"] == (2 / 3 - 0.25 * 2) / 2
    assert (found["execution_precision"], found["execution_recall"]) == (1 / 3, 1 / 2)
    assert found["execution_f1"] == 2 * 1 / (3 + 2) and found["false_executions"] == 2 / 2
    assert worth(wanted, {1: ready("find"), 3: ready("pay"), 5: ready()}, price=1)["utility"] == (2 / 3 - 2) / 2


def test_what_has_no_denominator_is_null():
    silent, needless = worth([reference()], {}), worth([], {3: ready()})
    assert silent["execution_precision"] is None
    assert (silent["utility"], silent["execution_recall"], silent["execution_f1"]) == (0, 0, 0)
    assert needless["utility"] is needless["execution_recall"] is needless["false_executions"] is None
    assert needless["execution_precision"] == 0


def test_needs_and_arguments_by_hand():
    """Ten turns, `book` open at 2 to 6: silent at 2 and 6 of these five, speaking at 7 of the other five."""
    said = {3: candidate(day="friday"), 4: ready(day="friday"), 5: ready(day="monday"), 7: ready(day="friday")}
    found = worth([reference(day="friday")], said)
    assert found["missed_needs"] == 2 / 5 and found["false_needs"] == 1 / 5
    assert found["balanced_accuracy"] == (3 / 5 + 4 / 5) / 2
    assert found["argument_accuracy"] == 1 / 2  # of the triggers at 4 and 5


def tables_of(*names):
    """Policies on two dialogues with a need each."""
    lines = [needs(reference(), id=i) for i in "de"]
    agents = {"right": {4: ready()}, "hasty": {1: ready("pay"), 4: ready()}, "silent": {}}
    return {
        n: evaluate_predictions([dialogue("d"), dialogue("e")], lines, says(agents[n]) + says(agents[n], "e"))
        for n in names
    }


def test_the_curve_over_the_price():
    found = curve(tables_of("right", "hasty"), prices=[0, 0.5, 1], bootstrap=20)
    assert found.utility.tolist() == [1, 1, 1, 1, 0.5, 0] and (found.low <= found.high).all()
    assert utility_at(tables_of("hasty")["hasty"], [0.25], np.array([[1, 0], [2, 3]])).tolist() == [[0.75], [0.75]]


def test_the_primary_endpoint_says_why_it_is_null():
    tables = tables_of("silent", "right")
    found = primary(table(tables, 20), compare(tables, [("right", "silent")], bootstrap=20), 0.25, sampled=False)
    assert found["policies"] == {"silent": [0, 0, 0], "right": [1, 1, 1]}
    assert found["against"] == {"silent": [1, None, None]}  # so few dialogues, all with the same difference
    assert (found["metric"], found["price"], found["reason"]) == ("utility", 0.25, None)
    lines = [needs(reference())]
    sampled = evaluate_predictions([dialogue()], lines, says({4: ready()}), evaluated_turns={"d": [4]})
    found = primary(table({"m": sampled}, 20), None, 0.25, sampled=True)
    assert found["policies"] == {"m": [None] * 3} and "at some turns only" in found["reason"]


@pytest.fixture(scope="module", params=["homeloan", "sgd"])
def corpus(request):
    """The cases of 40 dialogues of each corpus."""
    folder = ROOT / "../shared/data/sgd"
    if request.param == "sgd" and not folder.is_dir():
        pytest.skip("needs ../shared/data/sgd")
    loaded = datasets.load(request.param, folder if request.param == "sgd" else None, "train", 40)
    return cases(loaded.dialogues, [annotate(d, loaded.catalog) for d in loaded.dialogues], loaded.catalog)


def scored(corpus, policy, evaluated_turns=None):
    said = [
        p
        for c in corpus
        for p in policies.POLICIES[policy](c, 0)
        if evaluated_turns is None or p.turn in evaluated_turns[c.dialogue.id]
    ]
    dialogues, lines = [c.dialogue for c in corpus], [c.line for c in corpus]
    return score_predictions(dialogues, lines, said, evaluated_turns=evaluated_turns)


def test_the_oracle_is_worth_one_and_firing_everything_less(corpus):
    prices = (0.05, 0.25, 1)
    oracle, everything = (utility_at(scored(corpus, p).dialogues, prices)[0] for p in ("oracle", "everything_ready"))
    assert (oracle >= 0.995).all() and (everything < oracle).all()


@pytest.mark.parametrize("count", [0, 2, 6])
def test_the_oracles_timing_is_1_at_any_number_of_turns(corpus, count):
    turns = {c.dialogue.id: spread(len(c.dialogue.turns), count) for c in corpus}
    references = scored(corpus, "oracle", turns).references
    assert len(references) > 10 and references.timing.mean() == pytest.approx(1, abs=5e-4)
