"""A real JupyterLab on 127.0.0.1, to open notebooks in."""

import json
import os
import re
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress

from proactor_lib import processes
from selenium.webdriver.support.ui import WebDriverWait

from support.waiting import wait_until

KERNEL_IS_THERE = """
const notebook = window.jupyterapp?.shell.currentWidget;
return notebook?.context?.path === arguments[1] && notebook.sessionContext?.session?.kernel?.status === 'idle'
    && notebook.content.widgets.length >= arguments[0];
"""
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+(?=/)")
RUN_ALL = "window.jupyterapp.commands.execute('notebook:run-all-cells')"  # does not wait for the cells


class Lab:
    """A JupyterLab that runs, its files under `folder`."""

    def __init__(self, folder, address, token):
        self._folder, self._address, self._token = folder, address, token

    def open(self, driver, notebook):
        """Open `notebook` (its JSON) in the browser and run its cells; a WebDriverWait of 120 s."""
        name = f"{secrets.token_hex(4)}.ipynb"
        (self._folder / name).write_text(json.dumps(notebook))
        driver.get(f"{self._address}/lab/tree/{name}?reset&token={self._token}")
        wait = WebDriverWait(driver, 120)
        wait.until(lambda b: b.execute_script(KERNEL_IS_THERE, len(notebook["cells"]), name))
        driver.execute_script(RUN_ALL)
        return wait


@contextmanager
def running_lab(folder):
    """A JupyterLab on 127.0.0.1, all of whose files are under `folder`."""
    (folder / "lab").mkdir()
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
        wait_until(lambda: ADDRESS.search(log.read_text()) or server.poll() is not None)
        address = ADDRESS.search(log.read_text())
        assert address, log.read_text()
        wait_until(lambda: _answers(f"{address[0]}/api?token={token}"))  # it names its address before it listens there
        yield Lab(folder / "lab", address[0], token)
    finally:
        processes.end(server.pid)
        server.wait()


def _answers(url):
    with suppress(urllib.error.URLError):
        return urllib.request.urlopen(url, timeout=30).read()
