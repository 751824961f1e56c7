"""Sweeps on real Ray: failures, kill -9, a lost node, an object store. Most cells write their files without a kernel.

Three tests keep real kernels.
"""

import json
import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest
from proactor_lib import processes, ray_session, report
from proactor_lib.artf.serving import cluster as artf
from proactor_lib.artf.serving.autoscaler import ScalingPolicy
from proactor_lib.artf.serving.on_ray import on_ray
from proactor_lib.artf.serving.placement import Slot
from proactor_lib.artf.serving.process import free_port
from proactor_lib.bench.fake_server import FakeServer
from proactor_lib.bench.traffic import Talk, drive
from proactor_lib.errors import UserError
from proactor_lib.sweep import runner
from proactor_lib.sweep.cells import make_cells
from proactor_lib.sweep.definition import read_sweep
from proactor_lib.sweep.live import Lines, View, Widget
from proactor_lib.sweep_folder.store import Store
from proactor_lib.sweep_folder.table import collect

from support import sweeps
from support.notebooks import write_notebook
from support.sweeps import SCORE, SCORES, draws, score_cell, score_some_in_kernels, write_sweep
from support.waiting import wait_until


@pytest.fixture(scope="module")
def ray_token():
    """A token of this test run's own; what Ray starts and joins finds it in the environment."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}


def _ports():
    """Ports of the node's helper, told beforehand: Ray gives up on a node whose helper takes 15 s to tell its own."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    return {name: free_port() for name in names}


@pytest.fixture(scope="module")
def cluster(ray_token):
    """A Ray cluster of two nodes on this machine, a core each; the second may be killed."""
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    cloudpickle.register_pickle_by_value(sweeps)  # the workers do not find the tests' folder
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **_ports()})
    started.second = started.add_node(num_cpus=1, **_ports())
    yield started
    started.shutdown()


@pytest.fixture
def folder(tmp_path):
    """A folder with a notebook that scores, or behaves as badly as its `mode` says."""
    write_notebook(tmp_path / "n.ipynb", SCORE, parameters=SCORES)
    return tmp_path


def planned(folder, **values):
    path = write_sweep(folder, headline="score", **values)
    sweep = read_sweep(path)
    return sweep, make_cells(sweep, path)


def sweep_run(folder, out):
    """`proactor sweep run` on the folder's sweep file, as a process with a Ray of its own and real kernels."""
    return subprocess.Popen(
        [sys.executable, "-m", "proactor_lib", "sweep", "run", str(folder / "sweep.yaml"), "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
    )  # fmt: skip


def leftovers(out):
    """Files that an interrupted write would leave."""
    return [p for p in out.rglob("*") if p.name.endswith((".part", ".running.ipynb")) or p.name == "running.json"]


def test_what_fails_says_why_and_harms_no_other_cell(folder, cluster):
    """Three cells run in real kernels: one that scores, one whose kernel is killed, one that cannot write."""
    modes = ["good", "raises", "mistaken", "dies", "slow", "full", "unwritable"]
    sweep, cells = planned(folder, axes={"grid": {"mode": modes}, "seeds": 1}, retries=0)
    out = folder / "out"
    on_tick = Lines(Store(out), "score", sweep.metrics)
    progress = runner.run(sweep, cells, out, cluster.address, on_tick=on_tick, execute=score_some_in_kernels)
    found = collect(out).set_index("mode")
    assert found.state.to_dict() == {
        "good": "done", "raises": "failed", "mistaken": "refused", "dies": "failed", "slow": "timeout",
        "full": "failed", "unwritable": "failed",
    }  # fmt: skip
    for mode, sentence in {
        "raises": "raised ZeroDivisionError: division by zero",
        "mistaken": "catalog.json: no action fly",
        "dies": "the kernel died",
        "slow": "ran out of its 8 s",
        "full": "No space left on device",
        "unwritable": "File too large",
    }.items():
        assert sentence in found.problem[mode] and "\n" not in found.problem[mode]
    assert found.score.notna().to_dict() == dict.fromkeys(modes, False) | {"good": True}
    assert len(progress.failed) == 6
    for mode in ("raises", "dies", "slow"):
        kept = (out / "cells" / found.cell[mode] / "notebook.ipynb").read_text()
        assert '"output_type": "error"' in kept
    assert not (out / "cells" / found.cell["unwritable"] / "notebook.ipynb").exists()  # cut short: not kept
    assert leftovers(out) == []


def test_only_what_is_missing_or_failed_runs_again(folder, cluster):
    """And a cell that fails is tried again at once, as often as the sweep says."""
    points = [{"mode": "flaky"}, {"mode": "good"}]
    sweep, cells = planned(folder, axes={"points": points}, retries=1)
    runner.run(sweep, cells, folder / "out", cluster.address, execute=score_cell)
    first = collect(folder / "out")
    assert list(first.state) == ["done"] * 2 and list(first.attempts) == [2, 1]
    store, broken = Store(folder / "out"), first.cell[1]
    store.write(store.cell(broken), store.read(store.cell(broken)) | {"state": "failed"})
    sweep, cells = planned(folder, axes={"points": [*points, {"seed": 3}]})
    runner.run(sweep, cells, folder / "out", cluster.address, execute=score_cell)
    again = collect(folder / "out")
    assert list(again.state) == ["done"] * 3
    assert again.ended[0] == first.ended[0] and again.ended[1] > first.ended[1]
    runner.run(sweep, cells, folder / "out", "127.0.0.1:1")  # nothing to do: no cluster is asked for


def test_a_cell_that_takes_its_worker_down_is_in_the_table(folder, cluster, capfd):
    """And one that its worker raises is not taken for lost: it is tried as often as the sweep says."""
    sweep, cells = planned(folder, axes={"grid": {"mode": ["lost", "breaks"]}, "seeds": 1}, retries=1)
    out = folder / "out"
    runner.run(
        sweep, cells, out, cluster.address, on_tick=Lines(Store(out), "score", sweep.metrics), execute=score_cell
    )
    found = collect(out)
    assert list(found.state) == ["failed"] * 2 and list(found.attempts) == [runner.LOST_LIMIT, 2]
    assert found.problem[0].startswith("its worker was lost 5 times: ")
    assert found.problem[1] == "its worker raised RuntimeError: no such thing"
    said = capfd.readouterr().err
    assert all(f"{c} mode={m}: failed its worker" in said for c, m in zip(found.cell, found["mode"], strict=True))
    assert leftovers(out) == []


class Recorded(View):
    """Keeps all rows that were shown, and lets the cells end once both were seen at work."""

    every = 0.1

    def __init__(self, *args, release):
        super().__init__(*args)
        self.seen, self.release = [], release

    def show(self, progress, rows):
        """Keep them."""
        self.seen.append(rows)
        if [r.stage for r in rows if r.state == "runs"] == ["draws 1/2"] * 2:
            self.release.touch()


def test_the_live_table_follows_the_cells(folder, cluster):
    sweep, cells = planned(folder, axes={"grid": {"seed": [1, 2]}}, set={"hold": str(folder / "go")})
    view = Recorded(Store(folder / "out"), "score", sweep.metrics, release=folder / "go")
    progress = runner.run(sweep, cells, folder / "out", cluster.address, on_tick=view, execute=score_cell)
    assert [r.state for r in view.seen[0]] == ["waits"] * 2
    running = [r for rows in view.seen for r in rows if r.state == "runs"]
    assert any(r.stage == "draws 1/2" and r.left is not None for r in running)
    expected = [draws(seed)[0] for seed in (1, 2)]
    assert [r.headline for r in view.seen[-1]] == pytest.approx(expected)
    assert [r.point for r in view.seen[-1]] == ["seed=1", "seed=2"]
    widget = Widget(Store(folder / "out"), "score", sweep.metrics)
    widget(progress)
    assert "2 of 2 done" in widget.html.value and f"{expected[0]:.4g}" in widget.html.value


def test_an_object_store_holds_the_outputs(folder, cluster):
    """Any fsspec URL; here the local file system behind its protocol, which takes the same road."""
    sweep, cells = planned(folder, axes={"grid": {"mode": ["good", "raises"]}, "seeds": 1}, retries=0)
    url = f"file://{folder}/bucket"
    runner.run(sweep, cells, url, cluster.address, execute=score_cell)
    found = collect(url)
    assert list(found.state) == ["done", "failed"] and found.score[0] == draws(0)[0]
    kept = folder / "bucket" / "cells" / found.cell[1]
    assert "ZeroDivisionError" in (kept / "notebook.ipynb").read_text()
    assert report.build(url) == f"{url}/report.html"
    assert "ZeroDivisionError" in (folder / "bucket" / "report.html").read_text()
    assert (folder / "bucket" / "table.csv").exists() and leftovers(folder / "bucket") == []


def test_a_cell_that_no_node_can_hold_is_refused(folder, cluster):
    sweep, cells = planned(folder, gpus=1)
    with pytest.raises(UserError, match="each cell asks for 1 CPUs and 1 GPUs; nodes have 1 and 0"):
        runner.run(sweep, cells, folder / "out", cluster.address)


def test_a_folder_is_run_by_one_process_at_a_time(folder):
    sweep, cells = planned(folder)
    with (
        runner._alone_in(Store(folder / "out")),
        pytest.raises(UserError, match=f"being run by process {os.getpid()}: "),
    ):
        runner.run(sweep, cells, folder / "out")


def test_a_cluster_that_is_not_there_is_said(folder, ray_token, cli):
    planned(folder, axes={"seeds": 1})
    said = cli("sweep", "run", folder / "sweep.yaml", "--out", folder / "out", "--address", "127.0.0.1:1")
    assert said.returncode == 2 and "no Ray cluster could be joined at '127.0.0.1:1'" in said.stderr


def test_servers_go_to_the_nodes_as_actors_and_a_killed_one_is_replaced(cluster, tmp_path):
    """ART-F's servers by the same code as on one machine: only their place differs."""
    with ray_session.cluster(cluster.address):

        def make(slot, key):
            return on_ray(FakeServer(log_path=tmp_path / f"{slot.name}.log", key=key))

        slots = [Slot("ray-0"), Slot("ray-1")]
        with artf.Cluster(make, slots, ScalingPolicy(2, 2, 64), tmp_path / "cluster", period=0.2) as c:
            first = c.wait_ready(120).serving()
            raylets = [n.all_processes["raylet"][0].process.pid for n in (cluster.head_node, cluster.second)]
            assert sorted(len(_scripted(raylet)) for raylet in raylets) == [1, 1]
            assert len(drive([c.url], [Talk(f"d{n}", 0.0, 2) for n in range(4)], key=c.key, routed=True).latencies) == 8
            _scripted(raylets[0])[0].kill()
            wait_until(lambda: len(c.serving()) == 2 and c.serving() != first, 60)
        assert [len(_scripted(raylet)) for raylet in raylets] == [0, 0]


def _scripted(raylet):
    return [p for p in processes.family(raylet) if "proactor_lib.bench.fake_vllm" in _cmdline(p)]


def test_a_lost_node_costs_only_its_running_cells(folder, cluster):
    """The second node is killed while it runs a cell."""
    sweep, cells = planned(folder, axes={"grid": {"seed": [1, 2, 3]}}, set={"hold": str(folder / "go")})
    ask = (sweep, cells, folder / "out", cluster.address)
    job = threading.Thread(target=runner.run, args=ask, kwargs={"execute": score_cell}, daemon=True)
    job.start()
    raylet = cluster.second.all_processes["raylet"][0].process.pid

    def on_second():
        """Its worker that runs a cell, once both nodes run one."""
        running = {int(p.read_text() or 0) for p in folder.glob("out/cells/*/worker")}
        return len(running) == 2 and [p for p in processes.family(raylet) if p.pid in running]

    wait_until(on_second)
    tree = processes.family(raylet)
    cluster.remove_node(cluster.second, allow_graceful=False)
    (folder / "go").touch()
    job.join(200)
    assert not job.is_alive()
    found = collect(folder / "out")
    assert list(found.state) == ["done"] * 3 and list(found.attempts) == [1] * 3
    assert list(found.score) == [draws(seed)[0] for seed in (1, 2, 3)]
    wait_until(lambda: gone(tree), 60)  # a worker that Ray was just starting sees later that its raylet is dead
    assert leftovers(folder / "out") == []


def _cmdline(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def begun(folder, count):
    """Whether so many cells are at work or done, in real kernels."""
    return len(list((folder / "out").glob("cells/*/progress.jsonl"))) >= count


def gone(tree):
    return not [p for p in tree if processes.alive(p)]


def test_killed_while_cells_run_and_started_again_it_is_as_if_undisturbed(folder, cluster):
    """`kill -9` of a sweep with real kernels when one of three cells is done; then the rest: each cell once, nothing
    half-written, the draws that each seed gives."""
    sweep, cells = planned(folder, axes={"seeds": 3}, set={"hold": str(folder / "go")}, retries=0)
    job, records = sweep_run(folder, folder / "out"), folder / "out" / "cells"
    wait_until(lambda: begun(folder, 2) and len(list(records.glob("*/cell.json"))) == 1, process=job)
    tree = processes.family(job.pid)
    job.kill()
    job.communicate()
    wait_until(lambda: gone(tree), 60)
    (done,) = records.glob("*/cell.json")
    before = json.loads(done.read_text())["ended"]

    (folder / "go").touch()
    runner.run(sweep, cells, folder / "out", cluster.address, execute=score_cell)
    found = collect(folder / "out")
    assert list(found.state) == ["done"] * 3 and list(found.attempts) == [1] * 3
    assert list(zip(found.score, found.draws, strict=True)) == [draws(seed) for seed in range(3)]
    assert found.set_index("cell").ended[done.parent.name] == before  # it did not run twice
    assert leftovers(folder / "out") == []
    kept = {p.name for p in done.parent.iterdir()}
    assert {"cell.json", "notebook.ipynb", "params.yaml", "summary.json", "progress.jsonl"} <= kept
    assert all(kept - {"notebook.log"} <= {p.name for p in cell.iterdir()} for cell in records.iterdir())


def test_ctrl_c_leaves_nothing_running_and_says_how_to_go_on(folder, ray_token):
    planned(folder, axes={"grid": {"seed": [1, 2]}}, set={"hold": str(folder / "never")})
    job = sweep_run(folder, folder / "out")
    wait_until(lambda: begun(folder, 1), process=job)
    tree = processes.family(job.pid, itself=False)
    job.send_signal(signal.SIGINT)
    said = job.communicate(timeout=100)[1]
    assert job.returncode == 130 and "the same command goes on from what is kept" in said
    wait_until(lambda: gone(tree), 60)
