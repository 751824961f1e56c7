"""Ray: a cluster of this machine alone, or one that is there. Always with token authentication, for Ray listens on all
interfaces and whoever reaches it runs code."""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from proactor_lib import processes
from proactor_lib.errors import UserError

STORE_BYTES = 80_000_000  # cells exchange files, not objects: the smallest store that Ray takes


@contextmanager
def cluster(address: str | None = None, cpus: int | None = None) -> Iterator[list[dict[str, float]]]:
    """Start Ray on this machine, or join the cluster at `address` (host:port, or `auto`); gives each node's resources.

    On this machine: `cpus` cores (None: those that this process may use) and all GPUs, on loopback, with a token of its
    own. A cluster that is joined must have been started with a token, found where Ray looks (RAY_AUTH_TOKEN,
    RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token). Raises UserError when there is no cluster or no token.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _joined(address) if address else _alone(cpus) as ray:
        try:
            yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
        finally:
            ray.shutdown()


@contextmanager
def _alone(cpus: int | None):
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    folder = tempfile.mkdtemp(prefix="pray-", dir=processes.short_temp_folder())  # short: Ray's sockets lie in it
    options = {
        "address": "local",  # not the one of RAY_ADDRESS
        "num_cpus": cpus or processes.cores(), "include_dashboard": False, "_node_ip_address": "127.0.0.1",
        "object_store_memory": STORE_BYTES, "log_to_driver": False, "logging_level": "ERROR", "_temp_dir": folder,
    }  # fmt: skip
    try:
        with processes.guarded():
            try:
                ray.init(**options)
            except Exception:  # Ray gives its helper 15 s to start (its issue 65983), too few on a busy machine
                ray.shutdown()
                ray.init(**options)
            yield ray
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _joined(address: str):
    import ray

    if address != "auto":
        require_answer(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"no Ray cluster could be joined at {address!r}: {reason}") from None
    yield ray


def require_answer(address: str) -> None:
    """UserError unless something listens at host:port: Ray itself would knock for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise UserError(f"no Ray cluster could be joined at {address!r} (host:port, or auto): {error}") from None
