"""The reward lab's probe: fixed policies by hand and on corpora, and the shares at which a reward breaks even."""

import numpy as np
import pytest
from proactor_lib import datasets
from proactor_lib.agent import render
from proactor_lib.annotate import evidence
from proactor_lib.errors import UserError
from proactor_lib.params import load_params
from proactor_lib.policies import GAMING_POLICIES, POLICIES, STATUS_POLICIES
from proactor_lib.reward_lab import probe
from proactor_lib.reward_lab.break_even import LIMIT, NEVER, break_even, share_needed
from proactor_lib.rewards import REWARDS
from proactor_lib.schema import Case, cases

from support.metric_cases import reference
from support.reward_cases import BOOK, CATALOG, DIALOGUE, RIGHT
from support.shared import SGD, needs_shared

CASES = [Case(DIALOGUE, (BOOK,), CATALOG)]
KNOWN = {"city": "Oslo"}
FULL = {"city": "Oslo", "day": "friday"}


def outputs(policy):
    """Turn -> (status, params) of the actions named `book`, in short; the other actions by name."""
    predictions = (POLICIES | STATUS_POLICIES)[policy](CASES[0], 0)
    assert [p.turn for p in predictions] == list(range(1, 9))
    return {p.turn: [(a.name, a.status, a.params) for a in p.actions] for p in predictions}


def test_what_the_fixed_policies_say():
    candidate, ready = [("book", "candidate", KNOWN)], [("book", "ready", FULL)]
    assert outputs("oracle") == {1: [], 2: candidate, 3: candidate, 4: ready, 5: ready, 6: ready, 7: [], 8: []}
    assert outputs("oracle_late") == {1: [], 2: [], 3: candidate, 4: candidate, 5: ready, 6: ready, 7: ready, 8: []}
    assert outputs("oracle_early") == {1: candidate, 2: candidate, 3: ready, 4: ready, 5: ready, 6: [], 7: [], 8: []}
    assert outputs("silent") == dict.fromkeys(range(1, 9), [])
    everything = outputs("everything_ready")
    assert everything[1] == [("book", "ready", {}), ("cancel", "ready", {}), ("pay", "ready", {})]
    assert (everything[3][0], everything[5][0]) == (("book", "ready", KNOWN), ("book", "ready", FULL))
    assert outputs("first_action") == {t: actions[:1] for t, actions in everything.items()}
    assert outputs("wrong_parameter")[4] == [("book", "ready", {"city": "not olsO", "day": "friday"})]
    assert outputs("never_ready")[5] == [("book", "candidate", FULL)]
    assert outputs("always_ready")[2] == [("book", "ready", KNOWN)]
    assert outputs("random") == outputs("random")
    other = POLICIES["random"](CASES[0], 1)
    assert [p.actions for p in other] != [p.actions for p in POLICIES["random"](CASES[0], 0)]


def test_the_probe_by_hand():
    table = probe.table(CASES, load_params(None, {"bootstrap": 50}))
    wide = probe.means(table)
    late = [1, 0, 1, 5 / 6, 1, 1, 0, 1]  # turn 4: one of two known parameters; turn 7: outside
    assert wide.loc["rac", "oracle_late"] == pytest.approx(sum(late) / 8)
    late[3] = 0.4 * 5 / 6 / 0.8  # due, but not triggered
    assert wide.loc["weighted_metric", "oracle_late"] == pytest.approx(sum(late) / 8)
    assert wide.loc["rac", "silent"] == wide.loc["adaptive_ruler", "silent"] == 3 / 8
    # of three actions one is right. Before ready: .4 * 5/18 - .2 * 2/3 < 0; then .4/3 + .3/3 + .1 - .2 * 2/3 of .8
    assert wide.loc["weighted_metric", "everything_ready"] == pytest.approx(3 * 0.25 / 8)
    assert wide.loc["max_rac", "everything_ready"] == pytest.approx((2 * 5 / 6 + 3) / 8)
    assert wide.loc["opportunity_timing", "oracle_late"] == pytest.approx(2 / 3)  # triggered at 5 of ready 4, close 6
    status = probe.means(table, policies=STATUS_POLICIES)
    assert status.loc["rac", "never_ready"] == 1 and status.loc["weighted_metric", "never_ready"] == (5 + 3 * 0.5) / 8
    assert status.loc["adaptive_metric", "always_ready"] == pytest.approx((6 + 2 * 5 / 6) / 8)
    stages = probe.stages(table)
    assert stages.loc[("adaptive_metric", "explore"), "never_ready"] == pytest.approx((5 + 3 * 0.25 / 0.85) / 8)
    assert stages.loc[("adaptive_metric", "conserve"), "never_ready"] == pytest.approx((5 + 3 * 0.45 / 0.79) / 8)
    assert table[["low", "high"]].isna().all(axis=None)  # one dialogue


def test_margins_are_paired():
    cases = [Case(DIALOGUE.model_copy(update={"id": f"d{i}"}), (BOOK,) * (i % 2), CATALOG) for i in range(4)]
    margins = probe.margins(cases, load_params(None, {"reward": "rac"}))
    assert margins["triggering"] == {"value": 0, "low": 0, "high": 0}  # rac does not see a trigger
    assert margins["punctual"]["value"] == pytest.approx(
        (8 - 5 - 5 / 6) / 8
    )  # dialogues without references are left out
    with pytest.raises(UserError, match="none of the 1 dialogues has a reference"):
        probe.margins(cases[:1], load_params())


def test_references_whose_ready_is_close_stand_apart():
    tight = BOOK.model_copy(update={"id": "tight", "window": BOOK.window.model_copy(update={"close": 4})})
    other = Case(DIALOGUE.model_copy(update={"id": "e"}), (tight,), CATALOG)
    table = probe.table([*CASES, other], load_params(None, {"bootstrap": 50}))
    assert probe.means(table, "ready_at_close").loc["opportunity_timing", "oracle_late"] == 0
    assert probe.means(table, "ready_before_close").loc["opportunity_timing", "oracle_late"] == pytest.approx(2 / 3)
    assert probe.means(table, "all").loc["opportunity_timing", "oracle_late"] == pytest.approx(1 / 3)
    only = probe.table(CASES, load_params(None, {"bootstrap": 50}))
    assert "ready_at_close" not in set(only.part)


@pytest.mark.parametrize(
    "dataset, split, limit",
    [
        ("homeloan", "train", 8),
        pytest.param("sgd", "train", 15, marks=needs_shared),
        pytest.param("sgd", "dev", 15, marks=needs_shared),
    ],
)
def test_the_order_is_right_for_every_reward_that_claims_to_reward_timing(dataset, split, limit):
    corpus = datasets.load(dataset, SGD if dataset == "sgd" else None, split, limit)
    lines = [evidence.annotate(d, corpus.catalog) for d in corpus.dialogues]
    known = cases(corpus.dialogues, lines, corpus.catalog)
    table = probe.table(known, load_params(None, {"bootstrap": 100}))
    for part in probe.PARTS:  # where ready is close, a trigger that is late is false: silence may rightly be worth more
        order = probe.order(table, part)
        pairs = order.columns.drop(["reward", "timed", "right"] + ["oracle_late > silent"] * (part == "ready_at_close"))
        assert order.loc[order.timed, pairs].all(axis=None), order
    for stage in probe.STAGES:
        order = probe.order(table, stage=stage)
        assert order[order.timed].right.all(), order
    wide = probe.means(table, policies=probe.ALL_POLICIES).loc[list(REWARDS)]
    assert (wide.oracle.drop("utility") > 0.98).all() and (wide[list(POLICIES)].idxmax(axis=1) == "oracle").all()
    assert wide.loc["rac", "never_ready"] > wide.loc["rac", "oracle"] - 1e-9  # the finding: RAC asks for no trigger
    asking = ["custom_ruler", "weighted_metric", "adaptive_metric"]
    assert (wide.loc[asking, ["never_ready", "always_ready"]].max(axis=1) < wide.loc[asking, "oracle"] - 0.03).all()

    paid = probe.gaming(table)
    own = [
        "general_ruler",
        "custom_ruler",
        "weighted_metric",
        "adaptive_metric",
        "utility",
    ]  # the rubric is the stand-in
    assert (paid.loc[own, ["hedger", "repeater"]].max(axis=1) < paid.loc[own, "oracle"] - 0.01).all()
    gamed = probe.gamed(table, known)
    assert set(gamed["max_rac"]) >= {"hedger", "repeater"}  # findings: what the paper's rewards can be gamed by
    assert (dataset == "homeloan") == bool(probe.several_due(known)) == ("one_of_two" in gamed.get("rac", ()))
    assert not set(gamed) & set(own)


def test_what_the_policies_that_look_for_openings_say():
    case = Case(DIALOGUE, (BOOK, reference("pay", (3, 4, 6))), CATALOG)
    said = {name: render(policy(case, 0)[3].actions) for name, policy in GAMING_POLICIES.items()}
    assert said["hedger"] == f"{RIGHT}\ncandidate: book | city=Oslo\nready: pay\ncandidate: pay | hedge=yes"
    assert said["repeater"] == "\n".join(9 * [RIGHT] + ["ready: not_book"] + 9 * ["ready: pay"] + ["ready: not_pay"])
    assert said["one_of_two"] == RIGHT
    twice = GAMING_POLICIES["one_of_two"](Case(DIALOGUE, (BOOK, BOOK), CATALOG), 0)
    assert render(twice[3].actions) == RIGHT  # also where both are alike
    table = probe.table([case], load_params(None, {"bootstrap": 50}))
    paid = probe.gaming(table).xs("balance", level="stage")
    # turns 2 and 3 as the oracle; at 4, 5 and 6 the oracle earns 1 (utility: 2), and 0.05 twice before
    assert paid.loc["utility"].tolist() == pytest.approx([(0.15 + 6) / 8, (0.15 + 5.7) / 8, (0.15 + 4.5) / 8, 3.15 / 8])
    assert paid.loc["weighted_metric", "one_of_two"] == pytest.approx((5 + 3 / 2) / 8)
    assert probe.several_due([case]) == 3 and probe.several_due([Case(DIALOGUE, (BOOK, BOOK), CATALOG)]) == 0


@pytest.mark.parametrize(
    "gain, loss, share",
    [(0.4, 0.1, 0.2), (1.0, 0.0, 0.0), (0.0, 0.1, "never"), (0.2, 0.25, 0.25 / 0.45), (0.5, -1, 0.0)],
)
def test_break_even_by_hand(gain, loss, share):
    assert share_needed(gain, loss) == (share if isinstance(share, str) else pytest.approx(share))


def test_no_stage_has_a_break_even_above_a_fifth():
    found = probe.break_evens(load_params())
    # utility: p - 0.25 (1 - p) = -0.05
    assert found["utility"] == {"balance": pytest.approx(0.2 / 1.25)}
    assert found["weighted_metric"] == {"balance": 0} and found["custom_ruler"] == {"balance": 0}
    assert found["adaptive_metric"] == dict.fromkeys(probe.STAGES, 0)
    assert found["rac"] == found["max_rac"] == found["general_ruler"] == {"balance": NEVER}  # findings
    assert found["adaptive_ruler"] == {"explore": NEVER, "balance": 0, "conserve": 0}  # it starts as RAC alone
    for u in np.linspace(0, 1, 11):
        assert break_even(load_params(None, {"reward": "adaptive_metric"}), u) <= LIMIT
    asking = {"reward": "custom_ruler", "judge": "j", "judge_url": "http://127.0.0.1:1/v1"}
    assert break_even(load_params(None, asking), 0.5) is None  # no model is asked about a dialogue that is none
