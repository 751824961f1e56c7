"""A server on whichever node of a Ray cluster has room: the same calls, its process kept by an actor there.

It listens on the node's own address, so its key guards every path. The folder of weights and adapters must be one that
all nodes see.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from proactor_lib.artf.serving.server import Server


class ServerActor:
    """The actor: it starts the server on its node, and the server ends with it."""

    def __init__(self, server: Server):
        self._server = server

    def start(self) -> tuple[str, int]:
        """The server's address."""
        import ray

        self._server.host = ray.util.get_node_ip_address()
        if self._server.gpu is not None:
            self._server.gpu = str(ray.get_gpu_ids()[0])
        self._server.start()
        return self._server.host, self._server.port

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._server.alive()

    def last_words(self) -> str:
        """What its log ends with."""
        return self._server.last_words()

    def stop(self) -> None:
        """End the process."""
        self._server.stop()


@dataclass(kw_only=True)
class RemoteServer(Server):
    """Places `kept` on the Ray cluster that this process has joined; `cpus` cores or, if it wants one, a GPU for it."""

    kept: Server
    cpus: int = 1
    _actor: Any = field(default=None, repr=False)
    _address: Any = field(default=None, repr=False)  # Ray's promise of host and port

    def start(self) -> "RemoteServer":
        """Ask for a place; returns at once."""
        import ray

        if not self.kept.key:
            raise ValueError("a server that others can reach needs a key")
        gpus = 0 if self.kept.gpu is None else 1
        self._actor = ray.remote(ServerActor).options(num_cpus=self.cpus, num_gpus=gpus).remote(self.kept)
        self._address = self._actor.start.remote()
        return self

    def alive(self) -> bool:
        """Whether its process runs, or its place is still being looked for."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        try:
            if self.port:
                return ray.get(self._actor.alive.remote(), timeout=5)
            if ray.wait([self._address], timeout=0)[0]:
                self.host, self.port = ray.get(self._address)
            return True
        except GetTimeoutError:
            return True  # silence is the controller's to judge
        except RayError:
            return False

    def ready(self, timeout: float = 5.0) -> bool:
        """Whether it serves now."""
        return bool(self.alive() and self.port) and super().ready(timeout)

    def last_words(self) -> str:
        """What its log ends with, if its node still answers."""
        import ray

        try:
            return ray.get(self._actor.last_words.remote(), timeout=10)
        except ray.exceptions.RayError as error:
            return f"its node does not answer: {error}"

    def stop(self, grace: float = 5.0) -> None:
        """End the process and the actor."""
        import ray

        if self._actor is None:
            return
        with suppress(ray.exceptions.RayError):
            ray.get(self._actor.stop.remote(), timeout=4 * grace)
        ray.kill(self._actor)
        self._actor = None


def on_ray(server: Server, cpus: int = 1) -> RemoteServer:
    """The server, not yet started, for a place on the Ray cluster."""
    return RemoteServer(model=server.model, log_path=server.log_path, name=server.name, key=server.key,
                        sleeps=server.sleeps, kept=server, cpus=cpus)  # fmt: skip
