"""Readiness thresholds and metric variants, by hand."""

import numpy as np
import pytest
from proactor_lib.bench.synthetic import made_up_dialogues, made_up_predictions
from proactor_lib.errors import UserError
from proactor_lib.metrics import evaluate_predictions
from proactor_lib.metrics.inputs import Inputs
from proactor_lib.metrics.thresholds import (
    agreement,
    fired_from,
    left_one_out,
    persistence,
    sweep,
    trade_off,
    tune,
    tuned,
)
from proactor_lib.metrics.utility import utility_at
from proactor_lib.metrics.variants import agreement as variant_agreement
from proactor_lib.metrics.variants import verdicts

from support.metric_cases import candidate, dialogue, needs, ready, reference, says


def confidences(predictions):
    return {p.turn: [a.confidence for a in p.actions] for p in predictions}


def test_persistence_counts_turns_in_a_row():
    said = says({1: ready(), 2: [ready(), candidate("pay")], 3: ready(), 5: ready(), 6: candidate(), 7: ready()})
    assert confidences(persistence(said, horizon=2)) == {1: [0.5], 2: [1, 0], 3: [1], 5: [0.5], 6: [0], 7: [0.5]}


def test_agreement_is_the_share_of_samples_that_say_the_same():
    said = says({1: [ready(day="Friday"), candidate("pay")]})
    samples = [
        said,
        says({1: ready(day="friday")}),  # the same value
        says({1: [ready(day="sunday"), ready("pay")]}),
        says({1: candidate(day="friday")}) + says({2: ready(day="friday")}),
    ]
    assert confidences(agreement(said, samples)) == {1: [2 / 4, 1 / 4]}


def test_a_threshold_fires_from_it_on_and_leaves_what_has_no_confidence():
    said = persistence(says({1: ready(), 2: [ready(), candidate("pay")]}), horizon=2) + says({3: ready()})
    statuses = {t: [[a.status for a in p.actions] for p in fired_from(said, t)] for t in (0, 0.5, 1)}
    assert statuses == {
        0: [["ready"], ["ready", "ready"], ["ready"]],
        0.5: [["ready"], ["ready", "candidate"], ["ready"]],
        1: [["candidate"], ["ready", "candidate"], ["ready"]],
    }


@pytest.fixture
def inputs():
    """A need at 3..5. Said ready: `book` at 3, 4, 5 (right), `pay` at 1 and `find` at 7 (false)."""
    said = says({1: ready("pay"), 3: ready(), 4: ready(), 5: ready(), 7: ready("find")})
    return Inputs([dialogue()], [needs(reference(window=(3, 3, 5)))], persistence(said, horizon=4))


def test_what_a_threshold_is_worth(inputs):
    """One reference: at 0.25 two false executions, `pay` and `find`; at 0.5 the need is met at 4 of 3..5, at 0.75 at

    5, at 1 never."""
    tables = sweep(inputs, [0.25, 0.5, 0.75, 1])
    utilities = {t: utility_at(table, [0.25, 1]).tolist()[0] for t, table in tables.items()}
    assert utilities == {0.25: [0.5, -1], 0.5: pytest.approx([2 / 3] * 2), 0.75: pytest.approx([1 / 3] * 2), 1: [0, 0]}
    assert tune(tables, 0.25, own=1) == 0.5 and tune(tables, 0.1, own=1) == 0.25
    curve = trade_off(tables, bootstrap=5).set_index(["threshold", "metric"]).value
    assert curve[0.25, "ftr"] == pytest.approx(2 / 5) and curve[0.5, "ftr"] == 0
    assert curve[0.25, "opportunity_timing"] == 1 and curve[0.5, "opportunity_timing"] == pytest.approx(2 / 3)
    dear = trade_off(sweep(inputs, [0.25], price=1), bootstrap=5).set_index("metric").value
    assert (curve[0.25, "utility"], dear["utility"]) == (0.5, -1)


def test_a_dear_false_execution_silences_and_a_free_one_does_not(inputs):
    tables = sweep(inputs, [0, 0.25, 1])
    assert tune(tables, 0, own=1) == 0.25 and tune(tables, 100, own=0.5) == 1  # of equals the most reluctant
    assert tune(tables, 0, own=0) == 0  # but for the agent's own
    found = tuned(tables, tables, tables[0.25], [0, 100], own=1, bootstrap=10).set_index("price")
    assert found.threshold.to_dict() == {0: 0.25, 100: 1}
    assert found.utility.to_dict() == {0: 1, 100: 0} and found.untuned.to_dict() == {0: 1, 100: 1 - 200}
    assert found.gain.to_dict() == {0: 0, 100: 199} and found[["low", "high"]].isna().all(axis=None)
    assert found.false_executions.to_dict() == {0: 2, 100: 0} and found.opportunity_timing.to_dict() == {0: 1, 100: 0}


def test_what_tuning_is_worth_is_told_by_dialogues_that_it_did_not_see():
    """One right trigger and two false ones, equally sure. At 0.4 firing is worth (1 - 0.8) / 3, by the first dialogue
    alone: tuned without it nothing fires there, tuned with it the others fire."""
    said = [line for n in "abc" for line in says({3: ready() if n == "a" else ready("pay")}, n)]
    sure = [
        line.model_copy(update={"actions": (line.actions[0].model_copy(update={"confidence": 0.5}),)}) for line in said
    ]
    needed = [needs(reference(window=(3, 3, 5)), id=n) for n in "abc"]
    tables = sweep(Inputs([dialogue(n) for n in "abc"], needed, sure), [0.5, 1])
    assert utility_at(tables[0.5], [0.4])[0, 0] == pytest.approx(0.2 / 3) and tune(tables, 0.4, own=1) == 0.5
    assert left_one_out(tables, 0.4, own=1) == pytest.approx(-0.8 / 3)
    assert np.isnan(left_one_out({t: table[:1] for t, table in tables.items()}, 0.4, own=1))


def test_sampled_turns_give_no_threshold(inputs):
    with pytest.raises(UserError, match="asked at some turns only"):
        tune(sweep(inputs, [0, 1], evaluated_turns={"d": [1, 3]}), 0.25, own=1)


def test_variants_show_what_a_finding_hangs_on():
    """`spelled` says Friday for friday: as good when values are normalised, worse when they are exact."""
    names = [f"d{i:02}" for i in range(12)]
    references = [needs(reference(day="friday"), id=n) for n in names]
    methods = {
        "plain": [p for n in names for p in says({4: ready(day="friday")}, n)],
        "spelled": [p for n in names for p in says({4: ready(day="Friday")}, n)],
    }
    found = verdicts([dialogue(n) for n in names], references, methods, bootstrap=50)
    table = variant_agreement(found).set_index("metric")
    assert table.loc["ac", "theta 0.75, normalised"] == "same" and table.loc["ac", "theta 0.75, exact"] == "higher"
    assert table.finding["ac"] == "depends" and table.finding["rar"] == "holds"
    assert table.loc["missed", "theta 0.5, exact"] == "same" and table.loc["missed", "theta 0.9, exact"] == "lower"


def test_a_finding_can_turn_round():
    """`half` fires on half the values, at once; `late` with all of them, after close: theta decides which is timely."""
    names = [f"d{i:02}" for i in range(12)]
    references = [needs(reference(window=(2, 2, 4), day="friday"), id=n) for n in names]
    methods = {
        "half": [p for n in names for p in says({2: ready(day="monday")}, n)],
        "slow": [p for n in names for p in says({3: ready(day="friday")}, n)],
    }
    found = verdicts([dialogue(n) for n in names], references, methods, [(0.75, "exact"), (0.5, "exact")], bootstrap=50)
    table = variant_agreement(found).set_index("metric")
    assert table.loc["opportunity_timing", ["theta 0.75, exact", "theta 0.5, exact"]].tolist() == ["lower", "higher"]
    assert table.finding["opportunity_timing"] == "reversed"


def test_thresholds_move_ftr_and_timing_together():
    """On made-up agents, waiting longer never adds a false trigger of an action that was said once only."""
    dialogues, references = made_up_dialogues(20, 12)
    said = persistence(made_up_predictions(references, 12, 1), horizon=4)
    tables = sweep(Inputs(dialogues, references, said), [0.25, 0.5, 0.75, 1])
    faults = [t.faults.sum() for t in tables.values()]
    assert faults == sorted(faults, reverse=True) and faults[0] > faults[-1]
    ready_once = evaluate_predictions(dialogues, references, said)
    assert ready_once.equals(tables[0.25])  # the lowest step above 0 is what the agent said
