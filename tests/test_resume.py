"""A trainer that is killed at any point, and one whose disk is full: the next start goes on as if nothing had been."""

import json

import pytest
from safetensors.numpy import load_file

from support.fake_vllm import Completions
from support.records import metrics
from support.runs import opened
from support.trackers import curves, trackio_points
from support.trainer_process import begin, trainer
from support.waiting import wait_until

TIMES = {"rollout_s", "rollout_wait_s", "train_s", "sync_s", "elapsed_s"}
SETTINGS = {"sft_steps": 0, "max_steps": 6, "save_steps": 2, "num_generations": 4, "policy_sync": "adapter"}


def facts(out):
    """What a run's lines say, but for how long it took."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in metrics(out)]


def groups(out):
    """(step, dialogue, turn) of each group that was kept, in order."""
    lines = (out / "training" / "samples.jsonl").read_text().splitlines()
    return [(g["step"], g["dialogue_id"], g["turn"]) for g in map(json.loads, lines)]


def weights(out):
    return load_file(out / "training" / "adapter" / "adapter_model.safetensors")


def checkpoints(out):
    return sorted(p.name for p in (out / "training").glob("checkpoint-*"))


def log(out):
    return (out / "training" / "train.log").read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that nobody killed."""
    out = tmp_path_factory.mktemp("undisturbed")
    opened(out, **SETTINGS)
    with Completions() as server:
        assert trainer(out, server.port) == 0
    return out


def test_killed_at_every_point_it_ends_as_if_it_had_not_been(undisturbed, tmp_path):
    """During rollouts, training, sync, records, a checkpoint, before the adapter: the same lines, the same adapter."""
    opened(tmp_path, **SETTINGS, trackers=["trackio", "tensorboard"])
    with Completions() as server:
        for path in ("/v1/completions", "/v1/load_lora_adapter"):
            seen = []
            server.on = lambda asked, _, path=path, seen=seen: seen.append(asked) if asked == path else None
            process = begin(tmp_path, server.port)
            wait_until(lambda seen=seen: len(seen) >= 3)  # a second step's request, a second version on its way
            process.kill()
            process.join()
        server.on = lambda *_: None
        for place in ("in training", "between lines", "in a checkpoint", "after lines"):
            assert trainer(tmp_path, server.port, die=place) == -9
        assert trainer(tmp_path, server.port, die="before the adapter") == -9
        assert not (tmp_path / "training" / "adapter").exists() and len(metrics(tmp_path)) == 6
        assert trainer(tmp_path, server.port) == 0
    assert facts(tmp_path) == facts(undisturbed)
    assert groups(tmp_path) == groups(undisturbed)
    wanted = [(line["step"], pytest.approx(line["reward_mean"])) for line in metrics(tmp_path)]
    assert curves(tmp_path / "tensorboard")["reward_mean"] == wanted  # once each, whatever was killed
    tracked = json.loads((tmp_path / "trackers.json").read_text())["id"]
    assert trackio_points(f"smoke-{tracked}", "reward_mean") == wanted
    ours, theirs = weights(tmp_path), weights(undisturbed)
    assert ours.keys() == theirs.keys() and all((ours[k] == theirs[k]).all() for k in ours)


def test_a_full_disk_leaves_the_last_good_checkpoint_and_is_said(undisturbed, tmp_path):
    """First nothing fits any more, then all but a checkpoint's biggest file does."""
    sizes = {p.name: p.stat().st_size for p in (undisturbed / "training" / "checkpoint-6").iterdir()}
    adapter = sizes["adapter_model.safetensors"]
    assert 2 * adapter < max(sizes.values())
    opened(tmp_path, **SETTINGS)
    with Completions() as server:
        assert trainer(tmp_path, server.port, fsize=adapter // 2) == 1
        assert checkpoints(tmp_path) == ["checkpoint-2"] and "File too large" in log(tmp_path)
        assert trainer(tmp_path, server.port, fsize=2 * adapter) == 0
    assert "goes on after step 2" in log(tmp_path)
    assert checkpoints(tmp_path) == ["checkpoint-2"]
    for name in ("checkpoint-4", "checkpoint-6"):
        assert f"{name} was not written" in log(tmp_path)
    assert facts(tmp_path) == facts(undisturbed) and groups(tmp_path) == groups(undisturbed)


def test_what_a_run_trained_after_its_last_checkpoint_is_trained_again_by_the_same_groups(tmp_path):
    """With stale samples allowed: no burst of them after the resume, each group once, versions go on counting."""
    settings = SETTINGS | {"max_staleness": 2, "max_steps": 7}
    opened(tmp_path, **settings)
    with Completions() as server:
        assert trainer(tmp_path, server.port, die="in training") == -9
        before = len(server.sessions)
        assert trainer(tmp_path, server.port) == 0
        names = {model.rpartition("-v")[2] for _, model in server.sessions[before:]}
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 8))
    assert all(0 <= line["staleness"] <= 2 for line in lines)
    assert len(set(groups(tmp_path))) == len(groups(tmp_path)) == sum(line["groups"] for line in lines)
    assert min(names) == "4" and max(names) <= "6"  # the checkpoint's version, not that of a fresh start
