"""Who is asked what: turns, policies, and dialogues that come to a split or leave it."""

import pytest
from proactor_lib.annotate.filter import Removed
from proactor_lib.errors import UserError
from proactor_lib.evaluate import evaluate_run, load_or_score
from proactor_lib.evaluate.predictions import PredictionLog, folder
from proactor_lib.evaluate.splits import spread
from proactor_lib.files import read_jsonl, write_jsonl
from proactor_lib.policies import oracle
from proactor_lib.run import FailedDialogue, Run
from proactor_lib.schema import TurnPrediction

from support.fake_endpoint import FakeEndpoint, Reply
from support.runs import opened


def lines(path):
    return list(read_jsonl(path, TurnPrediction))


@pytest.fixture
def asked_run(tmp_path, monkeypatch):
    """A run of one prompted policy, and the requests of its endpoint. What was answered before is in no cache."""
    with FakeEndpoint(lambda request, n: Reply("ready: pull_credit")) as server:

        def caches(n):
            monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / f"cache-{n}"))

        endpoint = {"policy_url": server.url, "policy_model": "m"}
        run = opened(tmp_path / "out", policies=["non_reasoning"], evaluation_turns=0, test_dialogues=3, **endpoint)
        caches(0)
        yield run, server.requests, caches


def fail(run, dialogue_id):
    """The oracle failed on a test dialogue: it has no references."""
    write_jsonl(run.annotations / "test.jsonl", [r for r in run.annotated("test") if r.dialogue_id != dialogue_id])
    failed = FailedDialogue(dialogue_id=dialogue_id, kind="fault", reason="it did not answer")
    write_jsonl(run.annotations / "test.failed.jsonl", [failed])


def test_a_policy_is_asked_later_about_a_dialogue_that_has_references_now_and_about_no_other(asked_run):
    run, requests, caches = asked_run
    annotated, (late, *others) = run.annotated("test"), run.dialogues("test")
    fail(run, late.id)
    evaluate_run(run)
    assert len(requests) == sum(len(d.turns) for d in others)
    write_jsonl(run.annotations / "test.jsonl", annotated)
    (run.annotations / "test.failed.jsonl").unlink()
    caches(1)
    requests.clear()
    evaluate_run(run)
    assert len(requests) == len(late.turns)
    assert {x.dialogue_id for x in load_or_score(run).predictions["non_reasoning"]} == {
        d.id for d in run.dialogues("test")
    }


def test_predictions_that_are_reopened_are_not_whole_until_they_are_finished(tmp_path):
    log = PredictionLog(tmp_path, "p", {})
    log.write([TurnPrediction(dialogue_id="d", turn=1)])
    log.reopen()
    log.add(TurnPrediction(dialogue_id="e", turn=1))
    killed = PredictionLog(tmp_path, "p", {})
    assert not killed.complete and len(killed) == 2 and killed.missing("e", (1, 2)) == {2}


def test_a_dialogue_that_leaves_the_split_is_not_scored_and_one_that_never_was_there_is_refused(asked_run):
    run, requests, _ = asked_run
    evaluate_run(run)
    gone, asked = run.dialogues("test")[0].id, len(requests)
    write_jsonl(run.annotations / "test.removed.jsonl", [Removed(dialogue_id=gone, reason="doubtful")])
    evaluate_run(run)
    scored = load_or_score(run)
    assert scored.dialogues == 2 and gone not in {x.dialogue_id for x in scored.predictions["non_reasoning"]}
    assert len(requests) == asked and gone in {x.dialogue_id for x in lines(run.predictions / "non_reasoning.jsonl")}
    write_jsonl(run.predictions / "mine.jsonl", [TurnPrediction(dialogue_id="nobody", turn=1)])
    with pytest.raises(UserError, match="unknown dialogue 'nobody'"):
        load_or_score(run)


def test_a_tuned_policy_speaks_of_a_dialogue_that_came_back(asked_run):
    run, _, _ = asked_run
    evaluate_run(run)
    back = run.dialogues("test")[0].id
    removed = run.annotations / "test.removed.jsonl"
    write_jsonl(removed, [Removed(dialogue_id=back, reason="doubtful")])
    tuned = Run(run.params.model_copy(update={"policies": ("non_reasoning", "non_reasoning_tuned")}), run.out)
    evaluate_run(tuned)
    removed.unlink()
    evaluate_run(tuned)
    said = load_or_score(tuned).predictions
    assert len(said["non_reasoning_tuned"]) == len(said["non_reasoning"])


def test_a_file_with_all_turns_changes_nothing_where_some_are_asked(tmp_path):
    run = opened(tmp_path, policies=["random"], evaluation_turns=2, bootstrap=50)
    evaluate_run(run)
    before = load_or_score(run)
    said = [p for c in run.split("test") for p in oracle(c, 0)]
    PredictionLog(folder(run), "mine", {}).write(said)
    both = load_or_score(run)
    assert both.as_json()["random"] == before.as_json()["random"] and both.evaluated_turns == before.evaluated_turns
    assert both.primary()["reason"] and both.as_json()["mine"]["utility"] == [None] * 3


def test_asked_turns_are_the_middles_of_equal_parts():
    assert spread(40, 2) == (11, 31) and spread(10, 3) == (2, 6, 9) and spread(7, 1) == (4,)
    assert spread(5, 0) == spread(5, 5) == spread(5, 9) == (1, 2, 3, 4, 5)


def test_an_unknown_policy_is_one_sentence(tmp_path):
    with pytest.raises(
        UserError,
        match="unknown policy 'orcale'; accepted: base, sft, sft_equal_time, trained, non_reasoning, few",
    ):
        evaluate_run(opened(tmp_path, policies=["orcale"]))
    with pytest.raises(UserError, match="the adapter of policy 'mine' is not there"):
        evaluate_run(opened(tmp_path / "b", policies=["mine"], adapters={"mine": str(tmp_path / "no")}))
