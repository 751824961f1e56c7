"""What is served: a run, an adapter or a model, with its catalog and its readiness threshold."""

import pytest
from proactor_lib.errors import UserError
from proactor_lib.evaluate import evaluate_run, predictions
from proactor_lib.evaluate.few_shot import shots
from proactor_lib.evaluate.readiness import tune_run
from proactor_lib.files import write_json, write_jsonl
from proactor_lib.schema import Action, Catalog, TurnPrediction
from proactor_lib.service.agent_service import Readiness
from proactor_lib.service.source import find
from starlette.testclient import TestClient

from support.fake_endpoint import FakeEndpoint, Reply
from support.runs import opened

CATALOG = Catalog(domain="travel", actions=(Action(name="book"), Action(name="pay")))


def test_a_run_is_served_at_the_threshold_that_tuning_chose(tmp_path):
    run = opened(tmp_path, policies=["oracle_early", "silent"], evaluation_turns=0)
    evaluate_run(run, dev=True)
    evaluate_run(run, dev=True)
    found = find(str(run.out), None, "silent")
    assert (found.policy, found.catalog, found.readiness.own) == ("silent", run.catalog, False)
    assert found.readiness.threshold == tune_run(run, "silent").chosen
    assert find(str(run.out), None, "oracle_early").readiness.threshold is None  # it was not asked on dev


@pytest.mark.parametrize(("policy", "own"), [("base", True), ("reasoning", False), ("first_action", False)])
def test_a_threshold_without_dev_is_a_confidence_where_the_policy_gives_one_and_else_persistence(tmp_path, policy, own):
    assert find(str(opened(tmp_path).out), None, policy, 0.95).readiness == Readiness(0.95, own)


@pytest.mark.parametrize(("left", "policy", "own"), [(0, "base", True), (0, "silent", False), (2, "base", True)])
def test_where_dev_is_empty_or_needs_nothing_actions_fire_as_the_policy_says(tmp_path, left, policy, own):
    run = opened(tmp_path, evaluation_turns=0)
    needless = [r.model_copy(update={"references": ()}) for r in run.annotated("dev")]
    silence = [TurnPrediction(dialogue_id=r.dialogue_id, turn=1) for r in needless]
    write_jsonl(run.data / "dev.jsonl", run.conversations("dev")[:left])
    write_jsonl(run.annotations / "dev.jsonl", needless[:left])
    write_jsonl(predictions.folder(run, "dev") / f"{policy}.jsonl", silence[:left])
    assert find(str(run.out), None, policy).readiness == Readiness(None, own)


def test_few_shot_shows_examples_of_the_run_that_was_named_wherever_the_service_writes(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))
    with FakeEndpoint(lambda r, n: Reply("none")) as model:
        run = opened(tmp_path / "run", policy_url=model.url, policy_model="m")

        def ask(app):  # in place of a server that waits
            with TestClient(app) as client:
                client.post("/v1/proactor/turns", json={"conversation": "c", "turns": [{"speaker": "a", "text": "hm"}]})

        monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: ask(server.config.app))
        done = cli("serve", run.out, "--policy", "few_shot", "--out", tmp_path / "serve", "--port", 0, "--key", "")
    assert done.returncode == 0 and model.requests[0]["messages"][1:-1] == shots(run.split("train"))


def test_an_adapter_and_a_model_need_a_catalog(tmp_path):
    write_json(tmp_path / "adapter_config.json", {"base_model_name_or_path": "tiny", "r": 4})
    write_json(tmp_path / "catalog.json", CATALOG.model_dump(mode="json"))
    found = find(str(tmp_path), tmp_path / "catalog.json", settings={"max_num_seqs": 3})
    p = found.params
    assert (p.model, p.quantization, p.lora_rank, p.max_num_seqs, found.policy) == ("tiny", "none", 4, 3, "adapter")
    assert p.adapters == {"adapter": tmp_path} and found.catalog == CATALOG
    assert find("tiny", tmp_path / "catalog.json").policy == "base"
    with pytest.raises(UserError, match="brings no catalog: name one with --catalog FILE"):
        find("tiny", None)
    with pytest.raises(UserError, match="--policy 'sft': tiny is not a run's folder"):
        find("tiny", tmp_path / "catalog.json", "sft")
