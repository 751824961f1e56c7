"""What processes that compute allocate with, seen in real ones: large pages, jemalloc where they train on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from proactor_lib import allocator
from proactor_lib.artf.training import ranks
from proactor_lib.artf.training import train as training
from proactor_lib.cli.train import train

from support.runs import opened

GRANTED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
VARIABLES = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_CONF")


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's and jemalloc's settings are Linux's")


@pytest.fixture(autouse=True)
def _not_the_developers(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def said(script, environment):
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


FREES = """if True:
    import psutil
    from proactor_lib import allocator
    held = lambda: psutil.Process().memory_info().rss / 1e6
    pieces = [bytes(100_000) for _ in range(4000)]
    pieces = pieces[-1:]
    before = held()
    allocator.{give_back}
    print(before - held())
"""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_was_freed_is_given_back(device):
    """400 MB in pieces too small for maps of their own, freed but for the last, which holds glibc's heap up."""
    assert float(said(FREES.format(give_back="release()"), allocator.trainer_environment(device))) > 200


def test_a_trainer_gives_back_what_it_keeps_at_every_fifth_step():
    on_cpu = allocator.trainer_environment("cpu")
    assert float(said(FREES.format(give_back="after_step(20)"), on_cpu)) > 200
    assert float(said(FREES.format(give_back="after_step(21)"), on_cpu)) < 50


def large_pages_kb():
    """How much of 64 MB, held by a child that computes, lies in large pages."""
    script = """if True:
        from pathlib import Path
        held = bytearray(64_000_000)
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        print(next(line.split()[1] for line in lines if line.startswith("AnonHugePages")))
    """
    return int(said(script, allocator.environment()))


@pytest.mark.skipif(
    not GRANTED.exists() or "[madvise]" not in GRANTED.read_text(), reason="needs a Linux that gives them on request"
)
def test_what_computes_has_large_pages_unless_the_user_says_otherwise(monkeypatch):
    assert large_pages_kb() > 50_000
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    assert large_pages_kb() < 10_000


def chosen(device):
    return {name: value for name, value in allocator.trainer_environment(device).items() if name in VARIABLES}


def test_a_trainer_on_a_cpu_has_jemalloc_and_what_it_starts_has_not(monkeypatch):
    script = """if True:
        import os, subprocess, sys
        from pathlib import Path
        from proactor_lib import allocator
        allocator.hide_from_children()
        print("jemalloc" in Path("/proc/self/maps").read_text())
        show = "import os; print('jemalloc' in open('/proc/self/maps').read(), *os.environ)"
        print(subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout)
    """
    itself, child = said(script, allocator.trainer_environment("cpu")).strip().splitlines()
    started = child.split()
    assert (itself, started[0]) == ("True", "False")
    assert "GLIBC_TUNABLES" in started and not {"LD_PRELOAD", "MALLOC_CONF"} & set(started)
    assert set(chosen("cpu")) == set(VARIABLES)


def test_a_trainers_servers_and_workers_do_not_have_it(monkeypatch, tmp_path):
    """They are started with what the training process has in its environment when it begins."""
    found = {}
    monkeypatch.setattr(training, "train", lambda run, ask: found.update(os.environ))
    for name, value in allocator.trainer_environment("cpu").items():
        monkeypatch.setenv(name, value)
    assert set(VARIABLES) <= set(os.environ)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    train(opened(tmp_path).out)
    assert set(VARIABLES) & set(found) == {"GLIBC_TUNABLES"}


def test_ranks_have_it_whoever_starts_them(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(ranks, "launch", lambda count, command, folder, given: started.append(given))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    train(opened(tmp_path, trainers=2, device="cpu").out)
    assert started == [allocator.trainer_environment("cpu")] and set(VARIABLES) <= set(started[0])


def test_on_a_gpu_and_where_there_is_no_library_it_is_glibc(monkeypatch, tmp_path):
    assert list(chosen("cuda")) == ["GLIBC_TUNABLES"]
    monkeypatch.setattr(allocator, "_GPU_DRIVER", tmp_path)
    assert list(chosen("auto")) == ["GLIBC_TUNABLES"]
    monkeypatch.setattr(allocator, "_GPU_DRIVER", tmp_path / "none")
    assert "jemalloc" in chosen("auto")["LD_PRELOAD"]
    monkeypatch.setattr(os, "sysconf", lambda name: 65_536)  # a kernel with large pages alone
    assert list(chosen("auto")) == ["GLIBC_TUNABLES"]


@pytest.mark.parametrize("given", ["", "libmine.so"])
def test_what_the_user_preloads_stays(monkeypatch, given):
    monkeypatch.setenv("LD_PRELOAD", given)
    assert chosen("cpu") == {"GLIBC_TUNABLES": allocator.LARGE_PAGES, "LD_PRELOAD": given}
    allocator.hide_from_children()
    assert os.environ["LD_PRELOAD"] == given


def test_the_users_settings_of_jemalloc_stay(monkeypatch):
    monkeypatch.setenv("MALLOC_CONF", "narenas:4")
    assert chosen("cpu")["MALLOC_CONF"] == "narenas:4"
    for name, value in chosen("cpu").items():
        monkeypatch.setenv(name, value)
    allocator.hide_from_children()
    assert "LD_PRELOAD" not in os.environ and os.environ["MALLOC_CONF"] == "narenas:4"
