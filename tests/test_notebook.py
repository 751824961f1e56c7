"""One execution: real papermill, real kernels, notebooks of one behaviour each."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from proactor_lib import notebook, processes, progress
from proactor_lib.errors import UserError

from support.notebooks import write_notebook
from support.waiting import wait_until


def run(tmp_path, *cells, given=None, **options):
    """Outcome and the executed notebook's path."""
    source, target = write_notebook(tmp_path / "source.ipynb", *cells), tmp_path / "out" / "done.ipynb"
    return notebook.execute(source, target, given or {}, **options), target


def living(marker):
    """Processes whose command line holds the marker; one that is dead or not ours has none."""
    found = psutil.process_iter(["pid", "cmdline"])
    return [p.pid for p in found if marker in " ".join(p.info["cmdline"] or [])]


def test_parameters_are_names_and_literal_defaults(tmp_path):
    text = "import os\na: float = 1e-4\nb = c = 'x'\nd = (1, 2)\ne = os.sep\nf: int\nfor g in d: pass\n"
    path = write_notebook(tmp_path / "n.ipynb", parameters=text)
    assert notebook.parameters(path) == {"a": 1e-4, "b": "x", "c": "x", "d": (1, 2), "e": "os.sep"}


def test_digest_changes_with_code_not_with_outputs(tmp_path):
    path = write_notebook(tmp_path / "n.ipynb", "1 + 1")
    before = notebook.digest(path)
    node = nbformat.read(path, 4)
    node.cells[1].outputs = [nbformat.v4.new_output("stream", text="2")]
    nbformat.write(node, path)
    assert notebook.digest(path) == before
    assert notebook.digest(write_notebook(path, "1 + 2")) != before


@pytest.mark.parametrize("text", ["not json", "{}", '{"cells": [1]}'])
def test_what_is_no_notebook_is_refused(tmp_path, text):
    (tmp_path / "n.ipynb").write_text(text)
    with pytest.raises(UserError, match="n.ipynb is not a notebook"):
        notebook.parameters(tmp_path / "n.ipynb")


def test_a_missing_notebook_and_an_unknown_parameter_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="cannot read .*none.ipynb"):
        notebook.execute(tmp_path / "none.ipynb", tmp_path / "out" / "done.ipynb", {})
    with pytest.raises(UserError, match="has no parameter 'y' .* accepted: x, out"):
        run(tmp_path, "1", given={"y": 2})
    assert not (tmp_path / "out").exists()


def test_a_notebook_runs_with_its_parameters(tmp_path):
    outcome, target = run(
        tmp_path, "print(x + 1)", "bytearray(200_000_000); import time; time.sleep(2)", given={"x": 41}
    )
    assert (outcome.state, outcome.problem) == ("done", None)
    assert "42" in target.read_text()
    assert outcome.seconds > 2
    assert 0.05 < outcome.peak_memory_gb < 1


def test_memory_is_sampled_more_rarely_where_sampling_is_dear(monkeypatch):
    waits, clock = [], iter([0.0, 0.01, 1.0, 1.1])
    memory = processes.PeakMemory(every=2.0, share=0.02)
    memory._closed = SimpleNamespace(wait=lambda seconds: waits.append(seconds) or len(waits) == 2)
    monkeypatch.setattr(processes, "time", SimpleNamespace(thread_time=lambda: next(clock)))
    memory._sample()
    assert waits == [2.0, pytest.approx(5.0)] and memory.gb > 0


def test_a_failed_notebook_keeps_its_error_in_place(tmp_path):
    outcome, target = run(tmp_path, "print('before')", "1 / 0", "print('after')")
    assert outcome.state == "failed"
    assert outcome.problem == f"cell 5 of {target} raised ZeroDivisionError: division by zero"
    node = nbformat.read(target, 4)
    assert node.cells[4].source == "1 / 0" and node.cells[4].outputs[0].ename == "ZeroDivisionError"
    assert [p.name for p in target.parent.iterdir() if p.name.startswith(".")] == []


def test_a_users_mistake_keeps_its_sentence(tmp_path):
    outcome, _ = run(tmp_path, "from proactor_lib.errors import UserError\nraise UserError('line 3: no such action')")
    assert (outcome.state, outcome.problem) == ("refused", "line 3: no such action")


def test_a_kernel_that_dies_is_said_and_marked(tmp_path):
    outcome, target = run(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert outcome.state == "failed"
    assert "the kernel died" in outcome.problem
    assert "DeadKernelError" in target.read_text()


def test_a_time_limit_ends_everything_that_the_notebook_started(tmp_path, monkeypatch):
    """A limit of 1,000 s; 2,000 s go by on the caller's clock once the last cell runs."""
    marker, begun = f"sleep {600 + os.getpid() / 1e7}", tmp_path / "begun"
    orphan = f"import subprocess\nsubprocess.run('setsid {marker} & setsid nohup {marker} &', shell=True)"
    sleep = f"open({str(begun)!r}, 'w').close()\nimport time\ntime.sleep(600)"
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 2000 * begun.exists())
    monkeypatch.setattr(notebook, "time", clock)
    outcome, target = run(tmp_path, orphan, sleep, timeout=1000)
    assert (outcome.state, outcome.problem) == (
        "timeout",
        f"cell 3 of {target} raised TimeoutError: ran out of its 1000 s",
    )
    assert living(marker) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_caller_is_stopped(tmp_path, number):
    """Ctrl-C, and kill -9 of the caller: the kernel and what it started end too."""
    marker = f"sleep {700 + os.getpid() / 1e7}"
    source = write_notebook(tmp_path / "n.ipynb", f"import subprocess\nsubprocess.run('{marker}', shell=True)")
    code = "import sys; from pathlib import Path; from proactor_lib.notebook import execute; "
    code += f"execute(Path({str(source)!r}), Path({str(tmp_path / 'out' / 'n.ipynb')!r}), {{}})"
    caller = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_until(lambda: living(marker))
    tree = processes.family(caller.pid, itself=False)
    caller.send_signal(number)
    assert caller.wait(100) != 0
    wait_until(lambda: not any(map(processes.alive, tree)))
    assert living(marker) == []


def test_pss_counts_shared_pages_once():
    """A child that shares its parent's 200 MB adds little to the sum of the two."""
    block = bytearray(os.urandom(1) * 200_000_000)
    pid = os.fork()
    if pid == 0:
        time.sleep(300)
        os._exit(0)
    try:
        both = [psutil.Process(), psutil.Process(pid)]
        rss, pss = sum(p.memory_info().rss for p in both), processes.pss_bytes(both)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert len(block) == 200_000_000
    assert rss - pss > 190_000_000


def test_progress_is_tailed_line_by_line(tmp_path):
    progress.report(tmp_path, "old", 1, 1)
    tail = progress.Tail(tmp_path)
    progress.report(tmp_path, "training", 3, 10, "reward 0.5")
    with open(tmp_path / progress.FILE, "a") as handle:
        handle.write('{"time": 1.0, "stage": "half')
        handle.flush()
        assert [(e.stage, e.done, e.total, e.text) for e in tail.new()] == [("training", 3, 10, "reward 0.5")]
        handle.write(' a line", "done": 1, "total": 2}\n')
    assert [e.stage for e in tail.new()] == ["half a line"]
    assert tail.new() == []
    assert json.loads((tmp_path / progress.FILE).read_text().splitlines()[1])["total"] == 10


@pytest.mark.parametrize("number", [signal.SIGKILL, None])
def test_a_guard_ends_daemons_too(number):
    """A daemon that left the family is ended, when the block ends and when its process is killed."""
    marker = f"sleep {800 + os.getpid() / 1e7}"
    code = "import subprocess, sys; from proactor_lib.processes import guarded\nwith guarded():\n"
    code += f"    subprocess.run('setsid {marker} &', shell=True)\n    sys.stdin.read()"
    caller = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    wait_until(lambda: living(marker))
    if number:
        caller.send_signal(number)
    caller.stdin.close()
    caller.wait(100)
    wait_until(lambda: not living(marker))


def test_a_link_leads_from_where_the_notebook_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "my runs" / "report.html"
    assert f'href="my%20runs/report.html">{report}<' in notebook.link(report)
    monkeypatch.setenv(notebook.EXECUTED, str(tmp_path / "my runs" / "notebooks" / "04.ipynb"))
    assert 'href="../report.html"' in notebook.link(report)

    def other_drive(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(notebook.os.path, "relpath", other_drive)
    assert f'href="{tmp_path.as_uri()}/my%20runs/report.html"' in notebook.link(report)
