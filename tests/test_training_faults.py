"""Training with all that can go wrong on the trainer's side: it goes on, and its lines and its log say what was."""

import json
import re

import pandas as pd
import pytest
from proactor_lib.artf.training.alarms import Alarms
from proactor_lib.errors import ProcessError
from proactor_lib.params import Params
from proactor_lib.report.run import warnings
from proactor_lib.run_folder import RunFolder

from support.fake_endpoint import FakeEndpoint, Reply
from support.fake_vllm import UNIFORM, Completions, drawn
from support.records import metrics
from support.runs import opened
from support.trainer_process import trainer

LINE = {"step": 1, "staleness": 0, "kl": 0.002, "groups": 4, "groups_skipped": 1, "outputs": 16, "outputs_unscored": 0}


def held(*changes):
    """The alarms after each of the lines."""
    alarms = Alarms()
    return [alarms(LINE | {"step": n} | change) for n, change in enumerate(changes, start=1)]


def test_drift_is_the_mean_over_steps_with_or_without_stale_samples(caplog):
    far, stale = {"kl": 0.025}, {"kl": 0.3, "staleness": 1}
    assert held({}, far, {"kl": 0.004}, far, {}, {}) == [[], [], ["drift"], ["drift"], ["drift"], []]
    assert caplog.text.count("step 3: drift: KL 0.0103 nats a token over 3 steps without stale samples") == 1
    assert caplog.text.count("drift:") == 1  # said once, not at each step
    assert held({}, stale, {}, stale, {}, stale) == [[], [], [], [], [], ["drift"]]  # each of its own kind
    assert held(*[{"kl": 0.09, "staleness": 1}] * 4) == [[]] * 4


def test_collapse_and_missing_scores():
    flat = {"groups_skipped": 4}
    assert held(flat, flat, flat, {}, flat) == [[], [], ["collapse"], [], []]
    assert held({"outputs_unscored": 8}, {"outputs_unscored": 9}, {}) == [[], ["unscored"], []]


def test_a_run_that_learns_nothing_ends(caplog):
    """The judge has gone: days would pass with a line in a log."""
    alarms, gone = Alarms(), LINE | {"outputs_unscored": 16}
    for line in [gone] * 19 + [LINE] + [gone] * 19:
        alarms(line)
        alarms.give_up()
    alarms(gone)
    with pytest.raises(ProcessError, match="20 steps in a row learnt nothing: 16 of 16 outputs have no score"):
        alarms.give_up()


def test_a_report_says_what_was_wrong_while_it_trained(tmp_path):
    line = LINE | {"reward_mean": 0.5, "prompts_too_long": 5}
    steps = pd.DataFrame([line | {"alarms": a} for a in ([], ["unscored"], ["collapse", "unscored"])])
    record = {"stage_seconds": {}, "stages": {}, "provenance": None}
    of = lambda lines: warnings(RunFolder(Params(), tmp_path), lines, None, record)  # noqa: E731
    said = of(steps)
    assert "At 2 of 3 training steps most outputs had no score (alarm `unscored`)." in said
    assert "At 1 of 3 training steps no group had variance, so that nothing was learnt (alarm `collapse`)." in said
    assert "15 turns were left out of training, for their prompts were too long (max_context)." in said
    assert not any("alarm" in w for w in of(steps[:1]))


@pytest.mark.parametrize("differ, said", [(0, False), (1, True), (9, True), (10, False), (100, False)])
def test_a_report_says_where_hardly_a_group_taught_anything(tmp_path, differ, said):
    """Of two steps with 100 groups each; without any the alarm says so."""
    lines = [LINE | {"reward_mean": 0.5, "groups": 100, "groups_skipped": 100 - n, "alarms": []} for n in (differ, 0)]
    record = {"stage_seconds": {}, "stages": {}, "provenance": None}
    found = warnings(RunFolder(Params(), tmp_path), pd.DataFrame(lines), None, record)
    sentence = f"In {differ} of 200 groups outputs earned differently, and the others taught nothing: "
    assert any(w.startswith(sentence) for w in found) == said


def labels(request):
    """The labels that the judge was shown, in order."""
    return list(request["response_format"]["json_schema"]["schema"]["properties"])


def marks(names, *, again=()):
    """An answer with a mark for each name; those of `again` come twice."""
    parts = [f'"{n}": {{"reason": "so", "score": {0.1 * (i % 9)}}}' for i, n in enumerate([*names, *again])]
    return "{" + ", ".join(parts) + "}"


def test_a_run_with_a_bad_judge_other_weights_and_a_policy_that_collapses(tmp_path):
    """The judge times out, reorders, repeats and says nothing; the server's log-probabilities are another model's."""
    kinds = ("late", "reordered", "repeated", "empty")
    sent = []

    def judge(request, n):
        kind = kinds[len(sent) % 4]
        sent.append(kind)
        names = labels(request)
        return {
            "late": Reply(marks(names), delay=60),
            "reordered": Reply(marks(names[::-1])),
            "repeated": Reply(marks(names, again=names[:1])),
            "empty": Reply(""),
        }[kind]

    def texts(body):
        version = int(re.search(r"-v(\d+)$", body["model"])[1])
        return drawn(body) if version < 3 else ["none"] * body["n"]

    settings = {"reward": "general_ruler", "judge": "j", "judge_timeout": 1.0, "judge_retries": 0, "max_steps": 6,
                "save_steps": 6, "sft_steps": 0, "num_generations": 4, "policy_sync": "adapter"}  # fmt: skip
    with FakeEndpoint(judge) as endpoint, Completions(texts, log_prob=UNIFORM - 0.3) as server:
        run = opened(tmp_path, **settings, judge_url=endpoint.url)
        assert trainer(tmp_path, server.port) == 0
    lines, log = metrics(tmp_path), (run.training / "train.log").read_text()
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert not any("seed" in request for request in [*endpoint.requests, *server.completions])
    counted = lines[-1]
    assert counted["judge/judge_failed_timeout"] >= 1 and counted["judge/judge_fault_empty"] >= 1
    assert counted["judge/judge_fault_repeated_label"] >= 1
    kept = [json.loads(line) for line in (run.training / "samples.jsonl").read_text().splitlines()]
    assert len(kept) == sum(line["groups"] for line in lines)
    rewards = [r for group in kept for r in group["rewards"]]
    assert rewards.count(None) == sum(line["outputs_unscored"] for line in lines) > 0
    assert all(len(group["rewards"]) == 4 for group in kept)
    assert lines[-1]["alarms"] == ["collapse", "drift"] and "collapse" not in lines[3]["alarms"]
    assert lines[-1]["kl"] == pytest.approx(2.71828**0.3 - 1.3, abs=0.02)
    assert "drift: KL 0.0" in log and "collapse: none of the" in log
