"""Intervals, paired comparisons, PRI, breakdowns, the published rows."""

import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proactor_lib.bench.intervals import benchmark
from proactor_lib.bench.synthetic import made_up_dialogues, made_up_predictions
from proactor_lib.errors import UserError
from proactor_lib.metrics import METRICS, compare, evaluate_predictions, glossary, score_predictions, table
from proactor_lib.metrics.breakdowns import breakdown
from proactor_lib.metrics.intervals import estimate, ratios
from proactor_lib.metrics.published import beside, published
from proactor_lib.metrics.ranking import pri
from proactor_lib.metrics.statistics import Estimates, bootstrap, holm, p_value, resamples

from support.metric_cases import candidate, dialogue, needs, ready, reference, says


@pytest.fixture(scope="module")
def tables():
    dialogues, references = made_up_dialogues(30, 12)
    return {
        name: evaluate_predictions(dialogues, references, made_up_predictions(references, 12, seed))
        for name, seed in (("a", 1), ("b", 2), ("c", 3))
    }


def test_a_resample_is_the_metric_of_the_drawn_dialogues(tables):
    """The matrix product gives what scoring the drawn dialogues, repeats and all, gives."""
    weights = resamples(30, 5, seed=3)
    assert weights.sum(axis=1).tolist() == [30] * 5
    for drawn, found in zip(weights, ratios(tables["a"], weights), strict=True):
        again = tables["a"].loc[np.repeat(np.arange(30), drawn.astype(int))]
        np.testing.assert_allclose(found, estimate(again))


def test_intervals_hold_the_value_and_one_dialogue_has_none(tables):
    rows = table({"a": tables["a"]})
    defined = rows[(rows.metric != "pri") & rows.value.notna()]  # seconds need time stamps
    assert ((defined.low <= defined.value) & (defined.value <= defined.high)).all()
    assert (defined.low < defined.high)[defined.metric != "late"].all()  # none of its matches is late
    one = table({"a": tables["a"][:1]})
    assert one.value.notna().sum() > 5 and one[["low", "high"]].isna().all(axis=None)


def coverage(draw, truth, dialogues, trials=300):
    """The share of 95% intervals of a mean that hold `truth`; `draw(count)` gives one sample."""
    held = 0
    for _ in range(trials):
        x = draw(dialogues)
        found = bootstrap(lambda w, x=x: (w @ x / w.sum(axis=1))[:, None], dialogues, 400, seed=0)
        held += found.low[0] <= truth <= found.high[0]
    return held / trials


@pytest.mark.parametrize("dialogues", [12, 20, 40])
def test_intervals_hold_the_truth_as_often_as_they_say(dialogues):
    """Of 300 samples 95% are 285; 91.5% to 98.5% is within three standard errors. Skewed, and even."""
    rng = np.random.default_rng(3)
    assert 0.915 <= coverage(lambda n: rng.gamma(3, 1, n), 3, dialogues) <= 0.985
    assert 0.915 <= coverage(lambda n: rng.beta(2, 2, n), 0.5, dialogues) <= 0.985


@pytest.mark.parametrize("known", [2, 3, 6])
def test_an_interval_is_of_the_dialogues_that_a_figure_rests_on(known):
    """A share that only some of 60 dialogues have a say in. With 59 degrees of freedom it was held in 86% at three."""
    rng, held = np.random.default_rng(4), 0
    counted = np.arange(60) < known
    for _ in range(200):
        x = rng.beta(2, 2, 60) * counted
        found = bootstrap(lambda w, x=x: (w @ x / np.where(w @ counted, w @ counted, np.nan))[:, None], 60, 200, seed=0)
        held += found.low[0] <= 0.5 <= found.high[0]
    assert held / 200 >= 0.905  # 95% less three standard errors


def test_undefined_resamples_are_left_out():
    """The first column rests on any of three dialogues, the second on one, the third on none."""

    def figures(weights):
        known = np.stack([weights.any(axis=1), weights[:, 0] > 0, weights[:, 0] < 0], axis=1)
        return np.where(known, 1.0, np.nan)

    found = bootstrap(figures, 3, 50, seed=0)
    assert found.value[0] == found.low[0] == found.high[0] == 1
    assert found.value[1] == 1 and np.isnan([found.low[1], found.high[1]]).all()
    assert np.isnan([found.value[2], found.low[2], found.high[2]]).all()


def test_one_dialogue_tells_no_two_policies_apart(tables):
    """Each of the two triggers in one dialogue alone: their false triggers differ, by how much nobody can say."""
    silent, one = tables["a"].assign(ready=0.0, faults=0.0), tables["a"].index == 0
    other = silent.assign(ready=one * 1.0)
    found = compare({"a": other.assign(faults=one * 1.0), "b": other}, metrics=["ftr"]).iloc[0]
    assert (found.difference, found.verdict) == (1, "unclear") and np.isnan([found.low, found.p]).all()


def test_the_p_of_a_difference_by_hand():
    """Standard error 1 of 2 dialogues, widened by the root of 2: t = 2 / sqrt(2), one degree of freedom.

    Of 3 by the root of 3/2: t = 4 / sqrt(3/2), two degrees, which leave 1 - t / sqrt(2 + t^2).
    """
    value, samples = np.array([2.0, 0.0, np.nan, 4.0]), np.array([[1.0, 1.0, 0, 3.0], [3.0, -1.0, 0, 5.0]])
    p = p_value(Estimates(value, value, value, samples, np.array([2, 2, 60, 3])))
    assert p[0] == max(2 * (0.5 - np.arctan(2**0.5) / np.pi), 1 / 2) and p[1] == 1 and np.isnan(p[2])
    assert p[3] == max(1 - 4 / np.sqrt(1.5) / np.sqrt(2 + 16 / 1.5), 1 / 4)


@pytest.mark.parametrize("known", [3, 6])
def test_a_p_is_of_the_dialogues_that_a_difference_rests_on(known):
    """As the interval: of 60 dialogues a few have a say, and nothing differs on average. With 59 degrees of freedom
    p was below 0.05 in 21% of 400 at three and in 10.5% at six."""
    rng, below = np.random.default_rng(5), 0
    counted = np.arange(60) < known
    for _ in range(400):
        x = rng.normal(0, 1, 60) * counted
        found = bootstrap(lambda w, x=x: (w @ x / np.where(w @ counted, w @ counted, np.nan))[:, None], 60, 200, seed=0)
        below += p_value(found)[0] < 0.05
    assert below / 400 <= 0.083  # 5% and three standard errors


def test_a_method_compared_with_itself_says_so(tables):
    found = compare({"a": tables["a"], "again": tables["a"]})
    assert set(found.verdict) == {"same"}
    found = found[found.difference.notna()]  # seconds need time stamps
    assert set(found.difference) == {0} and set(found.p) == {1}
    assert set(found.p_holm.dropna()) == {1}
    assert (found.low == 0).all() and (found.high == 0).all()
    assert set(compare(tables, pairs=[("a", "a")]).verdict) == {"same"}
    silent = evaluate_predictions([dialogue()], [needs(reference())], [])
    assert set(compare({"a": silent}, pairs=[("a", "a")]).verdict) == {"same"}  # where undefined, too


def test_comparisons_pair_dialogues():
    """Methods that differ by 0.01 in every dialogue differ surely, however much the dialogues vary."""
    blank = evaluate_predictions([dialogue(f"d{i:02}") for i in range(30)], [], [])
    ac = np.random.default_rng(0).uniform(0.1, 0.9, 30)
    better, worse = (blank.assign(ac=ac + d, max_ac=ac + d, scored_turns=1) for d in (0.01, 0))
    found = compare({"better": better, "worse": worse}, metrics=["ac"]).iloc[0]
    assert found.verdict == "higher" and [found.difference, found.low, found.high] == pytest.approx([0.01] * 3)
    assert compare({"worse": worse, "better": better}, metrics=["ac"]).verdict.item() == "lower"
    assert compare({"x": better[:3], "y": worse[:3]}, metrics=["ac"]).verdict.item() == "unclear"  # p >= 1/4
    worth = {name: blank.assign(executable=1, earned=e, utility=e) for name, e in (("better", 1.0), ("worse", 0.0))}
    for count, verdict in (
        (5, "unclear"),
        (6, "higher"),
    ):  # of the primary endpoint too: 2^(1 - n) is above 0.05, below
        found = compare({name: t[:count] for name, t in worth.items()}, metrics=["utility"]).iloc[0]
        assert found.verdict == verdict and np.isnan(found.low) == (verdict == "unclear")


def test_the_interval_of_a_difference_stays_where_two_shares_can_be_apart():
    """Eleven dialogues of twelve: Student's t alone would go beyond 1, and beyond -1."""
    blank = evaluate_predictions([dialogue(f"d{i:02}") for i in range(12)], [], [])
    right = np.array([0.0] + [1.0] * 11)
    all_but_one, none = (blank.assign(ac=a, max_ac=a, scored_turns=1) for a in (right, 0.0))
    found = compare({"a": all_but_one, "b": none}, [("a", "b"), ("b", "a")], ["ac"])
    assert found.high[0] == 1 and found.low[1] == -1 and found.difference[0] == pytest.approx(11 / 12)


def test_methods_alike_but_for_chance_are_seldom_told_apart():
    """By p and, for the primary endpoint, by its interval: 4 of 80 expected, 10 is three standard errors away."""
    rng = np.random.default_rng(1)
    blank = evaluate_predictions([dialogue(f"d{i:02}") for i in range(20)], [], [])
    clear = {"ac": 0, "utility": 0}
    for _ in range(80):
        x, y = (blank.assign(ac=a, max_ac=a, utility=a, executable=1, scored_turns=1) for a in rng.random((2, 20)))
        found = compare({"x": x, "y": y}, metrics=list(clear), bootstrap=300).set_index("metric").verdict
        for metric in clear:
            clear[metric] += found[metric] in ("higher", "lower")
    assert max(clear.values()) <= 10


def test_the_primary_endpoint_is_outside_the_family_and_its_interval_decides():
    blank = evaluate_predictions([dialogue(f"d{i:02}") for i in range(12)], [], [])
    rng = np.random.default_rng(0)
    gain = rng.normal(0.5, 0.2, 12)
    better, worse = (blank.assign(ac=x, utility=x, executable=1, scored_turns=1) for x in (gain, 0.0))
    found = compare({"better": better, "worse": worse}, bootstrap=200).set_index("metric")
    assert found.verdict["utility"] == "higher" and found.low["utility"] > 0 and np.isnan(found.p_holm["utility"])
    alone = compare({"better": better, "worse": worse}, metrics=["ac"], bootstrap=200).set_index("metric")
    assert alone.p_holm["ac"] == alone.p["ac"]  # a family of one
    same = compare({"x": worse, "y": worse}, bootstrap=200).set_index("metric")
    assert same.verdict["utility"] == "same"


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005])), [0.03, 0.06, np.nan, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.9])), [1, 1])


def test_methods_scored_on_other_dialogues_are_refused(tables):
    with pytest.raises(UserError, match="not scored on the same dialogues: 'd00029'"):
        table({"a": tables["a"], "b": tables["b"][:-1]})
    with pytest.raises(UserError, match="no dialogues"):
        table({"a": tables["a"][:0]})


def test_pri_by_hand():
    #        AC   MaxAC Diff  PT   FTR  RAR
    rows = [[0.4, 0.8, 1.0, 0.2, 0.0, 0.2],
            [0.3, 0.6, 0.0, 0.1, 0.1, 0.6],
            [0.2, 0.4, 0.5, 0.3, 0.2, 0.4]]  # fmt: skip
    consistency = np.array([(1 + 1 + 0) / 3, (0.5 + 0.5 + 1) / 3, (0 + 0 + 0.5) / 3])
    timing = np.array([(0.5 + 1 + 0) / 3, (0 + 0.5 + 1) / 3, (1 + 0 + 0.5) / 3])
    np.testing.assert_allclose(pri(np.array(rows)), 2 * consistency * timing / (consistency + timing))


def test_pri_where_it_degenerates():
    row = [0.4, 0.8, 1.0, 0.2, 0.1, 0.5]
    np.testing.assert_allclose(pri(np.array([row, row])), [0.5, 0.5])  # nothing tells them apart
    assert np.isnan(pri(np.array([row]))).all()  # a ranking of one
    undefined = [0.9, 0.0, np.nan, 0.0, np.nan, np.nan]
    other = [0.2, 0.4, 0.5, 0.3, 0.2, 0.4]
    with_it = pri(np.array([row, undefined, other]))
    assert np.isnan(with_it[1])
    np.testing.assert_allclose(with_it[[0, 2]], pri(np.array([row, other])))  # its AC of 0.9 moves no maximum
    worst, best = [0, 0, 1, 0, 1, 0], [1, 1, 0, 1, 0, 1]
    np.testing.assert_allclose(pri(np.array([worst, best], dtype=float)), [0, 1])


def test_the_table_names_the_methods_that_pri_ranks(tables):
    silent = tables["a"].assign(predictions=0, ready=0, faults=0, ac=0.0, max_ac=0.0, pt=0.0)
    found = table({**tables, "silent": silent})
    assert found.attrs["ranked_against"] == ["a", "b", "c"]
    ranks = found[found.metric == "pri"].set_index("method")
    assert (
        ranks.loc[["a", "b", "c"]].notna().all(axis=None) and ranks.loc["silent", ["value", "low", "high"]].isna().all()
    )
    assert found.method.unique().tolist() == ["a", "b", "c", "silent"]
    assert found[found.method == "a"].metric.tolist() == [*METRICS, "pri"]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_methods_and_dialogues_changes_no_number(tables, seed):
    rng = random.Random(seed)
    names = rng.sample(list(tables), 3)
    moved = {n: tables[n].sample(frac=1, random_state=seed) for n in names}
    keys = ["method", "metric"]
    before, after = (table(t, 200).sort_values(keys, ignore_index=True) for t in (tables, moved))
    pd.testing.assert_frame_equal(before, after, check_exact=False, rtol=1e-9)
    pairs = [("a", "b"), ("a", "c")]
    pd.testing.assert_frame_equal(
        compare(tables, pairs, bootstrap=200), compare(moved, pairs, bootstrap=200), rtol=1e-9
    )


class TestBreakdowns:
    """One dialogue of 9 turns: `book` open 2..4, `pay` open 8..8; said: book at 2, pay at 5 and 8."""

    @pytest.fixture
    def scores(self):
        references = [needs(reference("book", (2, 3, 4)), reference("pay", (8, 8, 8)))]
        said = says({2: candidate("book"), 5: ready("pay", amount="1"), 8: [ready("pay"), ready("book")]})
        return {"m": score_predictions([dialogue(turns=9, domain="bank")], references, said)}

    def value(self, found, group, metric):
        return found[(found.group == group) & (found.metric == metric)].value.item()

    def test_by_action(self, scores):
        found = breakdown(scores, "action", bootstrap=10)
        assert found.group.unique().tolist() == ["book", "pay"]
        assert self.value(found, "book", "ac") == pytest.approx(1 / 4)  # turns 2, 3, 4 and 8
        assert self.value(found, "pay", "ac") == pytest.approx(1 / 2)  # turns 5 and 8
        assert self.value(found, "pay", "ftr") == 0.5 and self.value(found, "pay", "opportunity_timing") == 1
        assert self.value(found, "book", "ftr") == 1 == self.value(found, "book", "late")
        assert self.value(found, "book", "utility") == -0.25 and self.value(found, "pay", "utility") == 0.75

    def test_by_domain(self, scores):
        found = breakdown(scores, "domain", bootstrap=10)
        whole = table({"m": scores["m"].dialogues}, 10)
        assert found.group.unique().tolist() == ["bank"] and found.references.unique().tolist() == [2]
        needless = found.metric.isin(["false_needs", "balanced_accuracy"]).to_numpy()  # no group's
        np.testing.assert_allclose(found.value[~needless], whole.value[:-1][~needless])
        assert found.value[needless].isna().all()

    def test_by_the_domain_of_services(self):
        references = [needs(reference("Buses_1.Find", (2, 2, 2)), reference("Hotels_4.Find", (3, 3, 3)))]
        said = says({2: ready("Buses_2.Find"), 3: ready("Hotels_4.Find")})
        found = breakdown({"m": score_predictions([dialogue()], references, said)}, "domain", bootstrap=10)
        assert found.group.unique().tolist() == ["Buses", "Hotels"]
        assert (self.value(found, "Buses", "ac"), self.value(found, "Hotels", "ac")) == (0, 1)

    def test_by_position(self, scores):
        found = breakdown(scores, "position", bootstrap=10)
        assert found.group.unique().tolist() == ["first third", "second third", "last third"]
        assert self.value(found, "first third", "ac") == pytest.approx(1 / 2)  # turns 2 and 3
        assert self.value(found, "second third", "ac") == 0  # turns 4 and 5
        assert self.value(found, "last third", "ac") == pytest.approx(1 / 2)  # turn 8
        assert np.isnan(self.value(found, "second third", "missed"))
        assert self.value(found, "last third", "execution_precision") == 1 / 2

    def test_by_window(self, scores):
        found = breakdown(scores, "window", bootstrap=10)
        assert found.group.unique().tolist() == ["1", "2-3"]
        assert self.value(found, "2-3", "late") == 1 and np.isnan(self.value(found, "1", "ac"))
        assert np.isnan(self.value(found, "1", "utility"))


def test_the_published_differences_follow_from_their_rows_but_one():
    rows = published()
    computed = ((rows.max_ac - rows.ac) / rows.ac).round(3)
    odd = rows[(computed - rows.difference).abs() > 0.0011]
    assert len(rows) == 9 and odd[["corpus", "method"]].values.tolist() == [["ABCD+", "ProActor-Q4, adaptive RULER"]]


def test_published_rows_stand_beside_ours_and_leave_our_ranking_alone(tables):
    ours = table(tables, 50)
    both = beside(ours, "ABCD+")
    assert both.source.tolist() == ["ours"] * 3 + ["published [paper]"] * 5
    mine = ours[ours.metric == "pri"].set_index("method").value
    assert both[both.source == "ours"].set_index("method").pri.to_dict() == mine.to_dict()
    assert both[both.method == "Qwen2.5-14B + SFT"].pri.item() == 0.17


def test_the_bench_of_intervals_counts_what_they_hold():
    """60 simulated calls, 10 samples of 8: shares of tenths, and hardly ever a verdict on equal policies."""
    found = benchmark([8], samples=10, population=60, bootstrap=100)["8"]
    assert set(found) == {"policy", "difference", "told_apart"} and found["told_apart"] <= 0.3
    assert found["policy"]["utility"] >= 0.7 and found["difference"]["utility"] >= 0.7
    assert set(found["policy"]) == set(METRICS) - set(glossary.TIMED)
    assert (10 * found["policy"]["ac"]) % 1 == pytest.approx(0, abs=1e-6)
