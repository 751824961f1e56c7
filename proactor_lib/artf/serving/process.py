"""A child process that serves HTTP on loopback: started, waited for, and ended with everything that it started."""

import contextlib
import functools
import os
import random
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from proactor_lib import allocator
from proactor_lib.errors import ProcessError, UserError
from proactor_lib.processes import LAUNCHER, follow_parent, short_temp_folder

HOST = "127.0.0.1"
# Below what Linux deals out to connections (32768 and up): a model server binds its port a minute after it was chosen.
PORTS = range(20_000, 32_000)
PROXIES = tuple(f(f"{kind}_proxy") for kind in ("http", "https", "all") for f in (str.lower, str.upper))


@functools.cache
def http() -> httpx.Client:
    """The client for servers' own endpoints: making one each time costs 20 ms of certificates, and proxies are not for
    servers. Connections are not kept: one that a server closes while it is taken up again looks like a fault."""
    return httpx.Client(verify=False, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


def free_port() -> int:
    """A TCP port that nobody listens on now, and that no connection is given while a server starts."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind((HOST, port))
            return port
    with socket.socket() as s:
        s.bind((HOST, 0))
        return s.getsockname()[1]


class ServerDied(ProcessError):
    """A server's process ended, or did not become ready in time; the message ends with its last log lines."""


@dataclass
class ServerProcess:
    """A server process. Start it from a thread that lives as long as it should. `log_path` gets all that it says."""

    log_path: Path
    host: str = HOST
    port: int = 0
    process: subprocess.Popen | None = field(default=None, repr=False, kw_only=True)
    _log_begin: int = field(default=0, repr=False, kw_only=True)  # bytes of the log that are of processes before it

    what = "server"  # what messages call it

    @property
    def url(self) -> str:
        """Its root, without /v1."""
        return f"http://{self.host}:{self.port}"

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str | None]:
        """Variables over those of this process; None removes one."""
        return {}

    def _whole_environment(self) -> dict[str, str | None]:
        alone = dict.fromkeys(LAUNCHER)
        return {**allocator.environment(), **alone, "TMPDIR": short_temp_folder(), **self._environment()}

    def start(self):
        """Start the process; returns at once. UserError if the port is taken."""
        self.port = self.port or free_port()
        with socket.socket() as probe:
            if probe.connect_ex((self.host, self.port)) == 0:
                raise UserError(f"port {self.port} is busy; name another, or 0 for any free one")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "ab") as out:
            self._log_begin = out.tell()
            self.process = subprocess.Popen(
                self._command(),
                env={k: v for k, v in self._whole_environment().items() if v is not None},
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=follow_parent,
            )
        return self

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def ready(self, timeout: float = 5.0) -> bool:
        """Whether it serves now."""
        try:
            return http().get(f"{self.url}/health", timeout=timeout).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self, timeout: float = 300.0):
        """Wait until it serves. ServerDied after `timeout` seconds, or as soon as its process ends."""
        deadline = time.monotonic() + timeout
        while not self.ready():
            if not self.alive():
                raise ServerDied(f"the {self.what} ended with status {self.process.returncode}; {self.last_words()}")
            if time.monotonic() > deadline:
                raise ServerDied(f"the {self.what} was not ready after {timeout:.0f} s; {self.last_words()}")
            time.sleep(0.2)
        return self

    def last_words(self) -> str:
        """Its log's path and the lines of this process that tell most."""
        lines = self.log_path.read_bytes()[self._log_begin :].decode(errors="replace").splitlines()
        telling = [line for line in lines if "Error" in line] or lines
        return f"log {self.log_path}: {' / '.join(telling[-2:])}"

    def stop(self, grace: float = 5.0) -> None:
        """End the process and all that it started."""
        if self.process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sign)
            except ProcessLookupError:
                break
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc) -> None:
        self.stop()
