"""What several tests share."""

import io
import os
import shutil
import signal
from typing import NamedTuple

import pytest
from proactor_lib import models
from proactor_lib.artf.serving.server import Server
from selenium import webdriver


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory):
    """A real vLLM server that holds models.TINY; starting it takes most of a minute, so that all tests share it.

    A test that loads other weights puts the base back (`reload(server.model)`).
    """
    server = Server(
        model=models.resolve(models.TINY),
        log_path=tmp_path_factory.mktemp("server") / "server.log",
        max_model_len=4096,
        max_num_seqs=8,
        kv_cache_gb=1.0,
    )
    with server:
        yield server.wait_ready(300 if os.cpu_count() > 1 else 600)


class PredictionKey(NamedTuple):
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
        return PredictionKey(status, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, without a cache or a profile of anyone's."""
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1600"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()
