"""vllm-router as a child process: one address before all servers, every session on one of them.

Only completions go through it. It hands an admin call to one server and answers 200: those go to every server directly.
"""

import sys
from dataclasses import dataclass, field

import httpx

from proactor_lib.artf.serving.process import PROXIES, ServerProcess, free_port, http

# A connection that fails opens a server's circuit after three times: no request is lost when a server is killed
# (measured; with the default of ten, two were). Sessions are given back when they end, or forgotten after an hour.
OPTIONS = ("--policy", "sticky_least_loaded", "--cb-failure-threshold", "3", "--worker-startup-check-interval", "1",
           "--health-check-interval-secs", "5", "--queue-size", "10000", "--queue-timeout-secs", "600",
           "--log-level", "warning")  # fmt: skip

# What the command vllm-router does, without its import of FastAPI for a Python balancer: a second of processor time.
LAUNCH = """
from argparse import ArgumentParser
from vllm_router.router import Router
from vllm_router.router_args import RouterArgs

parser = ArgumentParser("vllm-router")
RouterArgs.add_cli_args(parser)
Router.from_args(RouterArgs.from_cli_args(parser.parse_args())).start()
"""


@dataclass(kw_only=True)
class Router(ServerProcess):
    """The router on loopback. Requests carry `x-session-id`, and the servers' key: the router passes it on."""

    options: tuple[str, ...] = field(default=OPTIONS)

    what = "router"

    def _command(self) -> list[str]:
        # Its metrics have a port too, and a second router on the machine dies on the default one.
        command = [sys.executable, "-c", LAUNCH, "--host", self.host, "--port", str(self.port)]
        return [*command, "--prometheus-port", str(free_port()), *self.options]

    def _environment(self) -> dict[str, str | None]:
        return {"VLLM_ROUTER_SLL_SESSION_EXPIRATION_IN_S": "3600", **dict.fromkeys(PROXIES)}

    def ready(self, timeout: float = 5.0) -> bool:
        """Whether it answers; /health would ask for servers."""
        try:
            return http().get(f"{self.url}/list_workers", timeout=timeout).status_code == 200
        except httpx.HTTPError:
            return False

    def add(self, url: str) -> None:
        """Send sessions to the server at `url` too. It must serve already: the router waits until it does."""
        self._post("/add_worker", url=url)

    def remove(self, url: str) -> None:
        """Send nothing more there; open requests go on, its sessions move. No error where it is unknown."""
        self._post("/remove_worker", url=url)

    def servers(self) -> list[str]:
        """The servers' addresses."""
        answer = http().get(f"{self.url}/list_workers", timeout=10)
        answer.raise_for_status()
        return answer.json()["urls"]

    def _post(self, path: str, **params: str) -> None:
        http().post(f"{self.url}{path}", params=params, timeout=30).raise_for_status()
