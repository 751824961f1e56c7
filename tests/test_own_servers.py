"""Servers that a run starts for its own oracle and judge: when, with which key, and that they end."""

import os

import pytest
from proactor_lib import datasets
from proactor_lib.artf.serving import own
from proactor_lib.artf.serving.placement import gpu_slots
from proactor_lib.errors import UserError
from proactor_lib.params import load_params
from proactor_lib.rewards import make_reward
from proactor_lib.run import Run, annotate_run, prepare_data

from support.fake_endpoint import FakeEndpoint
from support.judges import good, said
from support.reward_cases import RIGHT, SILENCE, group, scores
from support.truthful_oracle import Truthful

SIZES = {f"{split}_dialogues": 2 for split in ("train", "dev", "test")}


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What own servers were started for, and which still run; they are at the address that `started["at"]` holds."""
    seen = {"at": None, "models": [], "running": 0}

    class InProcess:
        key = "secret"

        def __init__(self, make, slots, rule, folder, **kwargs):
            seen["models"] += [make(slot, self.key) for slot in slots]
            self.url = seen["at"].removesuffix("/v1")

        def wait_ready(self, timeout):
            return self

        def __enter__(self):
            seen["running"] += 1
            return self

        def __exit__(self, *_):
            seen["running"] -= 1

    monkeypatch.setattr(own, "Cluster", InProcess)
    monkeypatch.setattr(own, "own_server", lambda params, model, weights, folder, slot, key: model)
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(own.models, "resolve", lambda name: name)
    monkeypatch.setattr(own.models, "downloaded", lambda path: path)
    return seen


def test_the_oracles_server_is_started_once_for_all_splits_and_ends_with_the_annotation(started, tmp_path):
    loaded = [datasets.load("homeloan", None, s, limit=2, max_turns=50) for s in ("train", "dev", "test")]
    answers = Truthful([d for c in loaded for d in c.dialogues], [t for c in loaded for t in c.truth])
    with FakeEndpoint(lambda request, n: answers(request)) as server:
        started["at"] = server.url
        asked = {"annotator": "oracle", "oracle_url": "serve", "oracle_model": "tiny", "homeloan_log": False}
        run = Run.open(load_params(None, SIZES | asked), tmp_path / "run")
        prepare_data(run)
        annotate_run(run)
        assert (started["models"], started["running"]) == (["tiny"], 0)
        assert {headers["authorization"] for _, headers in server.seen} == {"Bearer secret"}
        assert {request["model"] for request in server.requests} == {"tiny"}
        assert len({headers["x-session-id"] for _, headers in server.seen}) == 6  # a dialogue's stay on one server
        count = len(server.requests)
        annotate_run(run)  # nothing is left to ask
        assert (started["models"], len(server.requests)) == (["tiny"], count)
    assert len(run.references("test")) == 2


def test_the_command_that_annotates_has_its_own_oracle_too(started, tmp_path, cli):
    corpus = datasets.load("homeloan", None, "dev", limit=2, max_turns=50, log=False)
    answers = Truthful(corpus.dialogues, corpus.truth)
    with FakeEndpoint(lambda request, n: answers(request)) as server:
        started["at"] = server.url
        asked = ("annotate", "--dataset", "homeloan", "--split", "dev", "--limit", 2, "--max-turns", 50, "--no-log",
                 "--annotator", "oracle", "--url", "serve", "--model", "tiny",
                 "--out", tmp_path / "w.jsonl")  # fmt: skip
        assert cli(*asked, "--dry-run").returncode == 0 and started["models"] == []
        done = cli(*asked)
    assert done.returncode == 0, done.stderr
    assert (started["models"], started["running"]) == (["tiny"], 0)
    assert len((tmp_path / "w.jsonl").read_text().splitlines()) == 2


def test_the_judges_server_is_there_while_it_is_asked(started, tmp_path):
    asked = {"reward": "custom_ruler", "judge": "tiny", "judge_url": "serve"}
    params = load_params(None, asked)
    with FakeEndpoint(lambda request, n: said(good(request))) as server:
        started["at"] = server.url
        with own.judged(params, tmp_path) as there:
            assert (there.judge_url, started["models"], started["running"]) == (server.url, ["tiny"], 1)
            found = scores(make_reward(there), group(RIGHT, SILENCE))
        assert [s.value for s in found[0]] == pytest.approx([0.9, 0.1])
        assert {headers["authorization"] for _, headers in server.seen} == {"Bearer secret"}
    assert started["running"] == 0 and own.JUDGE_KEY not in os.environ
    with pytest.raises(UserError, match="judge_url 'serve': only a training starts its judge's server"):
        make_reward(params)


def test_nobody_is_started_who_is_not_asked(started, tmp_path):
    for settings in ({"judge": "tiny", "judge_url": "serve", "reward": "utility"}, {"reward": "custom_ruler"}):
        params = load_params(None, settings)
        with own.judged(params, tmp_path) as there:
            assert there is params
    given = load_params(None, {"annotator": "oracle", "oracle_model": "m", "oracle_url": "http://127.0.0.1:1/v1"})
    with own.oracle_address(given, tmp_path) as address:
        assert address() == ("http://127.0.0.1:1/v1", None)
    assert started["models"] == []


def test_several_slots_are_a_cluster_behind_one_address(monkeypatch, tmp_path):
    monkeypatch.setattr(own, "oracle_slots", lambda params: gpu_slots(range(3), ["4", "5", "GPU-7"]))
    made = []

    class Cluster:
        url, key = "http://127.0.0.1:7", "k"

        def __init__(self, make, slots, rule, folder, **kwargs):
            made.extend(make(slot, "k") for slot in slots)
            assert (rule.least, rule.most) == (3, 3)

        def wait_ready(self, timeout):
            return self

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

    monkeypatch.setattr(own, "Cluster", Cluster)
    params = load_params(None, {"annotator": "oracle", "oracle_model": "tiny", "oracle_url": "serve"})
    with own.oracle_address(params, tmp_path) as address:
        assert address() == ("http://127.0.0.1:7/v1", "k")
    assert [(s.name, s.gpu, s.log_path.name) for s in made] == [
        ("tiny", gpu, f"server-gpu-{n}.log") for n, gpu in enumerate(["4", "5", "GPU-7"])
    ]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"judge": "a,b", "judge_url": "serve"}, "judge_url 'serve' serves one judge, not 'a,b'"),
        ({"judge": "a,b", "judge_url": "serve,http://127.0.0.1:1/v1"}, "'serve' stands alone"),
        ({"annotator": "oracle", "oracle_url": "serve"}, "needs oracle_model and oracle_url"),
        ({"serve_weights": "nf4", "quantization": "none"}, "serve_weights 'nf4' needs quantization 'nf4' and a GPU"),
        ({"serve_weights": "nf4", "device": "cpu"}, "serve_weights 'nf4' needs quantization 'nf4' and a GPU"),
        ({"serve_weights": "nf4", "policy_sync": "merged"}, "serve_weights 'nf4' needs policy_sync 'adapter'"),
    ],
)
def test_parameters_that_do_not_go_together_are_a_sentence(settings, says):
    with pytest.raises(UserError, match=says):
        load_params(None, settings)


def test_a_training_has_its_judge_before_its_servers_and_until_they_have_ended(started, tmp_path, monkeypatch):
    from proactor_lib.artf.training import train

    events = []

    class PolicyServer:
        def wait_ready(self, timeout):
            events.append(("policy ready", started["running"]))

        def stop(self):
            events.append(("policy ended", started["running"]))

    monkeypatch.setattr(train, "serve", lambda *_, **__: PolicyServer())
    monkeypatch.setattr(train, "reinforce", lambda job, server, reward: events.append(reward.judges[0].endpoint.url))
    monkeypatch.setattr(train.Job, "served", "weights")
    started["at"] = "http://127.0.0.1:1/v1"
    asked = {"reward": "custom_ruler", "judge": "tiny", "judge_url": "serve", "device": "cpu"}
    job = train.Job(Run.open(load_params(None, asked), tmp_path / "run"))
    train.serve_and_reinforce(job, while_served=lambda server: None)
    assert events == [("policy ready", 1), "http://127.0.0.1:1/v1", ("policy ended", 1)]
    assert started["running"] == 0
