"""A real vLLM server in a cluster, behind the real router, beside a scripted one that is killed."""

import asyncio
import os
from dataclasses import dataclass, fields

import httpx
import pytest
import torch
from proactor_lib.artf.serving.autoscaler import ScalingPolicy
from proactor_lib.artf.serving.cluster import Cluster
from proactor_lib.artf.serving.completions import CompletionClient
from proactor_lib.artf.serving.placement import Slot
from proactor_lib.artf.serving.policy_sync import MergedSync
from proactor_lib.artf.serving.server import Server
from proactor_lib.bench.fake_server import FakeServer
from proactor_lib.bench.fake_vllm import Script
from proactor_lib.bench.router import answered
from proactor_lib.bench.traffic import Talk, drive
from safetensors.torch import load_file, save_file

from support.clusters import events, kill_at_work
from support.waiting import wait_until

PROMPT = list(range(100, 140))


@dataclass(kw_only=True)
class Lent(Server):
    """A server that belongs to somebody else."""

    def start(self):
        return self

    def stop(self, grace=5.0):
        pass


@pytest.fixture
def adapter(tmp_path, tiny_server):
    """A strong adapter of the tiny model's first query projection, as PEFT writes it."""
    folder, weight = tmp_path / "adapter", "model.layers.0.self_attn.q_proj.weight"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    out, into = load_file(os.path.join(tiny_server.model, "model.safetensors"))[weight].shape
    name = "base_model.model." + weight.replace("weight", "lora_{}.weight")
    torch.manual_seed(0)
    save_file({name.format("A"): torch.randn(1, into), name.format("B"): torch.randn(out, 1)},
              folder / "adapter_model.safetensors")  # fmt: skip
    return folder


@pytest.fixture
def cluster(tmp_path, tiny_server):
    """The real server and a scripted one; afterwards the real one holds its base again."""

    def make(slot: Slot, key: str) -> Server:
        if slot.name == "real":
            return Lent(**{f.name: getattr(tiny_server, f.name) for f in fields(Server)})
        return FakeServer(log_path=tmp_path / "scripted.log", script=Script(service=0.15))

    try:
        with Cluster(make, [Slot("real"), Slot("scripted")], ScalingPolicy(2, 2, 8), tmp_path, key="", period=0.2) as c:
            yield c.wait_ready(120)
    finally:
        tiny_server.reload(tiny_server.model)


def likeliest(server):
    """Log-probabilities of the likeliest next tokens."""

    async def work():
        sampler = CompletionClient(server.url, 1, temperature=0.0, top=5)
        (output,) = await sampler.sample("policy", PROMPT, 1, "x")
        await sampler.close()
        return output.top[0]

    return asyncio.run(work())


def test_real_servers_hold_the_version_and_take_the_dialogues_of_a_killed_one(cluster, tiny_server, adapter, tmp_path):
    base, sync = likeliest(tiny_server), MergedSync(cluster, tiny_server.model, tmp_path / "merged")
    cluster.sync = sync
    sync.publish(1, adapter)
    assert tiny_server.weight_version() == sync.label(1) and not tiny_server.paused()
    assert likeliest(tiny_server) != base  # it is another policy now

    before, scripted = answered(tiny_server), next(s for s in cluster.serving() if isinstance(s, FakeServer))
    kill_at_work(scripted)
    done = drive([cluster.url], [Talk(f"d{n}", 0.0, 12) for n in range(8)], routed=True)
    assert len(done.latencies) == 96 and answered(tiny_server) - before > 48  # its own four dialogues, and more
    wait_until(lambda: len(cluster.serving()) == 2)
    assert all(s.weight_version() == sync.label(1) for s in cluster.serving())

    httpx.post(f"{tiny_server.url}/pause", params={"mode": "keep"}).raise_for_status()
    wait_until(lambda: not tiny_server.paused())
    tiny_server.reload(tiny_server.model)  # behind the cluster's back: as bare as after a restart
    wait_until(lambda: tiny_server.weight_version() == sync.label(1))
    assert {"removed", "was paused", "did not hold the policy"} <= set(events(tmp_path))
