"""A real JupyterLab on 127.0.0.1 and a headless Chromium to open it in."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress

from proactor_lib import processes
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

KERNEL_IS_THERE = """
const notebook = window.jupyterapp?.shell.currentWidget;
return notebook?.sessionContext?.session?.kernel?.status === 'idle' && notebook.content.widgets.length >= arguments[0];
"""
RUN_ALL = "window.jupyterapp.commands.execute('notebook:run-all-cells')"  # does not wait for the cells
FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "window-size=1400,1600",
)  # fmt: skip


@contextmanager
def lab(folder, notebook):
    """The URL, with its token, of `notebook` (its JSON) in a JupyterLab whose files are under `folder`."""
    (folder / "lab").mkdir()
    (folder / "lab" / "notebook.ipynb").write_text(json.dumps(notebook))
    token, log = secrets.token_hex(16), folder / "lab.log"
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
        "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--ServerApp.root_dir={folder / 'lab'}",
        f"--IdentityProvider.token={token}", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    homes = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    with open(log, "wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **homes}, start_new_session=True)
    try:
        yield _ready(server, log, token)
    finally:
        processes.end(server.pid)
        server.wait()


def _ready(server, log, token):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)/", log.read_text()):
            url = f"http://127.0.0.1:{found[1]}"
            with suppress(urllib.error.URLError):  # it names its address before it listens there
                urllib.request.urlopen(f"{url}/api?token={token}", timeout=30).read()
                return f"{url}/lab/tree/notebook.ipynb?token={token}"
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@contextmanager
def chromium(folder):
    """A driver of a headless Chromium whose profile is under `folder`."""
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"user-data-dir={folder / 'chromium'}"):
        options.add_argument(f"--{flag}")
    options.binary_location = shutil.which("chromium")
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def run_all(driver, url, cells):
    """Open the notebook, which has that many cells, and run them; a WebDriverWait of 120 s."""
    driver.get(url)
    wait = WebDriverWait(driver, 120)
    wait.until(lambda b: b.execute_script(KERNEL_IS_THERE, cells))
    driver.execute_script(RUN_ALL)
    return wait
