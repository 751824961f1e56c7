"""Sweeps on real Ray: failures, kill -9, a lost node, an object store, overhead."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from proactor_lib import processes, ray_session, report
from proactor_lib.artf.serving import cluster as artf
from proactor_lib.artf.serving.autoscaler import ScalingPolicy
from proactor_lib.artf.serving.on_ray import on_ray
from proactor_lib.artf.serving.placement import Slot
from proactor_lib.bench.fake_server import FakeServer
from proactor_lib.bench.traffic import Talk, drive
from proactor_lib.errors import UserError
from proactor_lib.sweep import runner
from proactor_lib.sweep.cells import make_cells
from proactor_lib.sweep.definition import read_sweep
from proactor_lib.sweep.live import Lines, View, Widget
from proactor_lib.sweep_folder.store import Store
from proactor_lib.sweep_folder.table import ABOUT, TIMES, collect

from support.notebooks import write_notebook
from support.sweeps import write_sweep
from support.waiting import wait_until

ROOT = Path(__file__).parents[1]
CELL = "params_file = None\nout = None\noverrides = {}\nseed = 0\nmode = 'good'\npause = 0.0"
SCORE = """import json, random, time
from pathlib import Path
from proactor_lib import progress
progress.report(out, 'draws', 1, 2)
time.sleep(pause)
dice = random.Random(seed)
Path(out, 'summary.json').write_text(json.dumps({'score': [dice.random(), 0, 1], 'draws': [dice.random(), 0, 1]}))"""
BAD = """import os, resource, signal, time
from proactor_lib.errors import UserError
if mode == 'raises': 1 / 0
if mode == 'mistaken': raise UserError('catalog.json: no action fly')
if mode == 'dies': os.kill(os.getpid(), signal.SIGKILL)
if mode == 'slow': time.sleep(300)
if mode == 'flaky' and not os.path.exists(f'{out}/again'):
    open(f'{out}/again', 'w').close()
    raise OSError('the network was away')
if mode == 'full': open('/dev/full', 'w').write('x' * 10_000_000)
if mode == 'unwritable': resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (3000, 3000))"""


CELLS = int(os.environ.get("SWEEP_TEST_CELLS", 6))  # of the sweep that is killed


@pytest.fixture(scope="module")
def ray_token():
    """A token of this test run's own; what Ray starts and joins finds it in the environment."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def cluster(ray_token):
    """A Ray cluster of two nodes on this machine, a core each; the second may be killed."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    started.second = started.add_node(num_cpus=1)
    yield started
    started.shutdown()


@pytest.fixture
def folder(tmp_path):
    """A folder with a notebook that scores, or behaves as badly as its `mode` says."""
    write_notebook(tmp_path / "n.ipynb", BAD, SCORE, parameters=CELL)
    return tmp_path


def planned(folder, **values):
    path = write_sweep(folder, headline="score", **values)
    sweep = read_sweep(path)
    return sweep, make_cells(sweep, path)


def sweep_run(folder, out, *more):
    """`proactor sweep run` on the folder's sweep file, as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "proactor_lib", "sweep", "run", str(folder / "sweep.yaml"), "--out", str(out), *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
    )  # fmt: skip


def test_what_fails_says_why_and_harms_no_other_cell(folder, cluster):
    modes = ["good", "raises", "mistaken", "dies", "slow", "full", "unwritable"]
    sweep, cells = planned(folder, axes={"grid": {"mode": modes}, "seeds": 1}, time_limit=8, retries=0)
    out = folder / "out"
    progress = runner.run(sweep, cells, out, cluster.address, on_tick=Lines(Store(out), "score", sweep.metrics))
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
    for mode in ("raises", "dies", "slow", "full"):
        kept = (out / "cells" / found.cell[mode] / "notebook.ipynb").read_text()
        assert '"output_type": "error"' in kept
    assert not (out / "cells" / found.cell["unwritable"] / "notebook.ipynb").exists()  # cut short: not kept
    assert leftovers(out) == []


def leftovers(out):
    """Files that an interrupted write would leave."""
    return [p for p in out.rglob("*") if p.name.endswith((".part", ".running.ipynb")) or p.name == "running.json"]


def test_only_what_is_missing_or_failed_runs_again(folder, cluster):
    """And a cell that fails is tried again at once, as often as the sweep says."""
    points = [{"mode": "flaky"}, {"mode": "good"}]
    sweep, cells = planned(folder, axes={"points": points}, retries=1)
    runner.run(sweep, cells, folder / "out", cluster.address)
    first = collect(folder / "out")
    assert list(first.state) == ["done"] * 2 and list(first.attempts) == [2, 1]
    store, broken = Store(folder / "out"), first.cell[1]
    store.write(store.cell(broken), store.read(store.cell(broken)) | {"state": "failed"})
    sweep, cells = planned(folder, axes={"points": [*points, {"seed": 3}]})
    runner.run(sweep, cells, folder / "out", cluster.address)
    again = collect(folder / "out")
    assert list(again.state) == ["done"] * 3
    assert again.ended[0] == first.ended[0] and again.ended[1] > first.ended[1]
    runner.run(sweep, cells, folder / "out", "127.0.0.1:1")  # nothing to do: no cluster is asked for


class Recorded(View):
    """Keeps all rows that were shown."""

    every = 0.3

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = []

    def show(self, progress, rows):
        """Keep them."""
        self.seen.append(rows)


def test_the_live_table_follows_the_cells(folder, cluster):
    sweep, cells = planned(folder, axes={"seeds": 2}, set={"pause": 2.0})
    view = Recorded(Store(folder / "out"), "score", sweep.metrics)
    progress = runner.run(sweep, cells, folder / "out", cluster.address, on_tick=view)
    assert [r.state for r in view.seen[0]] == ["waits"] * 2
    running = [r for rows in view.seen for r in rows if r.state == "runs"]
    assert any(r.stage == "draws 1/2" and r.left is not None for r in running)
    expected = [random.Random(seed).random() for seed in range(2)]
    assert [r.headline for r in view.seen[-1]] == pytest.approx(expected)
    assert [r.point for r in view.seen[-1]] == ["seed=0", "seed=1"]
    widget = Widget(Store(folder / "out"), "score", sweep.metrics)
    widget(progress)
    assert "2 of 2 done" in widget.html.value and f"{expected[0]:.4g}" in widget.html.value


def test_an_object_store_holds_the_outputs(folder, cluster, monkeypatch):
    """Any fsspec URL; here the local file system behind its protocol, which takes the same road."""
    sweep, cells = planned(folder, axes={"grid": {"mode": ["good", "raises"]}, "seeds": 1}, retries=0)
    url = f"file://{folder}/bucket"
    runner.run(sweep, cells, url, cluster.address)
    found = collect(url)
    assert list(found.state) == ["done", "failed"] and found.score[0] == random.Random(0).random()
    kept = folder / "bucket" / "cells" / found.cell[1]
    assert "ZeroDivisionError" in (kept / "notebook.ipynb").read_text()
    assert report.build(url) == f"{url}/report.html"
    assert "ZeroDivisionError" in (folder / "bucket" / "report.html").read_text()
    assert (folder / "bucket" / "table.csv").exists() and leftovers(folder / "bucket") == []


def test_a_cell_that_no_node_can_hold_is_refused(folder, cluster):
    sweep, cells = planned(folder, gpus=1)
    with pytest.raises(UserError, match="each cell asks for 1 GPUs, the cluster has 0"):
        runner.run(sweep, cells, folder / "out", cluster.address)


def test_a_folder_is_run_by_one_process_at_a_time(folder):
    sweep, cells = planned(folder)
    with runner._alone_in(Store(folder / "out")), pytest.raises(UserError, match="being run by another process"):
        runner.run(sweep, cells, folder / "out")


def test_a_cluster_that_is_not_there_is_said(folder, ray_token):
    job = sweep_run(planned_folder(folder, axes={"seeds": 1}), folder / "out", "--address", "127.0.0.1:1")
    said = job.communicate(timeout=120)[1]
    assert job.returncode == 2 and "no Ray cluster could be joined at '127.0.0.1:1'" in said


def planned_folder(folder, **values):
    planned(folder, **values)
    return folder


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
    planned(folder, axes={"seeds": 6}, set={"pause": 1.0})
    job = sweep_run(folder, folder / "out", "--address", cluster.address)
    raylet = cluster.second.all_processes["raylet"][0].process.pid
    _until(lambda: any("proactor_lib.notebook" in " ".join(_cmdline(p)) for p in processes.family(raylet)), job)
    tree = processes.family(raylet)
    cluster.remove_node(cluster.second, allow_graceful=False)
    out, said = job.communicate(timeout=300)
    assert job.returncode == 0, said
    found = collect(folder / "out")
    assert list(found.state) == ["done"] * 6 and list(found.attempts) == [1] * 6
    assert list(found.score) == [random.Random(seed).random() for seed in range(6)]
    assert [p for p in tree if processes._alive(p)] == []
    assert leftovers(folder / "out") == []


def _cmdline(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _until(holds, job, seconds=120):
    deadline = time.monotonic() + seconds
    while not holds():
        assert job.poll() is None, job.stderr.read()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_killed_at_a_random_moment_and_started_again_it_is_as_if_undisturbed(folder, ray_token):
    """`kill -9` of the sweep, then again: each cell done once, nothing half-written, the same table."""
    planned(folder, axes={"grid": {"pause": [0.0, 0.3]}, "seeds": CELLS // 2})
    job = sweep_run(folder, folder / "out")
    records = folder / "out" / "cells"
    moment = random.uniform(1, CELLS - 3)
    _until(lambda: len(list(records.glob("*/cell.json"))) >= moment, job)
    tree = processes.family(job.pid)
    job.kill()
    job.wait()
    _gone(tree)
    before = {p.parent.name: json.loads(p.read_text())["ended"] for p in records.glob("*/cell.json")}
    assert 1 <= len(before) < CELLS

    again = sweep_run(folder, folder / "out")
    assert (again.communicate(timeout=400), again.returncode)[1] == 0
    whole = sweep_run(folder, folder / "undisturbed")
    assert (whole.communicate(timeout=400), whole.returncode)[1] == 0

    found, expected = collect(folder / "out"), collect(folder / "undisturbed")
    assert list(found.state) == ["done"] * CELLS and list(found.attempts) == [1] * CELLS
    assert found.set_index("cell").ended.loc[list(before)].to_dict() == before  # none of them ran twice
    differing = [*TIMES, *(set(ABOUT) - {"attempts"})]
    pd.testing.assert_frame_equal(found.drop(columns=differing), expected.drop(columns=differing))
    assert leftovers(folder / "out") == []
    names = [{p.name for p in cell.iterdir()} for cell in records.iterdir()]
    assert all(n == {p.name for p in next((folder / "undisturbed" / "cells").iterdir()).iterdir()} for n in names)


def _gone(tree, seconds=20):
    deadline = time.monotonic() + seconds
    while left := [p for p in tree if processes._alive(p)]:
        assert time.monotonic() < deadline, f"left running: {[_cmdline(p)[:4] for p in left]}"
        time.sleep(0.1)


def test_ctrl_c_leaves_nothing_running_and_says_how_to_go_on(folder, ray_token):
    planned(folder, axes={"seeds": 4}, set={"pause": 60.0})
    job = sweep_run(folder, folder / "out")
    _until(lambda: list((folder / "out").glob("cells/*/progress.jsonl")), job)
    tree = processes.family(job.pid, itself=False)
    job.send_signal(signal.SIGINT)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 130 and "the same command goes on from here" in said
    _gone(tree)


def test_a_cell_costs_little_more_than_papermill_alone(tmp_path, cluster):
    """A notebook that does nothing: at most 4 s and 300 MB a cell above papermill's own."""
    write_notebook(tmp_path / "n.ipynb", "1", parameters=CELL)
    alone = [sys.executable, "-m", "papermill", "n.ipynb", "done.ipynb"]
    seconds, peaks = [], []
    for _ in range(2):
        start = time.monotonic()
        child = subprocess.Popen(alone, cwd=tmp_path, stderr=subprocess.DEVNULL)
        with processes.PeakMemory(child.pid, every=0.2) as memory:
            child.wait()
        seconds.append(time.monotonic() - start)
        peaks.append(memory.gb)
    sweep, cells = planned(tmp_path, axes={"seeds": 4})
    runner.run(sweep, cells[:1], tmp_path / "warm", cluster.address)
    start = time.monotonic()
    runner.run(sweep, cells, tmp_path / "out", cluster.address)
    found = collect(tmp_path / "out")
    nodes = 2 if cluster.second in cluster.worker_nodes else 1
    each = (time.monotonic() - start) * nodes / len(cells)
    memory = found.peak_memory_gb.max() + worker_gb(cluster)
    print(f"a cell: {each:.2f} s, {memory:.3f} GB; papermill alone: {min(seconds):.2f} s, {max(peaks):.3f} GB")
    assert each - min(seconds) < 4, (each, seconds)
    assert memory - max(peaks) < 0.3


def worker_gb(cluster):
    """The largest of Ray's worker processes, which stands beside a cell; 0.2 where none is left to measure."""
    raylet = cluster.head_node.all_processes["raylet"][0].process.pid
    workers = [p for p in processes.family(raylet, itself=False) if any("ray::" in c for c in _cmdline(p))]
    return max([processes.pss_bytes([p]) / 1e9 for p in workers], default=0.2)
