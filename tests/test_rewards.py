"""Rewards without a language model, against numbers worked out by hand."""

import dataclasses
from math import cos, pi
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from proactor_lib import rewards
from proactor_lib.agent import Parsed, reference_output, render
from proactor_lib.errors import UserError
from proactor_lib.metrics import as_set
from proactor_lib.params import load_params
from proactor_lib.rewards import REWARDS, make_reward
from proactor_lib.rewards.metric import MetricReward
from proactor_lib.rewards.schedule import eased

from support.metric_cases import reference
from support.reward_cases import (
    BOOK,
    BOTH,
    GARBAGE,
    PARTIAL,
    RIGHT,
    SILENCE,
    WAITING,
    WRONG,
    group,
    reward,
    scores,
    values,
)

OUTPUTS = (RIGHT, WAITING, PARTIAL, WRONG, BOTH, SILENCE, GARBAGE)
PATIENT = [r for r in REWARDS if REWARDS[r].timed and r != "utility"]  # utility looks at one turn: see its test
METRIC = ["rac", "max_rac", "weighted_metric", "adaptive_metric"]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("rac", [1, 1, 5 / 6, 1 / 2, 1 / 2, 0, 0]),
        ("max_rac", [1, 1, 5 / 6, 1 / 2, 1, 0, 0]),
        # weights .4 RAC, .3 PT, .1 RAR, .2 FTR; possible: .8. WRONG serves nothing of what is due
        (
            "weighted_metric",
            [1, 0.4 / 0.8, (0.7 * 5 / 6 + 0.1) / 0.8, 0, (0.2 + 0.15 + 0.1 - 0.1) / 0.8, 0, 0],
        ),
        # the rubric judge: .4 timing, .3 alignment, .2 restraint, .1 completeness
        (
            "custom_ruler",
            [1, 0.2 + 0.3 + 0.2 + 0.1, 0.4 + 0.3 * 5 / 6 + 0.2 + 0.1, 0, 0.4 + 0.15 + 0.1 + 0.1, 0, 0],
        ),
        # alignment, restraint, completeness
        ("general_ruler", [1, 1, (5 / 6 + 2) / 3, 0, (1 / 2 + 1 / 2 + 1) / 3, 0, 0]),
    ],
)
def test_a_turn_at_which_the_action_is_due(name, expected):
    assert values(name, group(*OUTPUTS)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("rac", [1, 5 / 6, 1, 1 / 2, 0]),
        ("weighted_metric", [1, 5 / 6, 1, 0, 0]),  # .4 RAC - .2 FTR of .4: PT and RAR are left out
        ("custom_ruler", [1, 0.2 + 0.3 * 5 / 6 + 0.2 + 0.1, 0.2 + 0.3 + 0.2 + 0.1, 0.15, 0]),
    ],
)
def test_a_turn_before_ready(name, expected):
    outputs = ("candidate: book | city=Oslo", PARTIAL, RIGHT, WRONG, SILENCE)
    assert values(name, group(*outputs, turn=3)) == pytest.approx(expected)


@pytest.mark.parametrize("name", [r for r in REWARDS if r != "utility"])
@pytest.mark.parametrize("turn", [1, 7])
def test_where_nothing_is_open_silence_is_right_and_anything_else_wrong(name, turn):
    assert values(name, group(SILENCE, RIGHT, "candidate: pay", GARBAGE, turn=turn, progress=1)) == [1, 0, 0, 0]


def test_two_open_references_of_which_one_is_due():
    both = (BOOK, reference("pay", (3, 5, 7)))
    outputs = (f"{RIGHT}\ncandidate: pay", "candidate: pay", RIGHT, f"{WAITING}\nready: pay")
    # the last triggers what is not due: RAC 1, PT 0, RAR 1/2 of the due 1/2, and no fault, for `pay` covers the turn
    # the second serves nothing of what is due
    assert values("weighted_metric", group(*outputs, references=both)) == pytest.approx([1, 0, 1, 0.5 / 0.8])
    # restraint is 1 everywhere; the third serves one of two: timing 1/2, completeness 1/2; the last both with the other
    # status: timing 1/2
    assert values("custom_ruler", group(*outputs, references=both)) == pytest.approx([1, 0, 0.75, 0.8])


@pytest.mark.parametrize(
    "schedule, progress, at",
    [
        *[("linear", u, u) for u in (0, 0.25, 0.5, 1)],
        *[("cosine", u, (1 - cos(pi * u)) / 2) for u in (0, 0.25, 0.5, 1)],
        *[("step", u, e) for u, e in ((0, 0), (0.33, 0), (1 / 3, 0.5), (0.5, 0.5), (2 / 3, 1), (0.9, 1), (1, 1))],
        ("linear", -1, 0),
        ("linear", 2, 1),
    ],
)
def test_schedules(schedule, progress, at):
    assert eased(progress, schedule) == pytest.approx(at)


def test_a_cosine_starts_slowly():
    assert eased(0.25, "cosine") == pytest.approx(0.1464466)


@pytest.mark.parametrize(
    "progress, waiting",  # RAC / (RAC + PT + RAR), from the stages' weights
    [(0, 0.25 / 0.85), (0.25, 0.325 / 0.825), (0.5, 0.4 / 0.8), (0.75, 0.425 / 0.795), (1, 0.45 / 0.79)],
)
def test_adaptive_metric_asks_for_triggers_first_and_for_alignment_last(progress, waiting):
    outputs = group(RIGHT, WAITING, SILENCE, BOTH, progress=progress)
    right, held, _, both = scores(reward("adaptive_metric"), outputs)[0]
    assert (right.value, held.value) == pytest.approx((1, waiting))
    w = {k.removeprefix("weight_"): v for k, v in both.components.items() if k.startswith("weight_")}
    possible = w["rac"] + w["pt"] + w["rar"]
    assert both.value == pytest.approx((w["rac"] / 2 + w["pt"] / 2 + w["rar"] - w["ftr"] / 2) / possible)
    assert held.steady == 0.5  # what a gain is measured by: RAC / (RAC + PT + RAR) halfway, at any progress


@pytest.mark.parametrize(
    "base, progress, expected",  # custom RULER gives WAITING .8 and BOTH .75
    [
        ("rac", 0, [1, 0.5]),
        ("rac", 0.5, [0.85 + 0.15 * 0.8, 0.85 * 0.5 + 0.15 * 0.75]),
        ("rac", 1, [0.7 + 0.3 * 0.8, 0.7 * 0.5 + 0.3 * 0.75]),
        ("max_rac", 1, [0.7 + 0.3 * 0.8, 0.7 + 0.3 * 0.75]),
        ("adaptive_metric", 1, [0.7 * 0.45 / 0.79 + 0.24, 0.7 * (0.225 + 0.1 + 0.14 - 0.105) / 0.79 + 0.225]),
    ],
)
def test_adaptive_ruler_mixes_the_judge_in(base, progress, expected):
    got = values("adaptive_ruler", group(WAITING, BOTH, progress=progress), ruler_base=base)
    assert got == pytest.approx(expected)


def test_of_two_equal_texts_the_one_that_was_cut_off_is_unreadable():
    """The same text in other tokens may end just at the limit."""
    both = group(RIGHT, RIGHT)
    both = dataclasses.replace(both, outputs=(Parsed((), unreadable=True), both.outputs[1]))
    assert values("weighted_metric", both) == [0, 1]


@pytest.mark.parametrize("turn", [1, 3, 4])
def test_a_policy_that_never_changes_does_not_gain_by_the_schedule(turn):
    for name in ("adaptive_metric", "adaptive_ruler"):
        moving = {"reward_schedule": "step", "ruler_base": "adaptive_metric"}
        steady = [
            [s.steady for s in scores(reward(name, **moving), group(*OUTPUTS, turn=turn, progress=u))[0]]
            for u in (0, 1)
        ]
        assert steady[0] == steady[1] == values("weighted_metric", group(*OUTPUTS, turn=turn))
    assert scores(reward("weighted_metric"), group(RIGHT))[0][0].steady is None


def test_components_take_a_score_apart():
    (partial,) = scores(reward("weighted_metric"), group(PARTIAL))[0]
    assert partial.components == pytest.approx(
        {"open": 1, "rac": 5 / 6, "max_rac": 5 / 6, "pt": 5 / 6, "rar": 1, "ftr": 0, "due": 1, "pt_due": 5 / 6,
         "served": 1, "weight_rac": 0.4, "weight_pt": 0.3, "weight_rar": 0.1, "weight_ftr": 0.2}
    )  # fmt: skip
    (silence,) = scores(reward("rac"), group(SILENCE))[0]
    assert (silence.components["rar"], silence.components["ftr"]) == (0, 0)  # not undefined, inside rewards
    (mixed,) = scores(reward("adaptive_ruler"), group(WAITING, progress=1))[0]
    c = mixed.components
    assert (c["lambda"], c["metric"], c["ruler"], c["timing"], c["rac"]) == pytest.approx((0.3, 1, 0.8, 0.5, 1))


def test_weights_are_the_users():
    only_alignment = {"rac": 1.0, "pt": 0.0, "rar": 0.0, "ftr": 0.0}
    by_alignment = values("weighted_metric", group(*OUTPUTS), reward_weights=only_alignment)
    assert by_alignment == pytest.approx([1, 1, 5 / 6, 0, 1 / 2, 0, 0])  # RAC, where what is due is served
    assert values("weighted_metric", group(WAITING), reward_weights={"pt": 1.0}) == [0]
    halfway = values("adaptive_metric", group(WAITING, progress=0.5), reward_weights={"rac": 1.0})
    assert halfway == [1]  # what a stage leaves out weighs nothing there
    assert values("custom_ruler", group(WAITING), ruler_weights={"timing": 2.0}) == [0.5]
    with pytest.raises(UserError, match="ruler_weights: .*all weights are 0"):
        reward("custom_ruler", ruler_weights={"timing": 0.0})


def test_a_value_with_a_bar_can_be_said():
    due = [reference(route=("a|b", 1))]
    assert values("weighted_metric", group(render(reference_output(due, 4)), references=due)) == pytest.approx([1])


def test_needs_that_an_output_can_name_only_once_count_once():
    """Two of the same values, and of the same that are known by now; a property and a search found the cases."""
    due, early = reference(window=(1, 1, 2), day=("friday", 1)), reference(window=(1, 3, 3), day=("friday", 3), id="2")
    both = render(reference_output([due, early], 2))
    for name in (*METRIC, "custom_ruler", "general_ruler"):
        assert values(name, group(both, turn=2, references=[due, early])) == pytest.approx([1])  # it can say each
    known = reference(window=(1, 3, 3), day=("friday", 2), id="2")  # from turn 2 on it says the same as the first
    bare, later = reference(window=(1, 1, 3)), reference(window=(1, 4, 4), day=("friday", 3), id="2")
    for name in ("weighted_metric", "custom_ruler"):
        triggered, prepared = values(
            name, group("ready: book | day=friday", "candidate: book | day=friday", turn=2, references=[due, known])
        )
        assert triggered == pytest.approx(1) and prepared < 0.9
        triggered, prepared = values(name, group("ready: book", "candidate: book", turn=2, references=[bare, later]))
        assert triggered == pytest.approx(1) and prepared < 0.9


@pytest.mark.parametrize("ids", ["ab", "ba"])
@pytest.mark.parametrize("name", ["weighted_metric", "custom_ruler"])
def test_of_needs_that_say_the_same_the_output_may_fit_any(name, ids):
    """One of them has a parameter that is heard after `ready`; which stands first by its id or its close is nothing."""
    for close in (3, 4):
        bare = reference(window=(1, 1, 4), id=ids[0])
        later = reference(window=(1, 1, close), day=("friday", 3), id=ids[1])
        assert values(name, group("ready: book", turn=2, references=[bare, later])) == pytest.approx([1])


def known_in_time(name, turns, keys):
    """A reference whose parameters are all known at `ready`."""
    open_, ready, close = sorted(turns)
    return reference(name, (open_, ready, close), **{k: (f"{k}{v}", min(t, ready)) for k, (v, t) in keys.items()})


references_ = st.lists(
    st.builds(
        known_in_time,
        st.sampled_from(["book", "cancel", "pay"]),
        st.lists(st.integers(1, 8), min_size=3, max_size=3),
        st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(1, 3), st.integers(1, 8)), max_size=3),
    ),
    max_size=4,
)


@given(references_, st.integers(1, 8), st.floats(0, 1), st.sampled_from(METRIC))
def test_a_perfect_output_scores_1_at_every_turn_and_nothing_scores_above(references, turn, progress, name):
    output = reference_output(references, turn)
    assume(len(as_set(output)) == len(output))  # two needs of one name and values cannot be told apart
    perfect = render(output)
    got = values(name, group(perfect, *OUTPUTS, turn=turn, references=references, progress=progress))
    assert got[0] == pytest.approx(1)
    assert all(0 <= v <= 1 + 1e-9 for v in got)


@given(references_, st.integers(1, 8), st.floats(0, 1), st.sampled_from(PATIENT))
def test_a_premature_trigger_never_pays(references, turn, progress, name):
    """The oracle's output with every candidate made ready never beats it."""
    perfect = reference_output(references, turn)
    assume(len(as_set(perfect)) == len(perfect))  # two needs of one name and values cannot be told apart
    hasty = [a.model_copy(update={"status": "ready"}) for a in perfect]
    right, early = values(
        name, group(render(perfect), render(hasty), turn=turn, references=references, progress=progress)
    )
    assert early <= right + 1e-9


def test_the_registry_is_what_parameters_accept():
    assert list(REWARDS) == [
        "rac", "max_rac", "general_ruler", "custom_ruler", "weighted_metric", "adaptive_metric", "adaptive_ruler",
        "utility",
    ]  # fmt: skip
    folder = Path(rewards.__file__).parent
    for name, reward_class in REWARDS.items():
        assert reward_class.name == name and (folder / f"{name}.py").exists()
        assert isinstance(reward(name), reward_class)
    with pytest.raises(UserError, match="rac, max_rac, .*utility, got 'rca'"):
        load_params(None, {"reward": "rca"})


def test_how_to_add_a_reward(monkeypatch):
    """What README says: a class and a line in the registry, nothing else."""

    class Triggered(MetricReward):
        name = "triggered"

        def combine(self, metrics, progress):
            return metrics["pt"], {}

    monkeypatch.setitem(REWARDS, "triggered", Triggered)
    assert isinstance(make_reward(load_params(None, {"reward": "triggered"})), Triggered)
    assert values("triggered", group(*OUTPUTS)) == pytest.approx([1, 0, 5 / 6, 0, 1 / 2, 0, 0])


HEDGED = f"{RIGHT}\n{WAITING.replace(' | day=friday', '')}"  # the trigger, and a candidate of the same action
REPEATED = "\n".join([RIGHT] * 9 + ["ready: cancel"])


@pytest.mark.parametrize(
    "name, hedged, repeated",
    [
        ("rac", 1 / 2, 1 / 2),  # the candidate aligns with nothing; nine times the same is once
        ("max_rac", 1, 1),  # a finding: one right prediction is enough for the paper's Max RAC
        ("weighted_metric", (0.4 / 2 + 0.3 / 2 + 0.1 / 2) / 0.8, (0.2 + 0.15 + 0.1 - 0.1) / 0.8),
        ("general_ruler", (1 / 2 + 1 / 2 + 1) / 3, (1 / 2 + 1 / 2 + 1) / 3),
        ("custom_ruler", 0.4 + 0.3 / 2 + 0.2 / 2 + 0.1, 0.4 + 0.3 / 2 + 0.2 / 2 + 0.1),
        ("utility", 1 - 0.05, 1 - 0.25),
    ],
)
def test_an_output_is_a_set_with_one_status_for_an_action(name, hedged, repeated):
    got = values(name, group(HEDGED, REPEATED, f"{RIGHT}\n{WAITING}", turn=5))
    assert got == pytest.approx([hedged, repeated, values(name, group(RIGHT, turn=5))[0]])  # the last is one action


def test_a_candidate_beside_a_trigger_of_its_name_counts_where_it_pairs_with_another_reference():
    later = reference("book", (5, 7, 8), city=("Rome", 5))
    both = f"{RIGHT}\ncandidate: book | city=Rome"
    for name in ("rac", "weighted_metric", "general_ruler", "custom_ruler"):
        assert values(name, group(both, turn=5, references=(BOOK, later))) == pytest.approx([1])
        assert values(name, group(both, turn=4, references=(BOOK, later)))[0] < 1  # it is not open yet
    assert values("utility", group(both, turn=5, references=(BOOK, later))) == pytest.approx([1.05])
    hedges = f"{RIGHT}\nready: pay\ncandidate: book\ncandidate: pay | to=me"  # each of them weighs
    assert values("rac", group(hedges, references=(BOOK, reference("pay", (3, 4, 7))))) == [1 / 2]


def test_our_own_rewards_pay_for_all_that_is_due():
    both = (BOOK, reference("pay", (3, 4, 7)))
    outputs = group(RIGHT, f"{RIGHT}\nready: pay", f"{RIGHT}\ncandidate: pay", references=both)
    assert values("weighted_metric", outputs) == pytest.approx([1 / 2, 1, (0.4 + 0.3 / 2 + 0.1 / 2) / 0.8])
    # timing and completeness 1/2, alignment and restraint 1, all times 1/2
    assert values("custom_ruler", outputs) == pytest.approx([(0.2 + 0.3 + 0.2 + 0.05) / 2, 1, 0.9])
    assert values("utility", outputs) == pytest.approx([1, 2, 1 - 0.05])
    assert values("rac", outputs) == [1, 1, 1]  # the paper's
    twice = (BOOK, BOOK.model_copy(update={"id": "again"}))  # of the very same values: an output can name them once
    assert values("weighted_metric", group(RIGHT, references=twice)) == [1]


@pytest.mark.parametrize(
    "turn, expected",
    [
        (1, [0, -0.25, -0.05, -0.05, -0.25, -0.25]),  # nothing is open
        (3, [0, 1, -0.05, 0.05, -0.25, -0.25]),  # early: a trigger earns its s, a candidate a little
        (4, [0, 1, -0.05, -0.05, -0.25, -0.25]),  # due: preparing is too late
        (7, [0, -0.25, -0.05, -0.05, -0.25, -0.25]),
    ],
)
def test_utility(turn, expected):
    outputs = group(SILENCE, RIGHT, "candidate: pay", "candidate: book | city=Oslo", WRONG, GARBAGE, turn=turn)
    assert values("utility", outputs) == pytest.approx(expected)


def test_the_price_of_utility_is_the_users():
    assert values("utility", group(BOTH, WRONG, GARBAGE, PARTIAL), reward_price=0.12) == pytest.approx(
        [1 - 0.12, -0.12, -0.12, 5 / 6]
    )


def test_utility_pays_a_trigger_that_could_as_well_wait():
    """It looks at one turn: the finding for which `credit: trajectory` is there."""
    assert values("utility", group("ready: book | city=Oslo", "candidate: book | city=Oslo", turn=3)) == pytest.approx(
        [5 / 6, 0.05]
    )


@pytest.mark.parametrize("stage", ["explore_weights", "reward_weights", "conserve_weights"])
def test_no_stages_weights_teach_a_weak_model_not_to_trigger(stage):
    """The weights alone, without `served`: right, a trigger gains PT + RAR; wrong, it loses FTR - RAR of RAC / 2."""
    w = getattr(load_params(), stage)
    gain, loss = w["pt"] + w["rar"], min(w["rac"] / 2, max(0, w["ftr"] - w["rar"]))
    assert loss / (gain + loss) <= 0.2 + 1e-9


@pytest.mark.parametrize("name", [r for r in REWARDS if r != "adaptive_ruler"])
def test_the_order_of_an_outputs_lines_changes_nothing(name):
    """Both lines fit the first reference equally, the second line the other one too."""
    references = [reference(id="r1", city=("Oslo", 1)), reference(id="r2", day=("friday", 1))]
    lines = ["ready: book | city=Oslo | seat=4", "ready: book | city=Oslo | day=friday"]
    one, other = values(name, group("\n".join(lines), "\n".join(lines[::-1]), references=references))
    assert one == pytest.approx(other)
    due = [reference(day=("March 5, 2026", 1))]  # of two spellings that share a key one fits
    lines = ["ready: book | day=5/3/2026", "ready: book | day=May 3, 2026"]
    one, other = values(name, group("\n".join(lines), "\n".join(lines[::-1]), references=due))
    assert one == pytest.approx(other)


@pytest.mark.parametrize("name", ["weighted_metric", "adaptive_metric", "custom_ruler", "general_ruler"])
def test_the_order_of_the_references_changes_nothing(name):
    """Two of the same name and values, of which the second is known at turn 8 only."""
    two = [reference(window=(3, 4, 8), city=("Oslo", 2)), reference(window=(1, 3, 5), city=("Oslo", 8))]
    found = [values(name, group("candidate: book | city=Oslo", references=refs)) for refs in (two, two[::-1])]
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["weighted_metric", "adaptive_metric"])
def test_what_is_due_twice_counts_once(name):
    """An output, a set, can say it only once: beside an early action no other output gains on the perfect one."""
    outputs, early = (f"{RIGHT}\ncandidate: pay", RIGHT, f"{RIGHT}\nready: pay", SILENCE), reference("pay", (3, 6, 7))
    once, twice = (
        values(name, group(*outputs, references=(*due, early)))
        for due in ([BOOK], [BOOK, BOOK.model_copy(update={"id": "again"})])
    )
    assert twice == once and once[0] == max(once) == pytest.approx(1)
