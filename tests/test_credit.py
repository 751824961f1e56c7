"""Advantages, the weight of a turn, and rewards along trajectories, against numbers worked out by hand."""

import pytest
from proactor_lib.agent import parse
from proactor_lib.artf.training.counterfactual import counterfactual_scores, sampled_utility
from proactor_lib.artf.training.credit import advantages, natural_weights, trajectory_scores
from proactor_lib.errors import UserError
from proactor_lib.params import load_params
from proactor_lib.rewards import Score

from support.metric_cases import reference


def scores(*values):
    return [Score(v) for v in values]


def test_by_the_groups_deviation():
    of = lambda *values: advantages([scores(*values)])[0]  # noqa: E731
    assert of(1.0, 0.0, 0.5, 0.5) == pytest.approx([2**0.5, -(2**0.5), 0.0, 0.0])
    assert of(1.0, None, 0.0) == [1.0, None, -1.0]
    assert of(0.3, 0.3) == [0.0, 0.0] and of(0.3, None) == [0.0, None]
    assert of(None, None) == [None, None]
    assert of(1.0, 1.0, 0.0) == pytest.approx(of(1.0, 1.0, 0.9))  # a price has no meaning


def test_by_the_steps_deviation_or_none():
    groups = [scores(1.0, 1.0, 0.0), scores(1.0, 1.0, 0.9), scores(0.5, 0.5, None)]
    assert advantages(groups, "none") == [
        pytest.approx([1 / 3, 1 / 3, -2 / 3]), pytest.approx([1 / 30, 1 / 30, -2 / 30]), [0.0, 0.0, None]
    ]  # fmt: skip
    # all eight: mean 5.9 / 8, mean of squares 5.31 / 8
    deviation = (5.31 / 8 - (5.9 / 8) ** 2) ** 0.5
    assert advantages(groups, "batch")[0] == pytest.approx([1 / 3 / deviation, 1 / 3 / deviation, -2 / 3 / deviation])
    assert advantages(groups, "batch")[2] == [0.0, 0.0, None]
    assert advantages([], "batch") == []


def test_each_kind_of_turn_weighs_as_in_its_dialogue():
    """Ten turns: due at 4 to 6, early at 2 and 3, five silent. Of four sampled turns two are due, two silent."""
    weights = natural_weights([reference(window=(2, 4, 6))], 10, [4, 6, 7, 9])
    assert weights == pytest.approx({4: 0.3 / 0.5, 6: 0.3 / 0.5, 7: 0.5 / 0.5, 9: 0.5 / 0.5})
    everything = natural_weights([reference(window=(2, 4, 6))], 10, range(1, 11))
    assert set(everything.values()) == {1.0}


READY, OTHER, WAIT, GARBAGE = "ready: book | day=friday", "ready: pay", "candidate: book | day=friday", "?!"


def along(*trajectories, references=None, price=0.25):
    """Rewards by trajectory, of outputs at the turns 1, 2, 3, ..."""
    references = references or [reference(window=(2, 3, 4), day="friday")]
    outputs = [(turn, [parse(t) for t in texts]) for turn, texts in enumerate(zip(*trajectories, strict=True), start=1)]
    found = trajectory_scores(references, outputs, 0.75, price)
    return [[scores[k].value for scores in found] for k in range(len(trajectories))]


def test_what_is_executed_at_a_turn_and_what_its_trajectory_still_gets():
    """The window opens at 2, is ready at 3, closes at 4: a trigger at 2 or 3 scores 1, at 4 one half."""
    early, punctual, late, never, repeats = along(
        ["none", READY, "none", "none", "none"],
        ["none", WAIT, READY, "none", "none"],
        ["none", "none", "none", READY, "none"],
        ["none", "none", "none", "none", "none"],
        ["none", READY, READY, READY, READY],
    )
    assert early == [0, 1, 0, 0, 0]
    assert punctual == [0, 1, 1, 0, 0]  # at turn 2 waiting is worth what comes of it: a trigger gains nothing over it
    assert late == [0, 0.5, 0.5, 0.5, 0]
    assert never == [0, 0, 0, 0, 0]
    assert repeats == [0, 1, 0, 0, 0]  # a repeat is no execution: nothing gained, nothing lost


def test_a_false_execution_costs_its_price_once_and_so_does_an_unreadable_output():
    false, again, unreadable = along(
        [OTHER, "none", READY, "none"], [OTHER, OTHER, f"{READY}\n{OTHER}", "none"], [GARBAGE, "none", READY, GARBAGE]
    )
    assert false == [-0.25, 1, 1, 0] and again == [-0.25, 1, 1, 0] and unreadable == [-0.25, 1, 1, -0.25]
    assert along([OTHER, "none", READY, "none"], price=0.12)[0] == pytest.approx([-0.12, 1, 1, 0])


def test_later_gains_are_of_references_open_at_the_turn_alone():
    two = [reference(window=(1, 1, 4), day="friday"), reference("pay", window=(3, 3, 4))]
    assert along(["none", READY, OTHER, "none"], references=two)[0] == [0.75, 0.75, 1, 0]
    components = trajectory_scores(
        two, [(t, [parse(x)]) for t, x in ((2, "none"), (3, f"{READY}\n{OTHER}"))], 0.75, 0.25
    )
    assert components[0][0].components == {"right": 0, "false": 0, "later": 0.5}
    assert components[1][0].components == {"right": 1.5, "false": 0, "later": 0}


@pytest.mark.parametrize("credit", ["trajectory", "counterfactual"])
def test_beyond_the_turn_credit_needs_all_turns_and_utility(credit):
    asked = {"credit": credit, "reward": "utility"}
    assert load_params(None, asked).credit == credit
    for other in ({"turns_per_dialogue": 4}, {"reward": "rac"}):
        with pytest.raises(UserError, match=f"credit '{credit}' needs reward 'utility' and turns_per_dialogue 0"):
            load_params(None, asked | other)


def added(*turns, references=None, price=0.25):
    """Counterfactual rewards of the outputs of each turn, the turns counted from 1."""
    references = references or [reference(window=(2, 3, 4), day="friday")]
    outputs = [(turn, [parse(text) for text in texts]) for turn, texts in enumerate(turns, start=1)]
    found = counterfactual_scores(references, outputs, 0.75, price, "seed", backgrounds=500)
    return [[score.value for score in scores] for scores in found]


def test_an_output_is_worth_what_it_adds_to_the_dialogue():
    """Half of the trajectories trigger in time (1), which takes the place of the late trigger (one half)."""
    wait, punctual, late, after = added(["none", WAIT], [READY, "none"], ["none", "none"], [READY, READY])
    assert wait == [0, 0] and late == [0, 0]
    assert punctual == [0.5, 0]  # without it the late trigger comes in any case
    assert after[0] == after[1] == pytest.approx(0.25, abs=0.06)  # a half, where the punctual one has not come


def test_a_false_execution_is_charged_where_it_is_the_first_of_its_kind():
    first, second, unreadable = added([OTHER, "none"], [OTHER, OTHER], [GARBAGE, "none"])
    assert first == [0, 0]  # the second comes in any case: without the first, it is the false one
    assert second[0] == second[1] == pytest.approx(-0.125, abs=0.03)
    assert unreadable == [-0.25, 0]
    assert added([OTHER, "none"], price=0.12) == [[-0.12, 0]]


def test_equal_outputs_get_equal_rewards_and_a_seed_the_same_again():
    outputs = [(turn, [parse(READY), parse("none"), parse(READY)]) for turn in range(1, 6)]
    given = [reference(window=(2, 3, 4), day="friday")]
    once, again = (counterfactual_scores(given, outputs, 0.75, 0.25, "a", backgrounds=3) for _ in range(2))
    assert once == again and all(scores[0] == scores[2] for scores in once)


def test_the_utility_of_what_is_sampled():
    """Two trajectories, one reference: one triggers in time (1) and does one thing for nothing, the other is late."""
    texts = [("none", OTHER), (READY, "none"), (READY, GARBAGE), ("none", READY)]
    outputs = [(turn, [parse(text) for text in pair]) for turn, pair in enumerate(texts, start=1)]
    visit = [reference(window=(2, 3, 4), day="friday")], outputs
    assert sampled_utility([visit, visit], 0.75, price=0.25) == pytest.approx((1 + 0.5 - 0.25) / 2)
    assert sampled_utility([], 0.75, 0.25) is None
