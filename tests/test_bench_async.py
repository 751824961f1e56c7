"""`proactor bench async|sync-baseline|learning`: both sides do the same work from the same start, and what is kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import proactor_lib
import psutil
import pytest
import torch
from proactor_lib import processes
from proactor_lib.artf.serving import placement
from proactor_lib.artf.serving.server import Server
from proactor_lib.artf.training import train
from proactor_lib.bench import asynchronous, isolated, learning, sides
from proactor_lib.errors import UserError
from proactor_lib.params import Params, load_params
from proactor_lib.run import Run
from safetensors.torch import load_file

from support.fake_vllm import Completions
from support.waiting import wait_until


@pytest.fixture
def pins(monkeypatch):
    """What training pinned its process to; the tests' own process stays as it is."""
    made = []
    monkeypatch.setattr(train, "pin", made.append)
    return made


def test_trls_side_is_measured_once_and_kept(cli, tmp_path, monkeypatch):
    """In a process of its own, but for the warm start."""
    apart = isolated.call

    def call(module, side, *more, log):
        return sides.main(side, *more) if side == "start" else apart(module, side, *more, log=log)

    monkeypatch.setattr(isolated, "call", call)
    ask = ("bench", "async", "--sides", "trl", "--shape", "tiny", "--steps", 1, "--out", tmp_path, "--json")
    measured = json.loads(cli(*ask).stdout)["homeloan"]
    side = measured["sides"]["trl"]
    assert measured["steps"] == side["steps"] == 1 and measured["seconds_trl"] > 0
    assert side["prompts"] == 2 and side["outputs"] == 4 and 4 <= side["output_tokens"] <= 4 * 6
    kept = (tmp_path / "homeloan" / "trl.json").read_bytes()
    assert json.loads(cli(*ask).stdout)["homeloan"] == measured  # a second call measures nothing
    assert (tmp_path / "homeloan" / "trl.json").read_bytes() == kept

    lie = json.loads(kept) | {"same": "other weights"}
    (tmp_path / "homeloan" / "sync.json").write_text(json.dumps(lie))
    said = cli(*ask[:3], "trl,sync", *ask[4:])
    assert said.returncode == 2 and "the sides did not start from the same weights and data" in said.stderr


def test_asynchronous_and_synchronous_do_the_same_work(tmp_path, pins, monkeypatch):
    """Against a server whose outputs depend on the prompt alone: also the same rewards, and nearly the same weights."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with Completions() as http:
        server = Server(model="", log_path=tmp_path / "server.log", port=http.port)

        def call(module, side, out, mode, log):
            if side == "start":
                return sides.main(side, out, mode)
            run = Run.open(load_params(Path(out) / "params.json"), out)
            return sides.run_side(side, run, sides.Spread(run.params), server)

        monkeypatch.setattr(isolated, "call", call)
        settings = {"policy_sync": "adapter", "seed": 1}
        found = asynchronous.benchmark(tmp_path, "homeloan", None, ("artf", "sync", "grouped"), "tiny", 2, settings)
    artf, sync, grouped = (found["sides"][side] for side in ("artf", "sync", "grouped"))
    assert found["seconds_sync"] == sync["seconds"] > 0 and found["sync_over_artf"] > 0
    assert artf["steps"] == sync["steps"] == grouped["steps"] == 2
    assert (artf["groups"], artf["outputs"], artf["groups_skipped"]) == (4, 8, 0)
    for what in ("groups", "outputs", "output_tokens", "reward_mean", "same"):
        assert artf[what] == sync[what] == grouped[what]
    assert sync["tokens_forwarded"] > grouped["tokens_forwarded"] > artf["tokens_forwarded"]

    # A synchronous loop's steps are sampled by their own policy, an asynchronous one's by that or the one before.
    versions = {side: [line["version"] for line in steps(tmp_path / side)] for side in ("artf", "sync")}
    assert versions["sync"] == [0, 1] and versions["artf"] == [0, 0]
    # ART-F's trainer has the server's core too, before each row again, while that has nothing to do.
    assert set(pins) <= {"0", "0,1", "0,1,0,1"} and "0" in pins and "0,1,0,1" in pins

    places = ("start/training/sft", "artf/training/adapter", "sync/training/adapter")
    start, ours, padded = (adapter(tmp_path / place) for place in places)
    # Adam's first steps go by the gradients' signs, and rounding decides the smallest ones' (LOG.md: 0.998).
    assert torch.cosine_similarity(ours - start, padded - start, dim=0) >= 0.95


def steps(out):
    return [json.loads(line) for line in (out / "training" / "metrics.jsonl").read_text().splitlines()]


def adapter(folder):
    weights = load_file(folder / "adapter_model.safetensors")
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


@pytest.mark.parametrize(
    "sides_, shape, said", [(("ours",), "tiny", "side 'ours'"), (("trl",), "vast", "shape 'vast'")]
)
def test_what_is_not_there_is_named(tmp_path, sides_, shape, said):
    with pytest.raises(UserError, match=f"{said}: there is none of that name; accepted: "):
        asynchronous.benchmark(tmp_path, "homeloan", None, sides_, shape, 1)


def test_the_cores_are_split_only_where_both_work_at_once(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6, 7})
    assert asynchronous._cores("artf") == {"trainer_cores": "0,1", "server_cores": "2,3"}
    assert asynchronous._cores("sync") == {"trainer_cores": "0,1,2,3", "server_cores": "0,1,2,3"}


def test_a_trainer_borrows_the_cores_of_idle_servers(monkeypatch):
    monkeypatch.setattr(placement, "CORES", [0, 1])
    params = Params(server_cores="1", trainer_cores="0", device="cpu")
    assert (train._cores(params, False), train._cores(params, True)) == ("0", "0,1")
    assert train._cores(params.model_copy(update={"server_cores": None}), True) == "0"


def test_a_child_that_fails_is_told_with_its_last_words(tmp_path):
    with pytest.raises(UserError, match="ended with status 2: proactor: shape 'huge': there is none"):
        isolated.call("proactor_lib", "bench", "packing", "--shape", "huge", log=tmp_path / "log.txt")


def test_a_child_of_another_checkout_is_of_that_checkout(tmp_path, monkeypatch):
    """Also where the bench was started inside this one: `python -m` looks into its folder before PYTHONPATH."""
    (tmp_path / "proactor_lib").mkdir()
    (tmp_path / "proactor_lib/__init__.py").touch()
    (tmp_path / "proactor_lib/said.py").write_text('print(\'{"checkout": "the other"}\')')
    monkeypatch.chdir(Path(proactor_lib.__file__).parents[1])
    assert isolated.call("proactor_lib.said", checkout=tmp_path) == {"checkout": "the other"}


def test_a_child_ends_with_the_bench_that_was_killed():
    sleeps = "isolated.call('timeit', '-n1', '-r1', 'import time; time.sleep(300)')"
    bench = subprocess.Popen([sys.executable, "-c", f"from proactor_lib.bench import isolated; {sleeps}"])

    def children():
        return [p for p in processes.family(bench.pid, itself=False) if "timeit" in p.cmdline()]

    wait_until(children, process=bench)
    found = children()
    bench.kill()
    bench.wait()
    assert psutil.wait_procs(found, timeout=100)[1] == []


def test_learning_is_compared_step_by_step():
    artf = np.array([[0.2, 0.4], [0.4, np.nan]])
    sync = np.array([[0.1, 0.5], [0.2, 0.1]])
    found = learning.compare(artf, sync)
    assert found["difference"] == pytest.approx(0.1)  # of the seeds: 0 and 0.2, so their standard error is 0.1
    assert found["interval"] == pytest.approx([0.1 - 1.2706, 0.1 + 1.2706], abs=1e-4)  # 1 degree of freedom
    assert found["largest"] == 0.15 and found["largest_of_10"] == pytest.approx((0.15 - 0.1) / 2, abs=1e-4)
    assert found["reward_artf"] == [0.3, 0.4] and found["reward_sync"] == [0.15, 0.3]
    assert learning.compare(artf[:1], sync[:1])["interval"] is None


def test_spread_keeps_the_order_and_parts_the_equal():
    import asyncio

    from proactor_lib.agent import Parsed
    from proactor_lib.rewards import Group
    from proactor_lib.schema import Case, Catalog, Dialogue, Turn

    dialogue = Dialogue(id="d", domain="x", turns=[Turn(speaker="user", text="hi")])
    group = Group(Case(dialogue, (), Catalog(domain="x", version="1", actions=())), 1, ("none", "?", "none"),
                  (Parsed((), False), Parsed((), True), Parsed((), False)))  # fmt: skip
    values = [s.value for s in asyncio.run(sides.Spread(Params()).score(group))]
    assert values == pytest.approx([0.99, 0.01 / 3, 0.99 + 0.02 / 3])


def test_a_folder_of_a_killed_side_is_begun_anew(tmp_path):
    start = asynchronous.Run.open(asynchronous.load_params(None, {"max_steps": 1}), tmp_path / "start")
    for part in ("data", "references"):
        (start.out / part).mkdir()
    (tmp_path / "sync" / "training").mkdir(parents=True)
    (tmp_path / "sync" / "training" / "metrics.jsonl").write_text("half")
    run = asynchronous.open_side("sync", start, tmp_path / "sync")
    assert not run.training.exists() and run.params.max_staleness == 0
    assert run.params.start_from == Path(start.training / "sft")
