"""Fixtures that several tests share, how tests are dealt to processes, and how long the suite took."""

import atexit
import gc
import io
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest

import support  # noqa: F401 (first: it keeps each test process to one thread)

# Files whose tests run in one process, so that what they share is started once; any other file is a group of its own.
GROUPS = {
    "training": ("test_resume", "test_training_faults", "test_ranks", "test_packing", "test_bench_packing",
                 "test_packed_losses", "test_trainer_step", "test_trainer_base", "test_bench_async", "test_gpu_check",
                 "test_export"),
    "vllm": ("test_cluster_vllm", "test_oracle_vllm", "test_evaluate", "test_judges"),
    "browser": ("test_watch_browser", "test_service_page", "test_annotation_notebook", "test_report",
                "test_sweep_report"),
}  # fmt: skip
GROUP_OF_FILE = {file: group for group, files in GROUPS.items() for file in files}
GROUP_OF_FIXTURE = {"tiny_server": "vllm", "browser": "browser", "jupyterlab": "browser"}
# What costs most begins first.
FIRST = ["test_whole_run", "training", "vllm", "test_readme", "test_sweep_run", "browser"]
CHROMIUM_FLAGS = (
    "headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1400,1600", "disable-gpu", "disable-quic",
    "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
)  # fmt: skip


def pytest_configure(config):
    config.began = time.monotonic()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background: what tests start would ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config):
    """One process more than cores: about a third of the time is waiting for servers and kernels to start."""
    return len(os.sched_getaffinity(0)) + 1


def group_of(file: str) -> str:
    """The group of the test file with that path or node id."""
    stem = file.partition("::")[0].rpartition("/")[2].removesuffix(".py")
    return GROUP_OF_FILE.get(stem, stem)


def pytest_xdist_make_scheduler(config, log):
    """Deals whole groups. (xdist's `loadgroup` writes them into the ids of tests, which pytest 9.2 keeps elsewhere.)"""
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = group_of
    return scheduler


def pytest_collection_modifyitems(items):
    """What costs most first. UsageError for a test that would start a server which another process has started, and
    where collecting has loaded TRL or Dynamo, which takes up to eight processor-seconds in each test process."""
    if loaded := {"trl", "torch._dynamo"} & sys.modules.keys():
        raise pytest.UsageError(f"a test file imports {min(loaded)} as it is collected: take support.late.Late")
    for item in items:
        for fixture in GROUP_OF_FIXTURE.keys() & set(item.fixturenames):
            if group_of(item.nodeid) != (group := GROUP_OF_FIXTURE[fixture]):
                raise pytest.UsageError(
                    f"{item.nodeid} uses {fixture}: add its file to GROUPS[{group!r}] in conftest.py"
                )
    items.sort(key=lambda item: FIRST.index(g) if (g := group_of(item.nodeid)) in FIRST else len(FIRST))


def pytest_collection_finish(session):
    """What was imported stays: the collector need not walk through it again."""
    session.config.busy = busy_seconds()
    gc.freeze()
    atexit.register(gc.unfreeze)  # nanobind calls what is left then a leak


def busy_seconds():
    """What this process and its ended children have kept processors busy."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Each report carries the processor-seconds since the one before it."""
    report, now = (yield), busy_seconds()
    report.user_properties.append(("busy", now - item.config.busy))
    item.config.busy = now
    return report


def pytest_terminal_summary(terminalreporter, config):
    """How long the suite took, on the clock and on the processors, all of its ended processes included."""
    if hasattr(config, "workerinput"):
        return
    seconds, cores = time.monotonic() - config.began, len(os.sched_getaffinity(0))
    terminalreporter.write_sep("=", f"{seconds:.0f} s on {cores} cores, {busy_seconds():.0f} processor-seconds")
    files = Counter()
    for report in chain.from_iterable(terminalreporter.stats.values()):
        for name, value in getattr(report, "user_properties", ()):
            files[report.location[0]] += value if name == "busy" else 0
    most = ", ".join(f"{Path(file).stem} {spent:.0f}" for file, spent in files.most_common(12))
    terminalreporter.write_line(f"of which {most} (a server that tests share: where it ends)")


@pytest.fixture(autouse=True)
def _same_environment():
    """A test leaves our variables as they were: the next one in its process would run in another environment."""
    before = _our_variables()
    yield
    assert _our_variables() == before, "left in the environment"


def _our_variables():
    return {name: value for name, value in os.environ.items() if name.startswith("PROACTOR_")}


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory):
    """A real vLLM server that holds models.TINY; starting it takes most of a minute, so that all tests share it.

    A test that loads other weights puts the base back (`reload(server.model)`).
    """
    from proactor_lib import models
    from proactor_lib.artf.serving.server import Server

    server = Server(
        model=models.resolve(models.TINY),
        log_path=tmp_path_factory.mktemp("server") / "server.log",
        max_model_len=4096,
        max_num_seqs=8,
        kv_cache_gb=1.0,
    )
    with server:
        yield server.wait_ready(300 if os.cpu_count() > 1 else 600)


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(monkeypatch, capsys):
    """`proactor` in this process, which spares a second or more of imports a call: cli("score", ..., typed="")."""
    from proactor_lib.cli import main

    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments, typed=""):
        monkeypatch.setattr("sys.argv", ["proactor", *map(str, arguments)])
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return Ended(status, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory):
    """A real JupyterLab (support.jupyter.Lab)."""
    from support.jupyter import running_lab

    with running_lab(tmp_path_factory.mktemp("jupyter")) as lab:
        yield lab


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Headless Chromium, without a cache or a profile of anyone's, and asking nobody for updates."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in (*CHROMIUM_FLAGS, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.binary_location = shutil.which("chromium")
    options.unhandled_prompt_behavior = "accept"  # JupyterLab asks whether to leave
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.get("about:blank")  # away from the page of new tabs, whose own requests come late on a busy machine
    yield driver
    driver.quit()
