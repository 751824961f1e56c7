"""The policy on its way to several servers: what they confirm, what a server that joins holds, what is never answered.

Scripted servers over real HTTP, the real router; the dialogues' outputs are made up, but nothing between is.
"""

import asyncio
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch
from proactor_lib.artf.serving import policy_sync
from proactor_lib.artf.serving.completions import CompletionClient, WrongModel
from proactor_lib.artf.serving.policy_sync import AdapterSync, MergedSync, clear_scratch, scratch_folder
from proactor_lib.artf.serving.server import Stuck
from proactor_lib.artf.training.episodes import DialogueSampler
from proactor_lib.artf.training.rollouts import Gate, RolloutWorker
from proactor_lib.artf.training.tokens import DialogueTokens
from proactor_lib.bench.fake_server import FakeServer
from proactor_lib.bench.fake_vllm import Script
from proactor_lib.errors import ProcessError
from proactor_lib.schema import Case
from safetensors.torch import load_file, save_file

from support.clusters import cluster, events
from support.reward_cases import BOOK, CATALOG, DIALOGUE, RIGHT, SILENCE, reward
from support.waiting import wait_until


@contextmanager
def servers(folder, count=1, **script):
    with ExitStack() as stack:
        found = [FakeServer(log_path=folder / f"{n}.log", script=Script(**script)) for n in range(count)]
        for server in found:
            stack.enter_context(server)
        yield [server.wait_ready(60) for server in found]


def ask(url, model, patience=30.0, **kwargs):
    """The outputs of one request, and the sampler's counters."""

    async def work():
        sampler = CompletionClient(url, 4, patience=patience, **kwargs)
        try:
            return await sampler.sample(model, [1, 2], 2, "d"), sampler.counters
        finally:
            await sampler.close()

    return asyncio.run(work())


@pytest.fixture
def adapter(tmp_path):
    """A PEFT adapter of one layer, whose product with scale 2 adds 8 to every weight."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.q.lora_{}.weight"
    save_file({name.format("A"): torch.ones(2, 4), name.format("B"): torch.full((4, 2), 2.0)},
              folder / "adapter_model.safetensors")  # fmt: skip
    return folder


@pytest.fixture
def base(tmp_path):
    """A model's folder with one weight, all ones."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"q.weight": torch.ones(4, 4, dtype=torch.bfloat16)}, folder / "model.safetensors")
    return folder


# an adapter on some servers only


def test_a_version_is_confirmed_by_every_server(tmp_path, adapter):
    with servers(tmp_path, 2) as both:
        sync = AdapterSync(both, max_staleness=1)
        sync.publish(0, adapter)
        assert all(sync.model_name(0) in s.models() for s in both)
        both[1].misbehave(ignore_load=1)  # it answers 200, and does nothing
        with pytest.raises(ProcessError, match=f"{both[1].url} does not hold the policy: .* does not list"):
            sync.publish(1, adapter)
        both[1].misbehave(refuse_load=1)
        with pytest.raises(RuntimeError, match="500"):
            sync.publish(2, adapter)


def test_a_server_that_does_not_take_a_version_is_replaced_by_one_that_holds_it(tmp_path, adapter):
    made = []
    with cluster(tmp_path, made=made) as c:
        c.sync = sync = AdapterSync(c, max_staleness=0)
        sync.publish(0, adapter)
        made[1].misbehave(refuse_load=1)
        sync.publish(1, adapter)
        assert c.serving() == [made[0]] and c._router.servers() == [made[0].url]
        wait_until(lambda: len(c.serving()) == 2)
        assert sync.model_name(1) in made[2].models() and made[2].models() == made[0].models()
    assert "lost" in events(tmp_path)


def test_a_server_that_forgets_its_adapters_gets_them_again(tmp_path, adapter):
    with cluster(tmp_path) as c:
        c.sync = sync = AdapterSync(c, max_staleness=0)
        sync.publish(0, adapter)
        c.serving()[0].misbehave(drop_adapters=True)
        wait_until(lambda: "holds it again" in events(tmp_path))
        assert "did not hold the policy" in events(tmp_path) and len(c._router.servers()) == 2
        assert all(sync.model_name(0) in s.models() for s in c.serving()) and len(c.serving()) == 2


# rollouts that silently use the base model


def test_an_answer_of_the_base_model_is_never_taken_for_the_policys(tmp_path, adapter):
    with servers(tmp_path) as (server,):
        sync = AdapterSync([server], max_staleness=0)
        sync.publish(0, adapter)
        server.misbehave(answer_base=True)
        with pytest.raises(WrongModel, match="policy answered"):
            ask(server.url, sync.model_name(1), patience=0.5)
        server.misbehave(answer_base=False)
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            ask(server.url, sync.model_name(1), patience=0.5)
        outputs, counters = ask(server.url, sync.model_name(0))
        assert len(outputs) == 2 and counters["wrong_model"] == 0


def test_requests_wait_until_the_version_that_they_name_is_there(tmp_path, adapter):
    with servers(tmp_path) as (server,), ThreadPoolExecutor(1) as pool:
        sync = AdapterSync([server], max_staleness=0)
        server.misbehave(answer_base=True)
        waiting = pool.submit(ask, server.url, sync.model_name(0))
        wait_until(lambda: server.seen()["models"].get("policy"))
        sync.publish(0, adapter)
        outputs, counters = waiting.result(30)
        assert counters["wrong_model"] >= 1 and server.seen()["models"][sync.model_name(0)] == 1 and outputs


# a server added or restarted bare


def test_a_server_that_joins_serves_nothing_before_it_holds_all_that_requests_may_name(tmp_path, adapter):
    made = []
    with cluster(tmp_path, made=made) as c:
        c.sync = sync = AdapterSync(c, max_staleness=1)
        for version in range(3):
            sync.publish(version, adapter)
        os.kill(made[0].process.pid, signal.SIGKILL)
        wait_until(lambda: len(made) == 3 and made[2] in c.serving())
        calls = list(made[2].seen()["adapters"])
        assert calls == [sync.model_name(1), sync.model_name(2)]
        for _ in range(8):
            ask(c.url, sync.model_name(2), key=c.key, routed=True)
        assert not made[2].seen()["unknown"] and not made[1].seen()["unknown"]


def test_merged_weights_are_confirmed_and_a_bare_server_is_brought_up_to_date(tmp_path, adapter, base):
    made = []
    with cluster(tmp_path, made=made) as c:
        c.sync = sync = MergedSync(c, str(base), tmp_path / "merged")
        sync.publish(7, adapter)
        version = sync.label(7)
        assert [s.weight_version() for s in c.serving()] == [version] * 2
        assert made[0].seen()["weights"] == str(tmp_path / "merged")
        made[0].misbehave(forget_version=True)  # as if it had been restarted at its old address
        wait_until(lambda: made[0].weight_version() == version)
        os.kill(made[1].process.pid, signal.SIGKILL)
        wait_until(lambda: len(made) == 3 and len(c.serving()) == 2)
        ask(c.url, sync.model_name(7), key=c.key, routed=True)
        assert made[2].weight_version() == version and set(made[2].seen()["versions"]) <= {version}
    assert "did not hold the policy" in events(tmp_path)


def test_merging_adds_the_scaled_product_and_leaves_the_base_alone(tmp_path, adapter, base):
    sync = MergedSync([], str(base), tmp_path / "merged")
    for version in range(2):  # from the base each time, not from the version before
        sync.publish(version, adapter)
    assert load_file(tmp_path / "merged" / "model.safetensors")["q.weight"].unique().tolist() == [9.0]
    assert (tmp_path / "merged" / "config.json").exists() and sync.held == {1: adapter}


def test_merged_weights_go_to_memory_where_they_fit_and_are_removed_from_wherever_they_were_put(tmp_path, monkeypatch):
    """Weights of 3 GB: as float32 they take 6 GB."""
    shared, free, run = tmp_path / "shm", {"bytes": 7e9}, tmp_path / "run"
    for folder in (shared, tmp_path / "base"):
        folder.mkdir()
    with open(tmp_path / "base" / "model.safetensors", "wb") as f:
        f.truncate(3_000_000_000)  # a hole: it takes no room
    monkeypatch.setattr(policy_sync, "SHARED", shared)
    monkeypatch.setattr(policy_sync.shutil, "disk_usage", lambda path: SimpleNamespace(free=free["bytes"]))
    monkeypatch.chdir(tmp_path)
    left = scratch_folder(run, "base")
    assert left.parent == shared and scratch_folder(Path("run"), "base") == left != scratch_folder(Path("b"), "base")
    assert scratch_folder(run, "base", elsewhere=True) == run / "policy"
    left.mkdir()
    free["bytes"] = 5e9  # the weights that are there take room
    assert scratch_folder(run, "base") == run / "policy" and not left.exists()
    left.mkdir()
    clear_scratch(run)
    assert not left.exists()


def test_a_lost_resume_is_noticed_and_repeated(tmp_path):
    with servers(tmp_path) as (server,):
        server.misbehave(lose_resume=2)
        server.reload("/weights", "v1")
        assert not server.paused() and server.weight_version() == "v1"
        server.misbehave(lose_resume=10_000)
        with pytest.raises(Stuck, match="stays paused"):
            server.reload("/weights", "v2")


# an adapter unloaded while in use


def test_a_leased_version_stays_until_it_is_given_back(tmp_path, adapter):
    with servers(tmp_path, service=1.0) as (server,), ThreadPoolExecutor(1) as pool:
        sync = AdapterSync([server], max_staleness=0)
        sync.publish(0, adapter)
        waiting = pool.submit(ask, server.url, sync.model_name(0))
        wait_until(lambda: server.load().running)
        sync.publish(1, adapter, leased={0})
        assert set(sync.held) == {0, 1} and sync.model_name(0) in server.models()
        assert len(waiting.result(30)[0]) == 2
        sync.publish(2, adapter, leased=set())
        assert server.models() == ["policy", sync.model_name(2)] and server.seen()["unloaded_in_use"] == 0


def test_nothing_is_sampled_before_there_is_a_version():
    async def work():
        gate = Gate(version=-1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), gate.lease(at_least=-1):
                pass
        await gate.open(0)
        async with gate.lease(at_least=-1) as version:
            return version

    assert asyncio.run(work()) == 0


def test_the_gate_knows_which_versions_are_held():
    async def work():
        gate = Gate(version=3)
        async with gate.lease(at_least=2):
            await gate.open(4)
            async with gate.lease(at_least=4), gate.lease(at_least=0):
                assert set(gate.leased) == {3, 4}
            assert set(gate.leased) == {3}
        assert not gate.leased

    asyncio.run(work())


# ten kills of a server in one run


class Killer:
    """Stands for the trainer: takes steps, publishes versions, and kills a server in each of them."""

    def __init__(self, fleet, made, sync, worker, adapter):
        self.fleet, self.made, self.sync, self.worker, self.adapter = fleet, made, sync, worker, adapter
        self.kills = 0

    def whole(self):
        """Whether every server that was killed has one in its place that serves."""
        return len(self.made) == 2 + self.kills and len(self.fleet.serving()) == 2

    def publish(self, version):
        self.sync.publish(version, self.adapter, self.worker.leased_versions())
        self.worker.update_model_version(version)

    def kill(self):
        wait_until(lambda: any(s.load().running for s in self.fleet.serving()))
        busiest = max(self.fleet.serving(), key=lambda s: s.load().running)
        os.kill(busiest.process.pid, signal.SIGKILL)
        self.kills += 1

    def run(self, steps):
        self.worker.start()
        batches = []
        for step in range(steps):
            wait_until(self.whole)
            self.publish(step)  # lets a step begin that had to wait for it: there is somebody to kill
            self.kill()
            batches.append(self.worker.next_step())
        return batches


def test_a_run_survives_ten_kills_with_all_its_groups(tmp_path, adapter):
    steps, turns = 10, len(DIALOGUE.turns)
    cases = [Case(DIALOGUE.model_copy(update={"id": f"d{n}"}), (BOOK,), CATALOG) for n in range(3)]
    visits = DialogueSampler(cases, 0, seed=0)
    script = Script(service=0.2, seqs=16, texts=(RIGHT, SILENCE))
    made = []
    with cluster(tmp_path, seqs=16, made=made, script=script) as c:
        c.sync = sync = AdapterSync(c, max_staleness=1)
        worker = RolloutWorker(
            visits, lambda visit: DialogueTokens([3] * turns, list(range(1, turns + 1)), [4]),
            CompletionClient(c.url, 4, key=c.key, routed=True, patience=60), reward("rac"), sync.model_name,
            k=4, visits_per_step=2, max_steps=steps + 1, max_staleness=1,
        )  # fmt: skip
        killer = Killer(c, made, sync, worker, adapter)
        try:
            batches = killer.run(steps)
        finally:
            worker.stop()
        wait_until(killer.whole)
        alive = [s.seen() for s in c.serving()]
    assert killer.kills == 10 and len(made) == 12 and events(tmp_path).count("removed") == 10
    assert [b.step for b in batches] == list(range(steps)) and all(b.step - b.version <= 1 for b in batches)
    for batch in batches:  # every group once, whole, in order
        numbers = [2 * batch.step, 2 * batch.step + 1]
        expected = [(number, turn) for number in numbers for turn in range(1, turns + 1)]
        assert [(g.visit.number, g.turn) for g in batch.groups][: 2 * turns] == expected
        assert all(len(g.outputs) == len(g.scores) == 4 for g in batch.groups)
    # Nobody was asked for what it did not hold, and no open request lost its adapter.
    assert all(not s["unknown"] and s["unloaded_in_use"] == 0 for s in alive)
