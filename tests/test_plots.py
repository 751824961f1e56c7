"""Figures: what is drawn is what the data says, and labels can be read. Rendered for real."""

import numpy as np
import pandas as pd
import pytest
from proactor_lib import plots
from proactor_lib.bench.synthetic import made_up_dialogues, made_up_predictions
from proactor_lib.metrics import score_predictions, table
from proactor_lib.metrics.breakdowns import breakdown
from proactor_lib.metrics.inputs import Inputs
from proactor_lib.metrics.thresholds import persistence, sweep, trade_off
from proactor_lib.plots import summary
from proactor_lib.plots.style import FAULT
from proactor_lib.plots.timing import stage
from proactor_lib.schema import Catalog, cases

from support.figures import readable
from support.metric_cases import candidate, dialogue, needs, ready, reference, says

NOTHING = Catalog(domain="x", actions=())


@pytest.fixture(scope="module")
def world():
    """Dialogues, references, and the predictions of two made-up methods with long names."""
    dialogues, references = made_up_dialogues(20, 24)
    names = ("ProActor-Q4, adaptive RULER", "Gemini-2.5-flash, non-reasoning")
    return dialogues, references, {n: made_up_predictions(references, 24, i) for i, n in enumerate(names)}


@pytest.fixture(scope="module")
def scores(world):
    dialogues, references, methods = world
    return {name: score_predictions(dialogues, references, p) for name, p in methods.items()}


def points(ax, marker):
    """(x, y) of the marks of one shape."""
    lines = [line for line in ax.lines if line.get_marker() == marker]
    return [(float(x), float(y)) for line in lines for x, y in line.get_xydata()]


def test_timeline_marks_what_was_said_where():
    references = [reference("book", (2, 3, 5), observed=5, day="friday"), reference("pay", (7, 7, 7))]
    said = says(
        {2: candidate("book"), 4: ready("book", day="friday"), 6: [ready("pay"), ready("made_up")], 7: candidate("pay")}
    )
    figure = readable(plots.timeline(dialogue(turns=9), references, said, title="a call"))
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["book", "pay", "made_up"]
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    filled = {line.get_markerfacecolor(): [tuple(p) for p in line.get_xydata()] for line in dots}
    assert filled == {"white": [(2, 0), (7, 1)], "black": [(4, 0)]}
    assert sorted(points(ax, "x")) == [(6, 1), (6, 2)]
    observed = [line for line in ax.lines if line.get_marker() in ("None", "")]
    assert [line.get_xdata()[0] for line in observed] == [5.5]  # the end of turn 5
    bars = {(p.get_x(), p.get_width(), p.get_y() + p.get_height() / 2) for p in ax.patches if p.get_fill()}
    assert {(1.5, 1.0, 0.0), (2.5, 3.0, 0.0), (6.5, 1.0, 1.0)} <= bars  # open to ready, ready to close, one turn


def test_timeline_with_many_actions_shares_the_last_lane():
    said = says({t: ready(f"action_{t}") for t in range(1, 10)})
    (ax,) = readable(plots.timeline(dialogue(), [reference()], said, lanes=5)).axes
    lanes = [t.get_text() for t in ax.get_yticklabels()]
    assert lanes == ["book", "action_1", "action_2", "action_3", "other actions"]
    assert sorted(points(ax, "x"))[-1] == (9, 4)


def test_timeline_of_nothing():
    readable(plots.timeline(dialogue(), [], []))


def test_gallery_shows_the_worst_dialogues(world, scores):
    dialogues, references, methods = world
    name = next(iter(methods))
    found = plots.worst(scores[name].dialogues, 3)
    means = scores[name].references.groupby("dialogue_id").timing.mean().sort_values()
    np.testing.assert_allclose(found.mean_timing, means[:3])
    by_id = {c.dialogue.id: c for c in cases(dialogues, references, NOTHING)}
    shown = [
        (by_id[i], [p for p in methods[name] if p.dialogue_id == i], f"{i}: timing {t:.2f}")
        for i, t in zip(found.dialogue_id, found.mean_timing, strict=True)
    ]
    figure = readable(plots.gallery(shown))
    assert [ax.get_title(loc="left") for ax in figure.axes] == [caption for _, _, caption in shown]
    assert plots.gallery(()) is None


def test_the_worst_dialogues_are_drawn_by_the_theta_that_scored_them():
    """One of two parameters is right: alignment 1/2 + 1/4, a trigger by theta 0.75 and at fault by 0.9."""
    needed, said = [needs(reference(day="friday", hour="9"))], says({4: ready(day="friday", hour="8")})
    for theta, mark in ((0.7, "o"), (0.9, "x")):
        scored = score_predictions([dialogue()], needed, said, theta)
        (ax,) = plots.worst_dialogues(cases([dialogue()], needed, NOTHING), said, scored).axes
        assert (4, 0) in points(ax, mark)
        assert ax.get_title(loc="left").startswith("d: timing ")
    nobody = score_predictions([dialogue()], [], said)
    assert plots.worst_dialogues(cases([dialogue()], [], NOTHING), said, nobody) is None


def test_worst_leaves_dialogues_without_references_out():
    found = score_predictions([dialogue("a"), dialogue("b")], [needs(reference(), id="b")], []).dialogues
    assert plots.worst(found).dialogue_id.tolist() == ["b"]


def test_stage_stretches_each_window():
    """A window open 2, ready 4, close 6: half of the axis holds two turns, the other three."""
    said = {1: -np.inf, 2: 0, 3: 0.5, 4: 1, 5: 1 + 1 / 3, 6: 1 + 2 / 3, 7: np.inf, None: np.inf}
    for turn, place in said.items():
        outputs = says({turn: ready()}) if turn else []
        assert stage(score_predictions([dialogue()], [needs(reference())], outputs).references).item() == pytest.approx(
            place
        )


def test_survival_falls_from_what_was_premature_to_what_was_missed(scores):
    (ax,) = readable(plots.survival({n: s.references for n, s in scores.items()}, bootstrap=50)).axes
    for line, s in zip(ax.lines, scores.values(), strict=False):
        y, fates = line.get_ydata(), s.references.outcome.value_counts(normalize=True)
        assert (np.diff(y) <= 0).all()
        assert y[0] <= 1 - fates.get("premature", 0) and y[-1] == pytest.approx(fates["missed"] + fates.get("late", 0))
    assert len(ax.collections) == 2  # a band each


def test_trigger_times_has_a_row_a_reference_and_a_panel_a_method(scores):
    figure = readable(plots.trigger_times({n: s.references for n, s in scores.items()}, rows=500))
    assert len(figure.axes) == 2
    for ax, s in zip(figure.axes, scores.values(), strict=True):
        fates = s.references.outcome.value_counts()
        assert len(points(ax, "o")) == fates["in window"] and len(points(ax, "x")) == fates["missed"]
        assert len(points(ax, "D")) == len(s.references) - fates["in window"] - fates["missed"]
    assert len({y for _, y in points(figure.axes[0], "o")}) == len(points(figure.axes[0], "o"))
    frame = next(iter(scores.values())).references
    many = readable(plots.trigger_times({f"a method with a very long name, number {i}": frame for i in range(5)}))
    assert len(many.axes) == 5


def test_trade_off_draws_the_curve_and_rings_the_choice(world):
    dialogues, references, methods = world
    curves = {
        name: trade_off(sweep(Inputs(dialogues, references, persistence(p)), [0.2, 0.4, 0.6]), 50)
        for name, p in methods.items()
    }
    name = next(iter(curves))
    (ax,) = readable(plots.trade_off(curves, {name: 0.4})).axes
    first = curves[name].pivot(index="threshold", columns="metric", values="value")
    drawn = [line for line in ax.lines if line.get_label() == name][0]
    np.testing.assert_allclose(drawn.get_xydata(), first[["ftr", "opportunity_timing"]])
    ring = [line for line in ax.lines if line.get_markersize() == 10]
    np.testing.assert_allclose(ring[0].get_xydata()[0], first.loc[0.4, ["ftr", "opportunity_timing"]].to_list())


def test_ac_against_timing_has_every_method_where_its_metrics_are(scores):
    rows = table({n: s.dialogues for n, s in scores.items()}, 50)
    (ax,) = readable(plots.ac_against_timing(rows)).axes
    wide = rows.pivot(index="method", columns="metric", values="value").loc[list(scores)]
    centres = [c.lines[0].get_xydata()[0] for c in ax.containers]
    np.testing.assert_allclose(centres, wide[["ac", "opportunity_timing"]])


def test_breakdown_dots_has_a_row_a_group(scores):
    found = breakdown(scores, "action", bootstrap=20)
    (ax,) = readable(plots.breakdown_dots(found, "ac", groups=5)).axes
    assert len(ax.get_yticklabels()) == 5
    readable(plots.breakdown_dots(breakdown(scores, "window", bootstrap=20)))


def steps(count=40):
    step = np.arange(1, count + 1)
    return pd.DataFrame({"step": step, "reward_mean": step / count, "kl": 0.001, "empty": np.nan})


def test_reward_curves_smooth_each_run():
    (ax,) = readable(plots.reward_curves({"a": steps(), "b": steps(5)}, window=5)).axes
    smooth = [line for line in ax.lines if line.get_label() == "a"][0]
    np.testing.assert_allclose(smooth.get_ydata()[2:-2], steps().reward_mean[2:-2])  # a straight line stays itself
    assert smooth.get_ydata()[0] == pytest.approx(np.mean([1, 2, 3]) / 40)


def test_the_reward_curve_tells_the_gain_by_the_column_that_is_asked_for():
    given = steps(50).assign(utility=np.linspace(-0.3, 0.19, 50))
    for column, ends in {"reward_mean": ["0.110", "0.910"], "utility": ["-0.255", "0.145"]}.items():
        (ax,) = readable(summary.reward_curve(given, column)).axes
        assert [text.get_text() for text in ax.texts] == ends


def test_training_curves_draw_the_columns_that_are_there():
    columns = {"kl": "KL", "reward_mean": "reward", "empty": "empty", "none": "none"}
    figure = readable(plots.training_curves(steps(), columns, {"kl": 0.01}))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["KL", "reward"]
    assert figure.axes[0].lines[1].get_ydata()[0] == 0.01
    assert plots.training_curves(steps().assign(x=None), {"x": "x", "y": "y"}) is None


def test_nothing_to_draw_is_said():
    empty = score_predictions([dialogue()], [], []).references
    for draw in (plots.survival, plots.trigger_times):
        with pytest.raises(ValueError, match="no references"):
            draw({"a": empty})


def luminance(colour):
    """Relative luminance of #rrggbb, WCAG."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_methods_differ_by_shape_too_and_faults_can_be_seen_on_windows():
    names = [str(i) for i in range(8)]
    assert len(set(plots.colours(names).values())) == len(set(plots.markers(names).values())) == 8
    window, fault = luminance(plots.style.EXECUTABLE), luminance(FAULT)
    assert (max(window, fault) + 0.05) / (min(window, fault) + 0.05) > 1.5


def test_methods_of_another_round_of_colours_differ_too_and_labels_on_colours_can_be_read():
    names = [str(i) for i in range(20)]
    drawn = zip(*(by(names).values() for by in (plots.colours, plots.markers, plots.style.dashes)), strict=True)
    assert len(set(drawn)) == 20
    for colour in plots.style.COLOURS:
        dark, light = sorted((luminance(colour), luminance(plots.style.ink(colour))))
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_names_are_no_formulas_and_a_long_dialogue_can_be_read():
    paid = plots.timeline(dialogue(turns=400), [reference("pay_$5_or_$10", (1, 2, 3))], [])
    assert readable(paid) and len(paid.axes[0].get_xticks()) <= 21


def test_utility_falls_with_the_price_by_the_false_executions():
    frame = pd.DataFrame({"method": ["a", "a", "b", "b"], "price": [0, 1.0] * 2, "utility": [1, -0.5, 0.5, 0.5]})
    ax = plots.utility_curve(frame.assign(low=frame.utility - 0.1, high=frame.utility + 0.1)).axes[0]
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert drawn["a"] == [1, -0.5] and drawn["b"] == [0.5, 0.5] and len(ax.collections) == 2
    assert ax.get_ylim()[0] == pytest.approx(-0.6)


def test_without_a_reference_the_curve_of_utility_is_empty():
    frame = pd.DataFrame({"method": "a", "price": [0, 1.0], "utility": np.nan, "low": np.nan, "high": np.nan})
    assert plots.utility_curve(frame).axes[0].get_ylim()[0] == 0


def test_what_lies_below_0_or_above_1_is_drawn():
    rows = [("a", "utility", -0.55, -0.7, -0.3), ("a", "ac", 0.5, 0.4, 0.6)]
    table = pd.DataFrame(rows, columns=["method", "metric", "value", "low", "high"])
    assert summary.metric_dots(table, ["utility", "ac"]).axes[0].get_xlim()[0] < -0.7
    paid = steps(50).assign(reward_groups=[[0.2, 2.0]] * 50)
    assert summary.reward_curve(paid, "reward_mean").axes[0].get_ylim()[1] > 2
