"""The report of a run: its numbers by hand, its page in a real browser."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from proactor_lib import provenance, report
from proactor_lib.artf.training.training_log import read_steps
from proactor_lib.cli import app
from proactor_lib.errors import UserError
from proactor_lib.evaluate.results import load_or_score
from proactor_lib.files import read_jsonl, write_json, write_jsonl
from proactor_lib.metrics import utility
from proactor_lib.params import Params
from proactor_lib.report import render, text, timeline, training
from proactor_lib.report import run as run_report
from proactor_lib.report.comparison import by_dialogue
from proactor_lib.report.run import read_record
from proactor_lib.run import Run
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import Dialogue, PredictedAction, ReferenceAction, Turn, TurnPrediction
from scipy import stats
from typer.testing import CliRunner

from support.pages import asked_for, check_page
from support.runs import make_run, step
from support.waiting import wait_until

RECORD = {"stage_seconds": {"01": 5.0}, "stages": {}, "provenance": None}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("run") / "out", seed=3, sft_steps=5)
    write_jsonl(made.training / "sft.jsonl", [{"step": n, "loss": 1.0, "seconds": 1.0} for n in (1, 2, 3)])
    report.build(made.out)
    return made


def test_the_gain_is_the_difference_of_fifths_with_welchs_interval():
    rewards = np.array([0.1, 0.2, 0.3, *[0.5] * 9, 0.6, 0.8, 0.7])
    found = training.reward_gain(rewards)
    assert found["first_fifth"] == pytest.approx(0.2) and found["last_fifth"] == pytest.approx(0.7)
    assert found["gain"] == pytest.approx(0.5)
    half = stats.t.ppf(0.975, 4) * np.sqrt(0.01 / 3 + 0.01 / 3)  # equal variances 0.01: 4 degrees of freedom
    assert (found["gain_low"], found["gain_high"]) == pytest.approx((0.5 - half, 0.5 + half))


def test_a_gain_is_told_under_one_set_of_weights():
    """A policy that never changes gains nothing, though its reward moves with the schedule."""
    steps = pd.DataFrame({"step": range(1, 11), "reward_mean": np.linspace(0.4, 0.55, 10), "reward_steady": 0.5})
    assert training.gain(steps, "turn")["gain"] == 0
    fixed = steps.assign(reward_steady=None)  # a reward that does not move
    assert training.gain(fixed, "turn")["gain"] == pytest.approx(
        steps.reward_mean[8:].mean() - steps.reward_mean[:2].mean()
    )
    assert training.gain(pd.DataFrame(), "turn")["gain"] is None


def test_where_rewards_are_what_an_output_adds_the_gain_is_told_in_utility():
    steps = pd.DataFrame({"step": range(1, 11), "reward_mean": 0.01, "utility": np.linspace(0.3, 0.75, 10)})
    assert training.gain(steps, "counterfactual") | {"gain_low": 0, "gain_high": 0} == {
        "first_fifth": pytest.approx(0.325), "last_fifth": pytest.approx(0.725), "gain": pytest.approx(0.4),
        "gain_low": 0, "gain_high": 0, "of": "utility",
    }  # fmt: skip
    assert training.gain(steps, "turn")["of"] == "reward_mean"
    known = steps.assign(utility=[0.3, None, 0.4, *[0.5] * 5, 0.7, 0.8])  # nothing was needed in step 2
    assert training.gain(known, "counterfactual")["gain"] is None
    twice = pd.concat([steps.assign(utility=u) for u in (0.25, 0.75)])  # 20 steps: fifths of four
    assert training.gain(twice.assign(utility=[None, *twice.utility[1:]]), "counterfactual")["gain"] == 0.5
    assert training.gain(steps.assign(utility=None), "counterfactual")["of"] == "reward_mean"


def test_the_gain_of_few_steps_is_undefined_and_of_a_constant_reward_0():
    assert set(training.reward_gain(np.ones(9)).values()) == {None}
    assert training.reward_gain(np.ones(10)) == {
        "first_fifth": 1, "last_fifth": 1, "gain": 0, "gain_low": 0, "gain_high": 0,
    }  # fmt: skip


def test_a_step_written_twice_counts_once_and_a_broken_line_is_said(tmp_path):
    run = RunFolder(Params(), tmp_path)
    path = run.training / "metrics.jsonl"
    assert read_steps(run).empty
    path.parent.mkdir()
    path.write_text('{"step": 2, "kl": 1}\n{"step": 1, "kl": 2}\n{"step": 2, "kl": 3}\n')
    steps = read_steps(run)
    assert list(steps.kl) == [2, 3]
    assert training.mismatch(steps) == {"kl_mean": 2.5, "clipped_share": None}
    path.write_text('{"step": 1}\n{"kl": 1}\n')
    with pytest.raises(UserError, match="metrics.jsonl, line 2"):
        read_steps(run)


def test_the_summary_holds_the_figures(run):
    summary = json.loads(run.summary.read_text())
    assert summary["reward"]["first_fifth"] == pytest.approx(0.325)  # steps 1 to 4
    assert summary["reward"]["last_fifth"] == pytest.approx(0.485)  # steps 17 to 20
    assert summary["reward"]["gain_low"] > 0
    assert summary["mismatch"] == {"kl_mean": pytest.approx(0.002), "clipped_share": pytest.approx(0.01)}
    assert list(summary["held_out"]) == ["silent", "random", "oracle_late"]
    silent, late = summary["held_out"]["silent"], summary["held_out"]["oracle_late"]
    assert silent["ac"] == [0, 0, 0] and silent["ftr"] == [None, None, None] and silent["missed"] == [1, 1, 1]
    value, low, high = late["opportunity_timing"]
    assert 0 < low <= value <= high < 1
    assert summary["stage_seconds"] == {} and "not run by `proactor run`" in summary["warnings"][0]


def test_run_json_gives_times_memory_and_warnings(run, tmp_path):
    assert "6 dialogues that no training saw." in run.report_file.read_text()
    run = make_run(tmp_path / "out", model="tiny", start_from=str(tmp_path))
    stage = {
        "state": "done",
        "inputs": "1",
        "code": "a",
        "seconds": 5.0,
        "peak_memory_gb": 1.25,
        "ended": 0,
        "problem": None,
    }
    stages = {
        "01_annotation": stage,
        "03_artf_training": stage | {"state": "failed", "problem": "it broke", "code": "b"},
    }
    origin = {"commit": "c" * 40, "dirty": True, "code": "a", "versions": {"python": "3"}, "hardware": {
        "cpu": "a cpu", "cores": 2, "memory_gb": 23.0, "gpus": []}}  # fmt: skip
    record = {"stage_seconds": {"01_annotation": 5.0}, "peak_memory_gb": 1.25, "stages": stages, "provenance": origin}
    write_json(tmp_path / "out" / "run.json", record)
    text = report.build(run.out).read_text()
    summary = json.loads(run.summary.read_text())
    assert (summary["peak_memory_gb"], summary["stage_seconds"]) == (1.25, {"01_annotation": 5.0})
    said = " ".join(summary["warnings"])
    for clause in ("03_artf_training is not done (failed): it broke", "different versions", "uncommitted", "`tiny`"):
        assert clause in said
    assert "c" * 40 in text and "a cpu, 2 cores" in text
    assert "<p>6 dialogues." in text  # what the start's training saw is not known


def test_a_run_is_not_said_to_be_made_where_it_is_reported(tmp_path, monkeypatch):
    run = make_run(tmp_path / "out")
    begun = json.loads(run.origin_file.read_text())
    elsewhere = begun | {"commit": "e" * 40, "hardware": {"cpu": "another", "cores": 96, "memory_gb": 1.0, "gpus": []}}
    monkeypatch.setattr(provenance, "collect", lambda: elsewhere)
    assert read_record(run)["provenance"] == begun
    run.origin_file.unlink()
    text = report.build(run.out).read_text()
    assert "Code, versions and machine are not known" in text and "another, 96 cores" not in text
    assert "Nothing says by which code" in " ".join(json.loads(run.summary.read_text())["warnings"])


def test_a_run_that_did_nothing_has_a_report_too(tmp_path):
    Run.open(Params(), tmp_path)
    text = report.build(tmp_path).read_text()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["held_out"] == {} and summary["reward"]["gain"] is None
    assert "No training steps were recorded" in text and "No policy was evaluated" in text


def test_a_run_whose_steps_trained_no_token_has_a_report_too(tmp_path):
    """No group had any variance: the columns of trainer against server are there, and empty."""
    run = make_run(tmp_path / "out")
    empty = {"kl": None, "clipped_share": None}
    write_jsonl(run.training / "metrics.jsonl", [step(n) | empty for n in range(1, 21)])
    report.build(run.out)
    assert json.loads(run.summary.read_text())["mismatch"] == {"kl_mean": None, "clipped_share": None}


def test_the_page_in_a_browser(run, browser):
    assert run.report_file.stat().st_size < render.LIMIT_BYTES / 5
    text = check_page(browser, run.report_file)
    summary = json.loads(run.summary.read_text())
    for metrics in summary["held_out"].values():
        for value, low, high in metrics.values():
            assert render.number(value) in text and render.interval(low, high) in text
    for said in ("Does it move?", "Read first", "One dialogue", "gain in reward", "20 steps of turn-level GRPO"):
        assert said in text
    assert "a supervised warm start of 3 steps, then 20 steps" in text  # of the 5 that were asked for
    assert summary["primary"]["metric"] == "utility" and "Primary endpoint: the utility of oracle_late" in text
    assert {e.text for e in browser.find_elements("css selector", ".key")} <= {"S", "R", "OL"}
    assert browser.find_elements("css selector", ".timeline .lane.ready")


def test_what_an_earlier_page_asks_for_is_not_the_reports(run, browser, tmp_path):
    """The browser is shared: once a JupyterLab still asked for its kernels when a report was opened."""
    busy = tmp_path / "busy.html"
    busy.write_text("<script>setInterval(() => new Image().src = Math.random() + '.png', 1)</script>")
    browser.get(busy.as_uri())
    wait_until(lambda: len(asked_for(browser)) > 2)
    check_page(browser, run.report_file)


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_is_no_wider_than_its_window(run, browser, width):
    """On a phone wide tables scroll in their own box."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})  # fmt: skip
    try:
        browser.get(run.report_file.resolve().as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def reference(number, name, window, **params):
    values = {k: {"value": v, "turn": window[1]} for k, v in params.items()}
    window = dict(zip(("open", "ready", "close"), window, strict=True))
    return ReferenceAction.model_validate({"id": f"r{number}", "name": name, "params": values, "window": window})


def primary_sentence(difference, low, high, reason=None):
    """The report's first sentence on a run whose policy in focus gains `difference` over sft."""
    figures = {"sft": [0.5, 0.4, 0.6], "trained": [0.5 + difference, 0.4, 0.7]}
    found = {"metric": "utility", "price": 0.25, "policies": figures, "against": {"sft": [difference, low, high]}}
    scored = SimpleNamespace(scores=figures, dialogues=60, primary=lambda: found | {"reason": reason})
    return " ".join(text.primary(scored))


def test_the_first_sentence_gives_the_primary_endpoint_and_the_verdict_of_its_interval():
    better, worse = primary_sentence(0.08, 0.01, 0.16), primary_sentence(-0.32, -0.5, -0.14)
    assert (
        "utility of trained at a price of 0.25 for a false execution is 0.580 (95% interval 0.400 to 0.700)" in better
    )
    assert better.count("better than sft by 0.080 (0.010 to 0.160)") == 1 and "60 held-out dialogues" in better
    assert "worse than sft by 0.320 (0.140 to 0.500)" in worse and "one seed" in worse
    assert "not told from sft (difference 0.020, −0.050 to 0.090)" in primary_sentence(0.02, -0.05, 0.09)
    assert "the same as sft" in primary_sentence(0, 0, 0)
    assert "is not known: turns were sampled." in primary_sentence(0, None, None, "turns were sampled")


def test_the_cost_is_time_and_tokens():
    steps = pd.DataFrame({"output_tokens": [1000, 500], "tokens_packed": [2000, 3000]})
    said = [TurnPrediction(dialogue_id="d", turn=1, prompt_tokens=40, output_tokens=2)]
    said.append(TurnPrediction(dialogue_id="d", turn=2))
    scored = SimpleNamespace(predictions={"trained": said, "trained_tuned": said})  # which nobody was asked for
    assert text.cost({"01": 60.0, "03": 365.0}, steps, scored) == (
        "It cost 7 min 5 s for all stages; 1,500 tokens sampled in GRPO; 5,000 tokens that GRPO trained on; "
        "42 tokens read and written by the policies on held-out dialogues."
    )
    assert text.cost({}, pd.DataFrame(), None) == ""


def test_two_runs_are_held_against_each_other_dialogue_by_dialogue():
    def results(**by_dialogue):
        rows = [{"dialogue_id": d, "right": r, "wrong": w, "utility": r - 0.25 * w, "executable": n}
                for d, (r, w, n) in by_dialogue.items()]  # fmt: skip
        return SimpleNamespace(scores={"trained": SimpleNamespace(sampled=False, dialogues=pd.DataFrame(rows))})

    before, after = results(x=(2, 0, 2), y=(0, 0, 2), z=(0, 2, 0)), results(x=(1, 2, 2), y=(1, 0, 2), z=(0, 1, 0))
    found = [(d["dialogue"], d["a_utility"], d["b_utility"], d["difference"]) for d in by_dialogue(before, after)]
    assert found == [("y", 0.0, 0.5, 0.5), ("z", -0.5, -0.25, 0.25), ("x", 1.0, 0.25, -0.75)]


def test_the_timeline_puts_windows_triggers_and_faults_where_they_are():
    dialogue = Dialogue(
        id="d", domain="x", turns=[Turn(speaker="user", text=str(i)) for i in range(6)],
        observed=[{"turn": 4, "name": "pay"}],
    )  # fmt: skip
    references = (reference(1, "pay", (2, 3, 4)), reference(2, "call", (4, 5, 5)), reference(3, "pay", (5, 5, 6)))
    said = [
        {"dialogue_id": "d", "turn": 1, "actions": [{"name": "pay"}]},
        {"dialogue_id": "d", "turn": 3, "actions": [{"name": "pay"}, {"name": "call", "status": "candidate"}]},
    ]
    predictions = {"p": [TurnPrediction.model_validate(line) for line in said]}
    drawn = timeline.draw(dialogue, references, {"p": {"r1": 3}}, predictions, 0.75)
    parts = ["".join({"": ".", "open": "o", "ready": "r"}[c.part] for c in row.cells) for row in drawn.rows]
    assert parts == ["..", "o.", "r.", "ro", "rr", "r."]  # the third reference takes the first lane again
    assert [c.label for c in drawn.rows[4].cells] == ["3", ""]
    assert drawn.rows[2].cells[0].marks == ["p"]
    assert [row.faults for row in drawn.rows] == [{"p": ["pay"]}, {}, {}, {}, {}, {}]
    assert drawn.rows[3].observed == ["pay"]


def test_the_dialogue_shown_is_the_median():
    frame = pd.DataFrame({"dialogue_id": list("aabbcd"), "timing": [1, 1, 0, 0, 0.5, 0.4]})
    assert timeline.median_dialogue(frame) == "d"


def test_the_command(run, tmp_path):
    assert CliRunner().invoke(app, ["report", str(run.out)]).stdout.strip() == str(run.report_file)
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert isinstance(result.exception, UserError)
    assert "is neither a run's folder (params.json) nor a sweep's (sweep.json)" in str(result.exception)


def test_a_policy_that_says_nothing_is_a_warning(tmp_path):
    run = make_run(tmp_path / "out")
    silence = [
        p.model_copy(update={"actions": ()}) for p in read_jsonl(run.predictions / "random.jsonl", TurnPrediction)
    ]
    write_jsonl(run.predictions / "random.jsonl", silence)
    report.build(run.out)
    said = " ".join(json.loads(run.summary.read_text())["warnings"])
    assert "`random` predicted nothing at any turn" in said and "`silent`" not in said and "triggered none" not in said
    prepared = PredictedAction(name="x", status="candidate")
    write_jsonl(run.predictions / "random.jsonl", [p.model_copy(update={"actions": (prepared,)}) for p in silence])
    report.build(run.out)
    said = json.loads(run.summary.read_text())["warnings"]
    assert "`random` prepared actions and triggered none: the utility is silence's." in said


def test_outputs_as_long_as_one_may_be_are_a_warning(tmp_path):
    run = make_run(tmp_path / "out")
    limit = run.params.max_completion_tokens
    lines = list(read_jsonl(run.predictions / "random.jsonl", TurnPrediction))
    for tokens, said in ((limit - 1, []), (limit, [f"100% of the outputs of `random` are as long as one may be "
                                                   f"(`max_completion_tokens` {limit})."])):  # fmt: skip
        write_jsonl(run.predictions / "random.jsonl", [p.model_copy(update={"output_tokens": tokens}) for p in lines])
        report.build(run.out)
        assert [w for w in json.loads(run.summary.read_text())["warnings"] if "as long as" in w] == said


def verdicts(**found):
    """A comparison of p with base: a verdict a metric."""
    rows = pd.DataFrame({"a": "p", "b": "base", "metric": list(found), "verdict": list(found.values())})
    return SimpleNamespace(comparisons=rows)


def test_findings_know_which_end_of_a_metric_is_the_better():
    told = verdicts(ac="higher", ftr="lower", missed="higher", pt="unclear", rar="higher", lead="lower")
    assert text.findings(told) == ["Against base, p is better by AC and FTR; worse by missed."]
    assert text.findings(verdicts(ac="unclear", rar="higher")) == ["No other metric tells p from base."]
    assert text.findings(verdicts(ac="same", ftr="undefined")) == ["p and base come out the same by all other metrics."]
    told = text.findings(verdicts(ac="undefined", ftr="undefined"))
    assert told == ["No other metric is defined for both p and base."]
    assert text.findings(None) == text.findings(SimpleNamespace(comparisons=None)) == []


def test_a_figure_that_rests_on_one_dialogue_is_not_called_undefined():
    held = {"utility": [0.5, None, None], "false_executions": [0, 0, 0], "opportunity_timing": [None, None, None]}
    summary = {"reward": {"gain": None}, "mismatch": {"kl_mean": None}, "stage_seconds": {}, "peak_memory_gb": None}
    found = run_report._facts(SimpleNamespace(scores={"base": held}), summary | {"held_out": {"base": held}})
    ends = [told.rpartition("; ")[2] for _, told in found]
    assert ends == ["rests on one dialogue", "0.000 to 0.000", "undefined"]


def test_the_method_is_told_from_the_parameters():
    told = " ".join(text.method(Params(sft_steps=3, turns_per_dialogue=4, reward="custom_ruler"), steps=7, warm=3))
    assert "warm start of 3 steps, then 7 steps of turn-level GRPO" in told and "4 turns of each, 50% of them" in told
    assert "rewarded by custom_ruler (judge: rubric)" in told and "at every turn" in told
    assert "GRPO" not in " ".join(text.method(Params(evaluation_turns=8), steps=0, warm=0))


def test_the_method_tells_the_sft_that_ran():
    told = lambda warm, **given: " ".join(text.method(Params(**given), 7, warm))  # noqa: E731
    assert "warm start of 3 steps, then 7 steps" in told(3, sft_steps=5)  # stopped early
    assert "warm start" not in told(0, sft_steps=5)
    given = {"sft_steps": 5, "start_from": "elsewhere/sft"}
    assert "Training: from an adapter given, which 9 steps of SFT made, 7 steps of turn-level" in told(9, **given)
    assert "Training: from an adapter given, 7 steps of turn-level" in told(0, **given)


@pytest.mark.parametrize(
    "slope, said",
    [
        (-0.01, "The reward fell in training: a gain of −0.160 (−0.182 to −0.138)."),
        (0.0, "The gain in reward over training is not told apart from 0: its 95% interval reaches it."),
        (0.01, None),
    ],
)
def test_a_warning_says_whether_the_reward_fell(tmp_path, slope, said):
    """Of 20 steps fifths are four: a gain of 16 slopes; each fifth's variance is 5/3 slope^2, t(6) 2.447."""
    steps = pd.DataFrame({"step": range(20), "reward_mean": 0.5 + slope * np.arange(20)})
    found = [w for w in run_report.warnings(RunFolder(Params(), tmp_path), steps, None, RECORD) if "reward" in w]
    assert found == ([said] if said else [])


def test_the_curves_band_at_the_price_is_the_tables_interval(run, monkeypatch):
    drawn, curve = [], utility.curve
    monkeypatch.setattr(utility, "curve", lambda *args, **kwargs: drawn.append(curve(*args, **kwargs)) or drawn[-1])
    run_report._figures(run.params, pd.DataFrame(), load_or_score(run), "reward_mean")
    at_price = drawn[0][drawn[0].price == 0.25].set_index("method")
    for policy, found in json.loads(run.summary.read_text())["held_out"].items():
        assert at_price.loc[policy, ["utility", "low", "high"]].to_list() == pytest.approx(found["utility"])


def test_no_two_policies_have_one_mark():
    assert text.initials(["base", "sft", "trained"]) == {"base": "B", "sft": "S", "trained": "T"}
    assert text.initials(["oracle_late", "oracle_early", "sft", "silent"]) == {
        "oracle_late": "OL", "oracle_early": "OE", "sft": "S", "silent": "SI",
    }  # fmt: skip
    assert len(set(text.initials(["a_b", "ab", "a", "a_bc", "abc"]).values())) == 5
    assert len(set(text.initials(["base", "B", "b", "_a", "a", "A"]).values())) == 6


def test_durations_and_numbers():
    assert [render.chance(p) for p in (None, 0.0004, 0.0125, 1.0)] == ["–", "p < 0.001", "p 0.013", "p 1.000"]
    assert [render.duration(s) for s in (48, 425, 11520)] == ["48 s", "7 min 5 s", "3 h 12 min"]
    assert [render.number(x) for x in (None, float("nan"), 0.12345, -0.5)] == ["–", "–", "0.123", "−0.500"]
    assert [render.number(x) for x in (0, -0.0, 0.0004, -0.00023, 1e-9)] == [
        "0.000",
        "0.000",
        "0.0004",
        "−0.0002",
        "0.000",
    ]
    assert render.interval(0.0002, 0.024) == "0.0002 to 0.024"  # which excludes 0
    assert os.linesep not in render.interval(0.1, 0.2) and render.interval(None, 1) == ""
