"""Fixtures that several tests share, how tests are dealt to processes, and how long the suite took."""

import io
import os
import resource
import shutil
import signal
import time
from typing import NamedTuple

import pytest

import support  # noqa: F401 (first: it keeps each test process to one thread)

# What costs most begins first. A group's tests run in one process, so that what they share is started once.
FIRST = ["test_whole_run", "test_readme", "vllm", "ray", "browser", "test_resume", "test_training_faults"]
CHROMIUM_FLAGS = (
    "headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1400,1600", "disable-gpu", "disable-quic",
    "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
)  # fmt: skip
GROUP_OF_FIXTURE = {"tiny_server": "vllm", "browser": "browser", "jupyterlab": "browser"}


def pytest_configure(config):
    config.began = time.monotonic()


def pytest_xdist_auto_num_workers(config):
    """One process more than cores: about a third of the time is waiting for servers and kernels to start."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """A test's group is the one that it names, else that of the server that it uses, else its file."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            shared = [group for name, group in GROUP_OF_FIXTURE.items() if name in item.fixturenames]
            item.add_marker(pytest.mark.xdist_group(shared[0] if shared else item.path.stem))
    items.sort(key=lambda item: _turn(item.get_closest_marker("xdist_group").args[0]))


def _turn(group: str) -> int:
    return FIRST.index(group) if group in FIRST else len(FIRST)


def pytest_terminal_summary(terminalreporter, config):
    """How long the suite took, on the clock and on the processors, all of its ended processes included."""
    if hasattr(config, "workerinput"):
        return
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds, busy = time.monotonic() - config.began, sum(u.ru_utime + u.ru_stime for u in used)
    cores = len(os.sched_getaffinity(0))
    terminalreporter.write_sep("=", f"{seconds:.0f} s on {cores} cores, {busy:.0f} processor-seconds")


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
    yield driver
    driver.quit()
