"""Evaluation: who is asked what and when, what is kept, and what a kill leaves."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from proactor_lib import events
from proactor_lib.artf.serving.completions import CompletionClient, Output, WrongModel
from proactor_lib.artf.training.tokens import DialogueTokens, dialogue_tokens
from proactor_lib.endpoint import Endpoint
from proactor_lib.errors import UserError
from proactor_lib.evaluate import agents, confidence, evaluate_run, few_shot, graph, load_or_score
from proactor_lib.evaluate.agents import EvalCase, Prompted, Served
from proactor_lib.evaluate.policy_set import PolicySet
from proactor_lib.evaluate.predictions import PredictionLog
from proactor_lib.evaluate.run import predict
from proactor_lib.evaluate.splits import EvalSplit
from proactor_lib.files import read_jsonl, write_json
from proactor_lib.models import TINY, load_tokenizer, resolve
from proactor_lib.params import load_params
from proactor_lib.run import Run
from proactor_lib.schema import Action, Catalog, Parameter, PredictedAction, TurnPrediction

from support.fake_endpoint import FakeEndpoint, Reply
from support.runs import opened
from support.shared import SGD, needs_shared
from support.waiting import wait_until

SMOKE = Path(__file__).parents[1] / "params" / "smoke.yaml"


def lines(path):
    return list(read_jsonl(path, TurnPrediction))


# what is kept


def test_predictions_are_kept_as_they_come_and_a_half_line_is_asked_again(tmp_path):
    first = PredictionLog(tmp_path, "p", {"a": 1})
    for turn in (1, 2):
        first.add(TurnPrediction(dialogue_id="d", turn=turn, text="none"))
    with open(tmp_path / "p.partial", "a") as f:
        f.write('{"dialogue_id": "d", "tu')  # killed here
    again = PredictionLog(tmp_path, "p", {"a": 1})
    assert len(again) == 2 and set(again.of("d")) == {1, 2} and not again.complete
    again.add(TurnPrediction(dialogue_id="c", turn=5, actions=(PredictedAction(name="x", params={"k": "v"}),)))
    again.finish()
    assert [(x.dialogue_id, x.turn) for x in lines(tmp_path / "p.jsonl")] == [("c", 5), ("d", 1), ("d", 2)]
    assert lines(tmp_path / "p.jsonl")[0].actions[0].params == {"k": "v"} and not (tmp_path / "p.partial").exists()
    assert PredictionLog(tmp_path, "p", {"a": 1}).complete and len(PredictionLog(tmp_path, "p", {"a": 1})) == 3
    assert len(PredictionLog(tmp_path, "p", {"a": 2})) == 0 and not (tmp_path / "p.jsonl").exists()


# the graph


def test_a_graph_carries_what_an_output_does_not_name():
    start, whole = graph.updated({}, "prepared: book | to=Rome\nproposed: pay")
    assert whole and [(a.name, a.status) for a in graph.actions(start)] == [("book", "candidate"), ("pay", "candidate")]
    now, whole = graph.updated(start, "ready: book | to=Rome | day=3\nwithdrawn: pay")
    assert whole and graph.actions(now) == (PredictedAction(name="book", params={"to": "Rome", "day": "3"}),)
    assert graph.render(now) == "ready: book | to=Rome | day=3\nwithdrawn: pay"
    assert graph.updated(now, "None.") == (now, True) and graph.updated(now, "") == (now, False)
    done, whole = graph.updated(now, "done: book\nI think that is all")
    assert not whole and graph.actions(done) == ()
    assert graph.updated({}, graph.render(now)) == (now, True)


def test_thinking_is_not_acting():
    assert agents.after_thinking("<think>ready: no</think>\nready: yes") == "\nready: yes"
    assert agents.after_thinking("ready: yes") == "ready: yes"
    assert agents.after_thinking("<think>ready: no") is None


# prompts on an endpoint


def follow(name, answer, tmp_path, turns=(1, 2, 3), kept=None):
    """What a prompted policy says of a dialogue, by turn, and the requests that it sent."""
    run = opened(tmp_path / "run")
    case = EvalCase(run.dialogues("test")[0], (), run.catalog, turns)
    kept = kept or PredictionLog(tmp_path / "predictions", name, {})

    async def ask(url):
        await predict(Prompted(name, Endpoint(url, "m", backoff=0.01, retries=1), 64), [case], kept, lambda: None)

    with FakeEndpoint(answer) as server:
        asyncio.run(ask(server.url))
        assert len({headers["x-session-id"] for _, headers in server.seen}) == 1  # a dialogue's stay on one server
    return kept.of(case.dialogue.id), server.requests


def test_non_reasoning_sees_the_turns_so_far_and_answers_in_our_format(tmp_path):
    said, requests = follow("non_reasoning", lambda r, n: Reply("ready: pull_credit | name=Ann"), tmp_path)
    assert said[2].actions == (PredictedAction(name="pull_credit", params={"name": "Ann"}),)
    assert said[2].output_tokens == 4 and said[2].latency_s > 0 and not said[2].unreadable
    seen = sorted((r["messages"][1]["content"] for r in requests), key=len)
    assert [text.count("\n") for text in seen] == [1, 2, 3] and seen[2].startswith(seen[1])
    assert all(r["temperature"] == 0 and r["max_tokens"] == 64 and "seed" not in r for r in requests)
    assert "pull_credit(" in requests[0]["messages"][0]["content"]


def test_few_shots_show_each_kind_of_turn_and_what_may_be_said(tmp_path):
    run = opened(tmp_path)
    shown = few_shot.shots(run.split("train"))
    answers = [m["content"] for m in shown if m["role"] == "assistant"]
    assert [m["role"] for m in shown] == ["user", "assistant"] * 3
    assert [a.split(":")[0] for a in answers] == ["ready", "candidate", "none"]  # due, early, silent
    actions = (Action(name="pay"), Action(name="book", params=(Parameter(name="day"), Parameter(name="to"))))
    assert few_shot.grammar(Catalog(domain="d", actions=actions)).splitlines()[1:4] == [
        'act ::= ("ready: " | "candidate: ") (a0 | a1)',
        'a0 ::= "pay"',
        'a1 ::= "book" (" | " ("day" | "to") "=" value){0,8}',
    ]


def test_reasoning_is_asked_to_think_and_its_thoughts_are_kept_but_not_done(tmp_path):
    text = "<think>ready: order_appraisal</think>candidate: pull_credit"
    said, requests = follow("reasoning", lambda r, n: Reply(text), tmp_path)
    assert said[1].actions == (PredictedAction(name="pull_credit", status="candidate"),) and said[1].text == text
    assert "<think>" in requests[0]["messages"][0]["content"]


@pytest.mark.parametrize("reply", [Reply("<think>so"), Reply("ready: a", finish="length"), Reply(status=400)])
def test_what_has_no_answer_is_counted_as_unreadable(reply, tmp_path):
    said, _ = follow("reasoning", lambda r, n: reply, tmp_path)
    assert [(said[t].unreadable, said[t].actions) for t in (1, 2, 3)] == [(True, ())] * 3
    assert said[1].text == (reply.text or None)
    assert said[1].reason == (None if reply.text else "HTTP 400: status 400 on purpose")


def test_an_endpoint_that_is_down_predicts_nothing(tmp_path):
    with pytest.raises(agents.Unanswered, match="does not answer: HTTP 503"):
        follow("non_reasoning", lambda r, n: Reply(status=503), tmp_path)
    assert not (tmp_path / "predictions" / "non_reasoning.partial").exists()


def with_graph(request, n):
    """Proposes at first, then makes ready what the graph holds."""
    before = request["messages"][1]["content"].split("The graph as it was:\n")[1].strip()
    return Reply("<think>.</think>" + ("proposed: pay" if before == "none" else "ready: pay | sum=5"))


def test_a_graph_is_carried_from_turn_to_turn_and_over_a_kill(tmp_path):
    said, requests = follow("reasoning_asg", with_graph, tmp_path)
    assert [said[t].actions[0].status for t in (1, 2, 3)] == ["candidate", "ready", "ready"]
    assert "ready: pay | sum=5" in requests[2]["messages"][1]["content"]
    half = PredictionLog(tmp_path / "half", "reasoning_asg", {})
    half.add(said[1])
    resumed, sent = follow("reasoning_asg", with_graph, tmp_path, kept=half)
    assert len(sent) == 2 and sent == requests[1:]
    assert [resumed[t].actions for t in (1, 2, 3)] == [said[t].actions for t in (1, 2, 3)]


def test_what_was_cut_off_or_refused_says_nothing_and_leaves_the_graph_as_it_was(tmp_path):
    def answer(request, n):
        turn = request["messages"][1]["content"].partition("The graph")[0].count("\n")
        cut = Reply("<think>.</think>ready: pay | sum=1", finish="length")  # of 1200
        return {2: cut, 3: Reply(status=400)}.get(turn) or with_graph(request, n)

    said, requests = follow("reasoning_asg", answer, tmp_path, turns=(1, 2, 3, 4))
    assert [(said[t].actions, said[t].unreadable) for t in (2, 3)] == [((), True)] * 2
    assert [len(said[t].actions) for t in (1, 4)] == [1, 1] and said[4].actions[0].params == {"sum": "5"}
    half = PredictionLog(tmp_path / "half", "reasoning_asg", {})
    for turn in (1, 2, 3):
        half.add(said[turn])
    resumed, sent = follow("reasoning_asg", with_graph, tmp_path, turns=(1, 2, 3, 4), kept=half)
    assert sent == requests[-1:] and resumed[4].actions == said[4].actions


# a policy of ours


def test_a_served_policy_is_asked_greedily_once_a_turn_and_beyond_the_context_not_at_all(tiny_server, tmp_path):
    run, tokenizer = opened(tmp_path / "run"), load_tokenizer(resolve(TINY))
    case = EvalCase(run.dialogues("test")[0], (), run.catalog, (3, 10, 17))
    prompts = dialogue_tokens(tokenizer, case)

    def asked(folder, longest=4000):
        kept = PredictionLog(tmp_path / folder, "base", {})
        sampler = CompletionClient(tiny_server.url, 6, temperature=0.0, top=confidence.ALTERNATIVES)
        served = Served(tiny_server.name, sampler, lambda case: prompts, longest, at_once=2)
        asyncio.run(predict(served, [case], kept, lambda: None))
        return kept.of(case.dialogue.id), sampler.counters["requests"]

    said, requests = asked("a")
    assert requests == 1 + 3
    assert [said[t].prompt_tokens for t in case.turns] == [len(prompts.prompt(t)) for t in case.turns]
    assert all(said[t].output_tokens <= 6 and said[t].latency_s > 0 for t in case.turns)
    again, requests = asked("a")
    assert requests == 0 and again == said
    greedy, _ = asked("b")
    assert [greedy[t].text for t in case.turns] == [said[t].text for t in case.turns]
    short, requests = asked("c", longest=len(prompts.prompt(10)))
    assert requests == 1 + 2 and (short[17].unreadable, short[17].text) == (True, None)


class AnotherAnswers:
    """A server's client whose every request another model answers."""

    async def warm(self, *request):
        raise WrongModel("policy-v1 was asked, base answered")

    sample = warm

    async def close(self):
        pass


def test_an_answer_of_another_model_is_no_prediction_and_one_sentence(tmp_path):
    run = opened(tmp_path)
    case = EvalCase(run.dialogues("test")[0], (), run.catalog, (3,))
    served = Served("policy-v1", AnotherAnswers(), lambda case: DialogueTokens([1], [1] * 50, [2]), 4000, at_once=1)
    log = PredictionLog(tmp_path / "predictions", "mine", {})
    with pytest.raises(agents.Unanswered, match="does not answer: policy-v1 was asked, base answered"):
        asyncio.run(predict(served, [case], log, lambda: None))
    assert len(log) == 0


def test_weights_replaced_in_their_folder_are_another_model(tmp_path):
    """And a folder that is gone is said, before predictions are thrown away."""
    model = tmp_path / "model"
    write_json(model / "config.json", {})
    run = Run.open(load_params(SMOKE, {"model": str(model)}), tmp_path / "out")
    write_json(run.data / "catalog.json", {"domain": "own", "actions": [{"name": "a"}]})
    policies = PolicySet(run)
    before = [policies.made_from(name) for name in ("base", "non_reasoning")]
    assert before == [policies.made_from(name) for name in ("base", "non_reasoning")]
    write_json(model / "config.json", {"layers": 2})
    after = [policies.made_from(name) for name in ("base", "non_reasoning")]
    assert all(a.keys() == b.keys() and a != b for a, b in zip(after, before, strict=True))
    (model / "config.json").unlink()
    assert policies.present(["silent"], print) == ["silent"]
    with pytest.raises(UserError, match="no config.json there"):
        policies.present(["silent", "base"], print)


def test_the_confidence_of_ready_is_read_where_a_line_begins():
    text = "ready: a\n candidate: b"
    tokens = ["ready", ":", " a", "\n", " candidate", ":", " b"]
    offsets = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
    tops = [{"x": -0.1}] * 7
    tops[0] = {"ready": -0.105360516, "cand": -2.302585093}  # 0.9 and 0.1
    tops[4] = {" candidate": -0.223143551, " ready": -1.609437912}  # 0.8 and 0.2
    output = Output(text, list(range(7)), [0.0] * 7, False, offsets, tops)
    read = agents.read(output)
    assert [a.confidence for a in read.actions] == pytest.approx([0.9, 0.2], abs=1e-5)
    assert agents.read(Output(text, [], [], True)).unreadable


# a run


def test_policies_of_a_run_and_their_tables(tmp_path):
    run = opened(tmp_path, policies=["sft", "oracle", "silent"])
    said, heard = [], []
    remove = events.add(heard.append)
    assert evaluate_run(run, log=said.append) == ["oracle", "silent"]
    remove()
    assert [set(e.table) for e in heard if isinstance(e, events.Evaluated)] == [{"oracle", "silent"}]
    assert len(said) == 1 and said[0].startswith("sft is left out")
    assert {x.turn for x in lines(run.predictions / "oracle.jsonl")} == {
        t for turns in EvalSplit(run).evaluated_turns.values() for t in turns
    }
    scored = load_or_score(run)
    table = scored.table.set_index(["method", "metric"]).value
    assert table["oracle", "ftr"] == 0 and pd.isna(table["silent", "ftr"]) and table["silent", "missed"] == 1
    outputs = scored.outputs().set_index("policy")
    assert outputs.silent["silent"] == outputs.outputs["silent"] == 4


def test_another_address_answers_for_itself_and_the_same_one_is_not_asked_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))

    def texts(run, server):
        there = {"policy_url": server.url, "policy_model": "m"}
        evaluate_run(opened(tmp_path / run, policies=["non_reasoning"], **there))
        return {line.text for line in lines(tmp_path / run / "predictions" / "non_reasoning.jsonl")}

    with FakeEndpoint(lambda r, n: Reply("none")) as whole, FakeEndpoint(lambda r, n: Reply("ready: pay")) as small:
        assert (texts("a", whole), texts("b", small)) == ({"none"}, {"ready: pay"})
        asked = len(whole.requests)
        assert texts("c", whole) == {"none"} and len(whole.requests) == asked == len(small.requests)


# the command


def command(out, *more, dataset=("--dataset", "homeloan"), limit=3):
    return [
        sys.executable, "-m", "proactor_lib", "evaluate", *dataset, "--limit", str(limit), "--out", str(out),
        "--set", "bootstrap=100", *more,
    ]  # fmt: skip


@needs_shared
def test_a_killed_comparison_goes_on_without_a_repeated_call_and_its_table_is_the_same_again(
    tmp_path, cli, monkeypatch
):
    """Five policies on SGD, two of them on an endpoint, killed by SIGKILL in the middle."""
    policies = ["non_reasoning", "reasoning_asg", "oracle", "silent", "random"]
    asked = [x for p in policies for x in ("--policy", p)]
    sgd = ("--dataset", "sgd", "--data-dir", str(SGD), "--split", "dev")
    finished: list[str] = []

    def answer(request, n):
        finished.append(json.dumps(request["messages"]))
        return Reply("none", delay=0.02)

    with FakeEndpoint(answer) as server:
        monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))
        run = command(tmp_path / "out", *asked, "--url", server.url, "--model", "m", "--turns", "3",
                      dataset=sgd, limit=12)  # fmt: skip
        job = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        partial = tmp_path / "out" / "predictions" / "reasoning_asg.partial"
        wait_until(lambda: partial.exists() and partial.read_text().count("\n") > 4, process=job)
        job.send_signal(signal.SIGKILL)
        job.wait()
        wait_until(server.deserted())  # what the killed one had sent is read now, and not counted later
        kept = partial.read_text().count("\n")
        before = len(finished)
        again = cli(*run[3:], "--json")
        assert again.returncode == 0, again.stderr
        assert len(finished) - before <= 36 - kept  # not one that was kept; and non_reasoning not at all
        third = cli(*run[3:], "--json")
        total = len(finished)
    answer = json.loads(again.stdout)
    assert set(answer["policies"]) == set(policies) and answer["dialogues"] == 12
    assert json.loads(third.stdout) == answer and total == len(finished)
    assert answer["policies"]["oracle"]["opportunity_timing"][0] > answer["policies"]["random"]["opportunity_timing"][0]


def test_a_server_that_does_not_come_up_is_one_sentence(cli, tmp_path):
    said = cli(*command(tmp_path / "out", "--policy", "base", "--model", "tiny", "--set", "start_timeout=0.1")[3:])
    assert said.returncode == 1 and "Traceback" not in said.stderr
    assert re.search(
        r"^proactor: the vLLM server was not ready after 0 s; log .*evaluation-server.log", said.stderr, re.M
    )


def test_a_policy_can_be_added_and_a_mistake_is_one_sentence(cli, tmp_path):
    def evaluate(out, *more):
        return cli(*command(tmp_path / out, *more)[3:])

    assert evaluate("out", "--policy", "oracle", "--turns", "2").returncode == 0
    more = evaluate("out", "--policy", "silent", "--turns", "2", "--json")
    assert set(json.loads(more.stdout)["policies"]) == {"oracle", "silent"}
    other = evaluate("out", "--policy", "silent", "--turns", "4")
    assert other.returncode == 2 and "was made with other parameters (evaluation_turns was 2, now 4)" in other.stderr
    for folder in ("new", "out"):
        turns = ("--turns", "2") if folder == "out" else ()
        wrong = evaluate(folder, "--policy", "clever", *turns)
        assert wrong.returncode == 2 and "unknown policy 'clever'; accepted: base, non_reas" in wrong.stderr
        assert not [name for name in ("few_shot", "_tuned", "trained", "sft") if name in wrong.stderr]
    assert evaluate("out", "--policy", "random", "--turns", "2").returncode == 0  # the mistake is not kept


def test_what_is_not_typed_lies_below_the_file(cli, tmp_path):
    (tmp_path / "p.yaml").write_text("{max_context: 9000, seed: 4, evaluation_turns: 2, test_split: dev}")
    file = ("--params", tmp_path / "p.yaml")

    def params(out, *more):
        given = ("--dataset", "homeloan", "--policy", "oracle", "--limit", "2", "--out", tmp_path / out)
        assert cli("evaluate", *given, *more).returncode == 0
        found = json.loads((tmp_path / out / "params.json").read_text())
        return [found[k] for k in ("max_context", "seed", "evaluation_turns", "test_split", "test_dialogues")]

    assert params("none") == [4096, 0, 0, "test", 2]
    assert params("file", *file) == [9000, 4, 2, "dev", 2]
    assert params("typed", *file, "--seed", "0", "--set", "max_context=8000") == [8000, 0, 2, "dev", 2]


@pytest.mark.parametrize(("policy", "split"), [("few_shot", "train"), ("random_tuned", "dev")])
def test_a_policy_that_needs_another_split_is_refused_in_one_sentence(policy, split, cli, tmp_path):
    said = cli(*command(tmp_path / "out", "--policy", policy)[3:])
    assert said.returncode == 2 and not (tmp_path / "out").exists()
    assert f"policy {policy!r} needs dialogues of {split}" in said.stderr.splitlines()[-1]


def test_a_corpus_that_was_repaired_is_read_again(cli, tmp_path):
    """By its annotator's windows; windows that were given stay, and must fit."""
    corpus = opened(tmp_path / "made", test_dialogues=3)
    lines = (corpus.data / "test.jsonl").read_text().splitlines(keepends=True)
    given = ("--references", corpus.annotations / "test.jsonl")

    def evaluate(out, count, *more):
        (corpus.data / "test.jsonl").write_text("".join(lines[:count]))
        dataset = ("--dataset", "jsonl", "--data-dir", corpus.data)
        return cli(*command(tmp_path / out, "--policy", "oracle", "--json", *more, dataset=dataset)[3:])

    assert [json.loads(evaluate("out", n).stdout)["dialogues"] for n in (3, 2)] == [3, 2]
    assert json.loads(evaluate("mine", 3, *given).stdout)["dialogues"] == 3
    other = evaluate("mine", 2)
    assert other.returncode == 2 and "references/test.jsonl, line 3: " in other.stderr


def test_references_of_a_folder_stay_and_others_are_refused(cli, tmp_path):
    def evaluate(*more):
        return cli(*command(tmp_path / "out", "--policy", "oracle", *more)[3:])

    assert evaluate().returncode == 0
    there, given = tmp_path / "out" / "references" / "test.jsonl", tmp_path / "mine.jsonl"
    given.write_bytes(there.read_bytes())
    assert evaluate("--references", str(given)).returncode == 0
    given.write_text("".join(there.read_text().splitlines(keepends=True)[:-1]))
    other = evaluate("--references", str(given))
    assert other.returncode == 2 and f"{given}: other windows than {there}" in other.stderr.splitlines()[-1]
