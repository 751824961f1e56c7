"""The oracle annotator: the machinery adds no error, and every dialogue is accounted for."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from proactor_lib import datasets
from proactor_lib.annotate import oracle_run
from proactor_lib.endpoint import Failed
from proactor_lib.errors import ProcessError, UserError
from proactor_lib.files import read_jsonl
from proactor_lib.run import FailedDialogue
from proactor_lib.schema import DialogueReferences

from support.fake_endpoint import FakeEndpoint, Reply
from support.truthful_oracle import Truthful
from support.waiting import wait_until


@pytest.fixture(scope="module")
def calls():
    """30 simulated calls without their log, and the truth."""
    return datasets.load("homeloan", None, "train", limit=30, seed=5, log=False)


def annotate(server, corpus, out, **options):
    """(the references by dialogue, the failures, the summary) of an annotation through `server`."""
    settings = {"retries": 2, "backoff": 0.01, "timeout": 20.0, "cache": out.parent / "cache", **options}
    summary = oracle_run.annotate_file(
        corpus.dialogues, corpus.catalog, out, oracle_run.OracleSettings(server.url, "m", **settings)
    )
    failed = oracle_run.failures_path(out)
    return (
        list(read_jsonl(out, DialogueReferences)),
        list(read_jsonl(failed, FailedDialogue)) if failed.exists() else [],
        summary,
    )


def facts(line):
    """All that the truth and an annotation must share: names, values, evidence turns, windows."""
    return sorted((r.name, sorted((k, p.value, p.turn) for k, p in r.params.items()), r.window.model_dump())
                  for r in line.references) if not isinstance(line, Failed) else None  # fmt: skip


@pytest.mark.parametrize(("judged", "overlap", "count"), [(60, 15, 30), (13, 4, 30), (10, 0, 15), (2, 8, 5)])
def test_the_truth_comes_out_as_the_truth(calls, tmp_path, judged, overlap, count):
    calls = replace(calls, dialogues=calls.dialogues[:count], truth=calls.truth[:count])
    answers = Truthful(calls.dialogues, calls.truth)
    with FakeEndpoint(answers) as server:
        cut = {"judged": judged, "overlap": overlap}
        lines, failed, summary = annotate(server, calls, tmp_path / "refs.jsonl", oracle=cut)
    assert not failed and summary.annotated == len(calls.dialogues) == count
    assert [line.dialogue_id for line in lines] == [d.id for d in calls.dialogues]
    assert [facts(line) for line in lines] == [facts(t) for t in calls.truth]
    assert summary.invalid == 0 and summary.calls == sum(-(-len(d.turns) // judged) for d in calls.dialogues)


def test_what_does_not_fit_into_an_answer_is_asked_for_in_halves(calls, tmp_path):
    """No answer about more than 15 turns fits; calls of 30 to 50 turns end with parts of at most 12."""
    answers, asked = Truthful(calls.dialogues, calls.truth), []

    def short(request, n):
        turns = re.search(r"opportunities of the turns (\d+) to (\d+)", request["messages"][1]["content"])
        asked.append(int(turns[2]) - int(turns[1]) + 1 if turns else 99)
        true = answers(request)
        return true if asked[-1] <= 15 else Reply(true.text[:-9] + 2000 * " ", finish="length")

    with FakeEndpoint(short) as server:
        lines, failed, summary = annotate(server, calls, tmp_path / "refs.jsonl", oracle={"attempts": 2})
        echoed = [m["content"] for r in server.requests for m in r["messages"] if m["role"] == "assistant"]
    assert not failed and [facts(line) for line in lines] == [facts(t) for t in calls.truth]
    assert summary.annotated == 30 and set(asked) >= {99} and max(map(len, echoed)) <= 500


def test_the_log_is_not_shown_to_the_model_and_pairs_with_what_it_found(tmp_path):
    logged = datasets.load("homeloan", None, "train", limit=3, seed=5)
    with FakeEndpoint(Truthful(logged.dialogues, logged.truth)) as server:
        lines, *_ = annotate(server, logged, tmp_path / "refs.jsonl")
    got = [sorted((r.name, r.observed_turn) for r in line.references) for line in lines]
    assert got == [sorted((o.name, o.turn) for o in d.observed) for d in logged.dialogues]


def misbehave(answers):
    """Each dialogue gets one way to misbehave, in turn; some pass after a retry, some never do."""

    def ways(request, n):
        dialogue, truth = answers.dialogue(request)
        asked_again, true = len(request["messages"]) > 2, answers(request)
        answer = json.loads(true.text)
        window = {name: [{**i, "ready": [*i["ready"], 99]} for i in items] for name, items in answer.items()}
        match int(dialogue.id[-2:]) % 10:
            case 0:
                return Reply(status=429, headers={"retry-after": "0.02"}) if n == 1 else true
            case 1:
                return Reply(status=500) if n == 1 else true
            case 2:
                return Reply(status=500)  # for ever
            case 3:
                return Reply("late", delay=30) if n == 1 else true
            case 4:
                return Reply("late", delay=30)
            case 5:
                return Reply(true.text[: len(true.text) // 2], finish="length")
            case 6:
                return true if asked_again else Reply(json.dumps(window))
            case 7:
                return Reply(json.dumps(window))
            case 8:
                return true if asked_again else Reply(json.dumps(answer | {"fly_to_the_moon": []}))
            case _:
                return Reply(json.dumps(answer | {"fly_to_the_moon": []}))

    return ways


def test_every_dialogue_ends_annotated_or_failed_with_its_reason(calls, tmp_path):
    answers = Truthful(calls.dialogues, calls.truth)
    with FakeEndpoint(misbehave(answers)) as server:
        lines, failed, summary = annotate(server, calls, tmp_path / "refs.jsonl", concurrency=40, timeout=8, retries=1)
    reasons = {int(f.dialogue_id[-2:]) % 10: f.reason for f in failed}
    assert summary.annotated == len(lines) == 15 and len(failed) == sum(summary.failed.values()) == 15
    assert {line.dialogue_id for line in lines} | {f.dialogue_id for f in failed} == {d.id for d in calls.dialogues}
    assert summary.failed == {"server": 3, "timeout": 3, "invalid": 9}
    truth = {t.dialogue_id: t for t in calls.truth}
    assert all(facts(line) == facts(truth[line.dialogue_id]) for line in lines)
    assert "HTTP 500" in reasons[2] and "no answer within" in reasons[4] and "cut off at the token limit" in reasons[5]
    assert "99 is greater than the maximum" in reasons[7] and "'fly_to_the_moon' was unexpected" in reasons[9]


def test_a_run_again_repeats_no_answered_call_and_tries_faults_of_transport_again(calls, tmp_path):
    out, answers = tmp_path / "refs.jsonl", Truthful(calls.dialogues, calls.truth)
    down = {d.id for d in calls.dialogues[:5]}
    with FakeEndpoint(lambda r, n: Reply(status=503) if answers.dialogue(r)[0].id in down else answers(r)) as server:
        assert annotate(server, calls, out, retries=0)[2].failed == {"server": 5}
    with FakeEndpoint(answers) as server:
        lines, failed, summary = annotate(server, calls, out)
    assert len(lines) == 30 and not failed and (summary.calls, summary.cached, len(server.requests)) == (5, 25, 5)
    with FakeEndpoint(answers) as server:
        assert annotate(server, calls, out)[2].cached == 30 and not server.requests


KILLED = """
import sys
import threading
from pathlib import Path
from proactor_lib import datasets
from proactor_lib.annotate import oracle_run
corpus = datasets.load("homeloan", None, "train", limit=30, seed=5, log=False)
settings = oracle_run.OracleSettings(sys.argv[1], "m", cache=Path(sys.argv[3]), concurrency=4)
oracle_run.annotate_file(corpus.dialogues, corpus.catalog, Path(sys.argv[2]), settings)
"""


def test_a_killed_run_goes_on_without_repeating_a_call(calls, tmp_path):
    out, cache, answers = tmp_path / "refs.jsonl", tmp_path / "cache", Truthful(calls.dialogues, calls.truth)
    slow = lambda r, n: Reply(answers(r).text, delay=0.1)  # noqa: E731
    with FakeEndpoint(slow) as server:
        child = subprocess.Popen([sys.executable, "-c", KILLED, server.url, out, cache])
        wait_until(lambda: len(list(cache.rglob("*.json"))) >= 10, process=child)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        kept = {p.stem for p in cache.rglob("*.json")}
        assert 10 <= len(kept) < 30 and not out.exists()
        server.requests.clear()
        lines, failed, summary = annotate(server, calls, out)
    assert summary.cached == len(kept) and summary.calls == len(server.requests) == 30 - len(kept)
    assert [facts(line) for line in lines] == [facts(t) for t in calls.truth] and not failed


def test_a_dry_run_sends_nothing_and_counts_what_a_run_sends(calls, tmp_path):
    answers = Truthful(calls.dialogues, calls.truth)
    with FakeEndpoint(answers) as server:
        settings = oracle_run.OracleSettings(
            server.url, "m", cache=tmp_path / "cache", prices=(2.0, 8.0), oracle={"judged": 30, "overlap": 5}
        )
        plan = oracle_run.plan(calls.dialogues, calls.catalog, settings)
        assert not server.requests and plan.cached == 0
        assert plan.price == pytest.approx((2 * plan.prompt_tokens + 8 * plan.output_tokens) / 1e6)
        oracle_run.annotate_file(calls.dialogues, calls.catalog, tmp_path / "refs.jsonl", settings)
        assert len(server.requests) == plan.calls == sum(-(-len(d.turns) // 30) for d in calls.dialogues)
        after = oracle_run.plan(calls.dialogues, calls.catalog, settings)
    assert (after.calls, after.cached, after.price) == (0, plan.calls, 0)


def test_a_dry_run_needs_no_key(calls, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings = oracle_run.OracleSettings("https://api.example.org/v1", "m", cache=tmp_path / "cache")
    assert oracle_run.plan(calls.dialogues, calls.catalog, settings).calls == 30
    with pytest.raises(UserError, match="needs an API key"):
        oracle_run.annotate_file(calls.dialogues, calls.catalog, tmp_path / "refs.jsonl", settings)


def test_a_dry_run_sends_nothing_where_the_cache_holds_an_answer_that_is_asked_again(calls, tmp_path):
    answers = Truthful(calls.dialogues, calls.truth)
    with FakeEndpoint(lambda r, n: answers(r) if len(r["messages"]) > 2 else Reply("no")) as server:
        settings = oracle_run.OracleSettings(server.url, "m", cache=tmp_path / "cache", oracle={"attempts": 1})
        with pytest.raises(ProcessError, match="not one of 30"):
            oracle_run.annotate_file(calls.dialogues, calls.catalog, tmp_path / "refs.jsonl", settings)
        server.requests.clear()
        settings.oracle["attempts"] = 2
        plan = oracle_run.plan(calls.dialogues, calls.catalog, settings)
        assert not server.requests and (plan.calls, plan.cached) == (30, 30)
        assert oracle_run.annotate_file(calls.dialogues, calls.catalog, tmp_path / "refs.jsonl", settings).calls == 30


def test_an_oracle_that_cannot_be_asked_stops_at_once(calls, tmp_path):
    with FakeEndpoint(lambda r, n: Reply(status=401)) as server, pytest.raises(UserError, match="401"):
        annotate(server, calls, tmp_path / "refs.jsonl")
    with pytest.raises(UserError, match="no connection"):
        annotate(server, calls, tmp_path / "refs.jsonl")
    assert not (tmp_path / "refs.jsonl").exists() and not oracle_run.failures_path(tmp_path / "refs.jsonl").exists()


def test_the_command_plans_annotates_and_says_what_became_of_the_dialogues(calls, tmp_path, cli):
    answers = Truthful(calls.dialogues, calls.truth)
    bad = calls.dialogues[0].id
    out = tmp_path / "refs.jsonl"
    command = "annotate --dataset homeloan --seed 5 --no-log --limit 30 --annotator oracle --json".split()  # noqa: SIM905
    with FakeEndpoint(lambda r, n: Reply("no") if answers.dialogue(r)[0].id == bad else answers(r)) as server:
        command += ["--url", server.url, "--model", "m", "--price", 1, 4, "--cache", tmp_path / "cache", "--out", out]
        planned = cli(*command, "--dry-run")
        assert not server.requests and not out.exists()
        done = cli(*command)
    plan, summary = json.loads(planned.stdout), json.loads(done.stdout)
    assert plan["calls"] == 30 and plan["price"] > 0 and "30 calls to send" in planned.stderr
    assert (summary["annotated"], summary["failed"], summary["calls"]) == (29, {"invalid": 1}, 29 + 3)
    assert summary["cost"] == pytest.approx((summary["prompt_tokens"] + 4 * summary["output_tokens"]) / 1e6)
    assert "29 dialogues annotated" in done.stderr and len(out.read_text().splitlines()) == 29


def test_the_command_asks_with_the_fields_and_the_form_that_it_is_given(calls, cli, tmp_path):
    nothing = json.dumps({action.name: [] for action in calls.catalog.actions})
    with FakeEndpoint(lambda r, n: Reply(f"```json\n{nothing}\n```")) as server:
        command = "annotate --dataset homeloan --seed 5 --no-log --limit 2 --annotator oracle --model m".split()  # noqa: SIM905
        command += ["--url", server.url, "--cache", tmp_path / "cache", "--out", tmp_path / "refs.jsonl", "--form"]
        done = cli(*command, "object", "--sampling", "max_completion_tokens=900", "--sampling", "reasoning_effort=low")
        assert done.returncode == 0 and "2 dialogues annotated" in done.stderr
        asked = {"max_completion_tokens": 900, "reasoning_effort": "low", "response_format": {"type": "json_object"}}
        assert all(asked == {k: r[k] for k in r if k not in ("model", "messages")} for r in server.requests)
        assert "'schema', 'object' or 'text', got 'xml'" in cli(*command, "xml").stderr
        assert "seed" in cli(*command, "text", "--sampling", "seed=1").stderr and len(server.requests) == 2


@pytest.mark.parametrize("by", ["parameter", "rejection"])
def test_answers_about_groups_of_actions_come_out_as_one(calls, tmp_path, by):
    """An endpoint that takes no more than seven of the catalog's actions says so in its own words."""
    calls, asked = replace(calls, dialogues=calls.dialogues[:4], truth=calls.truth[:4]), []
    answers = Truthful(calls.dialogues, calls.truth)

    def narrow(request, n):
        schema = request["response_format"]["json_schema"]["schema"]
        asked.append(len(schema["properties"]))
        if asked[-1] > 7:
            return Reply(status=400, body='{"error": {"message": "The schema has too many states for serving"}}')
        return answers(request)

    with FakeEndpoint(narrow) as server:
        options = {"oracle": {"actions": 7}} if by == "parameter" else {}
        lines, failed, summary = annotate(server, calls, tmp_path / "refs.jsonl", **options)
    assert not failed and [facts(line) for line in lines] == [facts(t) for t in calls.truth]
    assert (max(asked) > 7) == (by == "rejection") and summary.calls == sum(n <= 7 for n in asked) >= 4 * 2


def test_no_credit_left_ends_the_run_at_once(calls, tmp_path):
    body = '{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'
    answers = Truthful(calls.dialogues, calls.truth)

    def spent(request, n):
        return answers(request) if len(server.requests) <= 3 else Reply(status=429, body=body)

    with FakeEndpoint(spent) as server, pytest.raises(UserError, match="exceeded your current quota"):
        annotate(server, calls, tmp_path / "refs.jsonl", concurrency=1)
    assert len(server.requests) <= 3 + 2  # those in flight, and nothing again
    assert not (tmp_path / "refs.jsonl").exists()


def test_a_run_whose_dialogues_all_fail_says_so_and_leaves_the_reasons(calls, tmp_path):
    out = tmp_path / "refs.jsonl"
    with (
        FakeEndpoint(lambda r, n: Reply("I would rather not.")) as server,
        pytest.raises(ProcessError, match="not one of 30 dialogues was annotated: no usable answer"),
    ):
        annotate(server, calls, out, oracle={"attempts": 1})
    failed = list(read_jsonl(oracle_run.failures_path(out), FailedDialogue))
    assert len(failed) == 30 and {f.kind for f in failed} == {"invalid"} and not out.exists()


def test_references_go_through_a_pipe(calls, tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.extend(read_jsonl(pipe, DialogueReferences)))
    reader.start()
    with FakeEndpoint(Truthful(calls.dialogues, calls.truth)) as server:
        settings = oracle_run.OracleSettings(server.url, "m", cache=tmp_path / "cache")
        oracle_run.annotate_file(calls.dialogues, calls.catalog, pipe, settings)
    reader.join()
    assert len(read) == 30 and pipe.is_fifo() and {p.name for p in tmp_path.iterdir()} == {"pipe", "cache"}
