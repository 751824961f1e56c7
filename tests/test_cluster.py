"""The cluster, with each fault of a server caused on purpose: a real router, scripted servers over real HTTP.

The policy's own faults are in test_policy.py, a real vLLM server's in test_cluster_vllm.py.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import httpx
import psutil
import pytest
from proactor_lib import allocator
from proactor_lib.artf.serving import placement
from proactor_lib.artf.serving.api_key import KeyEverywhere
from proactor_lib.artf.serving.autoscaler import ScalingPolicy
from proactor_lib.artf.serving.cluster import EVENTS, STATE, Cluster, Member, NoPolicy
from proactor_lib.artf.serving.launch import start_server
from proactor_lib.artf.serving.placement import Slot, core_slots
from proactor_lib.artf.serving.process import ServerDied
from proactor_lib.artf.serving.router import Router
from proactor_lib.bench.fake_server import FakeServer
from proactor_lib.bench.fake_vllm import Script
from proactor_lib.bench.traffic import Talk, drive
from proactor_lib.errors import UserError
from proactor_lib.params import Params

from support.clusters import cluster, events, kill_at_work, records
from support.waiting import wait_until


def talks(count, turns):
    return [Talk(f"d{n}", 0.0, turns) for n in range(count)]


def kill(server):
    os.kill(server.process.pid, signal.SIGKILL)


# a dialogue stays where it is, and dialogues are spread


def test_every_dialogue_is_on_one_server_and_the_load_is_split(tmp_path):
    with cluster(tmp_path) as c:
        done = drive([c.url], talks(20, 5), key=c.key, routed=True)
        held = [server.seen()["sessions"] for server in c.serving()]
    assert done.retries == 0 and len(done.latencies) == 100
    assert not held[0].keys() & held[1].keys() and len(held[0]) == len(held[1]) == 10


class GivenMeanwhile(NoPolicy):
    """Another takes its place in the middle of a look, between taking its lock and giving it back."""

    def __init__(self, cluster):
        super().__init__()
        self.cluster, self.then = cluster, NoPolicy()

    def is_loaded_on(self, server):
        self.cluster.sync = self.then
        return True


def test_a_policy_that_is_given_in_the_middle_of_a_look_takes_over_at_the_next(tmp_path):
    with cluster(tmp_path) as c:
        c.sync = first = GivenMeanwhile(c)
        wait_until(lambda: c.sync is first.then)
        kill(c.serving()[0])
        wait_until(lambda: "removed" in events(tmp_path) and len(c.serving()) == 2)
        assert c.failure is None


# a disk that is full


def idle(folder):
    """A cluster that was not started, whose router is nothing."""
    made = Cluster(lambda slot, key: None, [], ScalingPolicy(0, 0, 1, 0.2, 0.5), folder, period=0.0)
    made._router = SimpleNamespace(start=lambda: None, stop=lambda: None, url="")
    return made


def test_a_full_disk_costs_the_clusters_records_and_nothing_else(tmp_path, caplog):
    (tmp_path / EVENTS).symlink_to("/dev/full")
    (tmp_path / STATE).mkdir()  # in whose place no file can be put
    c = idle(tmp_path)
    c._tell("started")
    c._write()
    assert "No space left on device; what happened is only in the log" in caplog.text
    assert f"{STATE} is not" in caplog.text
    (tmp_path / STATE).rmdir()
    c._write()
    assert json.loads((tmp_path / STATE).read_text())["target"] == 0  # it is written when there is room again


def test_a_look_that_the_disk_stops_is_followed_by_the_next(tmp_path, caplog):
    c, looks = idle(tmp_path), []

    def tick(now):
        looks.append(now)
        if len(looks) == 1:
            raise OSError(28, "No space left on device", "server.log")
        c._stopping.set()

    c.tick = tick
    c._run()
    assert len(looks) == 2 and c.failure is None and "No space left on device: 'server.log'" in caplog.text


def test_a_gpu_that_breaks_leaves_the_servers_that_are_healthy(tmp_path):
    """One of two slots is given up hours after both were ready: the other goes on; before, all were ended."""
    a, b = Slot("a"), Slot("b")
    c = Cluster(lambda slot, key: None, [a, b], ScalingPolicy(2, 2, 1, 0.2, 0.5), tmp_path)
    broken = Member(a, SimpleNamespace(last_words=lambda: "no GPU", url="", name="a"))
    for _ in range(3):
        c._start_failed(broken)
    assert "slot a: no GPU" in str(c.failure)  # it was never ready
    c = Cluster(lambda slot, key: None, [a, b], ScalingPolicy(2, 2, 1, 0.2, 0.5), tmp_path)
    c._was_ready = True
    c.serving = lambda: [1]
    for _ in range(3):
        c._start_failed(broken)
    assert c.failure is None and not c._stopping.is_set() and c.wait_ready(0) is c
    for _ in range(3):
        c._start_failed(Member(b, broken.server))
    with pytest.raises(ServerDied, match="slot b: no GPU"):  # none is left
        c.wait_ready(0)


# a server that is killed, hangs, or never starts


def test_a_killed_server_is_replaced_on_another_port_and_its_dialogues_go_on(tmp_path):
    with cluster(tmp_path, script=Script(service=0.05)) as c:
        old = c.serving()[0]
        kill_at_work(old)
        done = drive([c.url], talks(8, 30), key=c.key, routed=True)
        wait_until(lambda: len(c.serving()) == 2)
        assert len(done.latencies) == 240 and old not in c.serving()
        assert old.port not in {s.port for s in c.serving()}
        assert sorted(c._router.servers()) == sorted(s.url for s in c.serving())
    # One that could not bind, for its port had been taken meanwhile, is removed too, before it serves.
    served = [e["url"] for e in records(tmp_path) if e["event"] == "serves"]
    assert [e["url"] for e in records(tmp_path) if e["event"] == "removed" and e["url"] in served] == [old.url]


def test_a_server_that_hangs_is_replaced(tmp_path):
    with cluster(tmp_path, hang_timeout=1.0) as c:
        old = c.serving()[0]
        old.misbehave(hang=True)
        wait_until(lambda: old not in c.serving() and len(c.serving()) == 2)
        assert not old.alive()


def test_a_slot_where_nothing_starts_is_given_up_and_the_cluster_goes_on(tmp_path):
    def make(slot, key):
        server = FakeServer(log_path=tmp_path / f"{slot.name}.log", key=key)
        if slot.name == "bad":
            server._command = lambda: [sys.executable, "-c", "raise SystemExit('Error: no such device')"]
        return server

    with Cluster(make, [Slot("bad"), Slot("good")], ScalingPolicy(1, 2, 64), tmp_path, period=0.05) as c:
        c.wait_ready(60)
        assert [m.slot.name for m in c.members] == ["good"] and "slot given up" in events(tmp_path)
    with (
        Cluster(make, [Slot("bad")], ScalingPolicy(1, 1, 64), tmp_path, period=0.05) as c,
        pytest.raises(ServerDied) as died,
    ):
        c.wait_ready(60)
    assert "no such device" in str(died.value)


def test_a_killed_router_is_started_anew_at_its_address(tmp_path):
    with cluster(tmp_path) as c:
        kill(c._router)
        done = drive([c.url], talks(2, 2), key=c.key, routed=True, patience=60)
        assert len(done.latencies) == 4
        wait_until(lambda: len(c._router.servers()) == 2)


# a stuck pause


def test_a_pause_that_was_never_ended_is_found_and_ended(tmp_path):
    with cluster(tmp_path) as c:
        stuck = c.serving()[0]
        stuck.misbehave(lose_resume=1)  # the first of the controller's attempts is lost too
        stuck.post("/pause")
        done = drive([c.url], talks(4, 2), key=c.key, routed=True)
        assert len(done.latencies) == 8 and done.retries == 0 and stuck in c.serving()
    assert "was paused" in events(tmp_path)


def test_a_server_that_stays_paused_is_replaced(tmp_path):
    with cluster(tmp_path) as c:
        stuck = c.serving()[0]
        stuck.misbehave(lose_resume=10_000)
        stuck.post("/pause")
        wait_until(lambda: stuck not in c.serving() and len(c.serving()) == 2)


# with the load


def test_servers_come_with_a_queue_and_go_when_it_is_over_and_no_request_is_lost(tmp_path):
    made = []
    with cluster(tmp_path, least=1, most=3, seqs=2, made=made, script=Script(service=0.1, seqs=2)) as c:
        done = drive([c.url], [Talk(f"d{n}", n * 0.05, 4) for n in range(40)], key=c.key, routed=True)
        assert len(done.latencies) == 160 and done.retries == 0
        wait_until(lambda: len(c.members) == 1)
    # A server may go and come back between two bursts, where the machine stood still for longer than `down_after`.
    found = events(tmp_path)
    assert max(record["target"] for record in records(tmp_path)) == 3 <= len(made)
    assert found.count("drains") == found.count("stopped") == len(made) - 1


def test_a_server_that_can_sleep_does_so_and_is_woken(tmp_path):
    made = []
    load = [Talk(f"d{n}", n * 0.05, 4) for n in range(20)]
    with cluster(tmp_path, least=1, most=2, seqs=2, made=made, sleeps=True, script=Script(service=0.1, seqs=2)) as c:
        drive([c.url], load, key=c.key, routed=True)
        wait_until(lambda: [m.state for m in c.members] == ["serving", "asleep"] or c.members[0].state == "asleep")
        asleep = next(m.server for m in c.members if m.state == "asleep")
        assert asleep.get("/is_sleeping").json()["is_sleeping"] and asleep.url not in c._router.servers()
        drive([c.url], load, key=c.key, routed=True)
        assert len(made) == 2 and {"asleep", "back"} <= set(events(tmp_path))


def test_a_server_that_does_not_fall_asleep_is_replaced_and_holds_up_nothing(tmp_path):
    """Before, each look ended there: no server that was ready was let in any more."""

    def refuse():
        raise httpx.HTTPError("500")

    c = idle(tmp_path)
    c._router = SimpleNamespace(remove=lambda url: None)
    c.members = [Member(Slot("a"), SimpleNamespace(sleeps=True, sleep=refuse, url="", name="a"), since=-9.0)]
    c.members[0].state = "draining"
    c._end_drains(0.0)
    assert c.members[0].state == "lost" and events(tmp_path) == ["lost"]


# who may ask


def test_without_the_key_nothing_can_be_asked(tmp_path):
    with cluster(tmp_path, least=1, most=1) as c:
        (server,) = c.serving()
        body = {"model": "policy", "prompt": [1], "max_tokens": 1}
        for url in (f"{c.url}/v1/completions", f"{server.url}/v1/completions", f"{server.url}/collective_rpc"):
            assert httpx.post(url, json=body).status_code == 401
        assert httpx.post(f"{c.url}/v1/completions", json=body, headers=server.headers).status_code == 200
        assert c.key not in json.dumps(c.state()) and len(c.key) == 32


@pytest.mark.parametrize(
    ("path", "given", "passes"),
    [
        ("/pause", None, False),
        ("/pause", b"Bearer no", False),
        ("/pause", b"Bearer yes", True),
        ("/v1/models", None, False),
        ("/health", None, True),
        ("/metrics", None, True),
    ],
)
def test_the_guard_inside_vllm_covers_every_path_that_does_anything(monkeypatch, path, given, passes):
    monkeypatch.setenv("VLLM_API_KEY", "yes")
    reached, sent = [], []

    async def app(scope, receive, send):
        reached.append(scope["path"])

    async def send(message):
        sent.append(message.get("status"))

    headers = [(b"authorization", given)] if given else []
    asyncio.run(KeyEverywhere(app)({"type": "http", "path": path, "headers": headers}, None, send))
    assert (reached == [path], 401 in sent) == (passes, not passes)


def test_a_single_server_asks_for_a_random_key_that_no_command_line_shows(tmp_path):
    server = start_server(Params(model="tiny"), "weights", tmp_path / "server.log")
    try:
        process = psutil.Process(server.process.pid)
        assert process.environ()["VLLM_API_KEY"] == server.key and len(server.key) == 32
        assert process.environ()["GLIBC_TUNABLES"] == allocator.environment()["GLIBC_TUNABLES"]
        assert server.key not in " ".join(process.cmdline()) and "api_key.KeyEverywhere" in " ".join(process.cmdline())
    finally:
        server.stop()


# where servers go


def test_slots_share_the_cores(monkeypatch):
    monkeypatch.setattr(placement, "CORES", list(range(8)))
    assert [s.cores for s in core_slots(2, "0-3,6")] == ["0,1", "2,3,6"]
    assert [s.cores for s in core_slots(3, "1")] == ["1", "1", "1"]
    assert [s.cores for s in core_slots(2, None)] == [None, None]
    with pytest.raises(UserError, match="cores 'all' is not a list"):
        core_slots(2, "all")


def test_cores_are_counted_from_the_first_that_a_process_may_use(monkeypatch):
    """A job's share of a node begins anywhere: "0-1" of two jobs are not the same cores."""
    monkeypatch.setattr(placement, "CORES", [12, 13, 14])
    assert [s.cores for s in core_slots(2, "0-1")] == ["12", "13"] and placement.machine_cores("1-7") == "13,14"
    with pytest.raises(UserError, match="cores '3': this process may use 3 of the machine's, counted from 0"):
        core_slots(1, "3")


def test_two_routers_stand_side_by_side(tmp_path):
    with Router(log_path=tmp_path / "a.log") as a, Router(log_path=tmp_path / "b.log") as b:
        a.wait_ready(60)
        b.wait_ready(60)
        assert a.servers() == b.servers() == []


# the command line

UP = """
import sys
from proactor_lib.artf.serving import launch
from proactor_lib.bench.fake_server import FakeServer
from proactor_lib.cli import main

launch.make_server = lambda params, weights, log_path, lora, slot, key: FakeServer(log_path=log_path, key=key)
sys.argv = ["proactor", "cluster", "up", "--set", "model=tiny", "--set", "quantization=none", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("ending", ["down", "kill"])
def test_up_status_down(tmp_path, cli, ending):
    command = [sys.executable, "-c", UP, "--set", "servers=2", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = process.stdout.readline()
    assert said.startswith("http://127.0.0.1:") and "/v1 serves policy" in said, process.stderr.read()
    shown = json.loads(cli("cluster", "status", "--out", tmp_path, "--json").stdout)
    assert shown["pid"] == process.pid and [s["state"] for s in shown["servers"]] == ["serving", "serving"]
    assert "slot" not in said and cli("cluster", "status", "--out", tmp_path).stdout.count("serving") == 2
    access = tmp_path / "access.json"
    assert access.stat().st_mode & 0o077 == 0
    headers = {"Authorization": f"Bearer {json.loads(access.read_text())['key']}"}
    assert httpx.get(shown["url"] + "/models", headers=headers).json()["data"][0]["id"] == "policy"
    if ending == "down":
        again = cli("cluster", "up", "--out", tmp_path)
        assert again.returncode == 2 and "a cluster runs there already" in again.stderr
        cli("cluster", "down", "--out", tmp_path)
    else:
        process.kill()
    process.wait(30)
    wait_until(lambda: not [p for p in psutil.process_iter(["cmdline"]) if _of(p, shown)])
    assert cli("cluster", "status", "--out", tmp_path).stdout == "no cluster runs there\n"


def _of(process, shown) -> bool:
    ports = [shown["url"].split(":")[2].split("/")[0], *(s["url"].rsplit(":", 1)[1] for s in shown["servers"])]
    line = process.info["cmdline"] or []
    return "--port" in line and line[line.index("--port") + 1] in ports
