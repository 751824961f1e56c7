"""Clusters of scripted servers behind a real router, and dialogues for them."""

import json
import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

from proactor_lib.artf.serving.autoscaler import ScalingPolicy
from proactor_lib.artf.serving.cluster import EVENTS, Cluster
from proactor_lib.artf.serving.placement import Slot
from proactor_lib.bench.fake_server import FakeServer
from proactor_lib.bench.fake_vllm import Script

from support.waiting import wait_until


@contextmanager
def cluster(folder: Path, least=2, most=2, seqs=64, made=None, sleeps=False, script=None, **kwargs):
    """A cluster that serves; `made` collects all servers that it ever made."""

    def make(slot: Slot, key: str) -> FakeServer:
        server = FakeServer(
            log_path=folder / f"{slot.name}.log", key=key, sleeps=sleeps, script=script or Script(seqs=seqs)
        )
        if made is not None:
            made.append(server)
        return server

    rule = ScalingPolicy(least, most, seqs, up_after=0.2, down_after=0.5)
    slots = [Slot(f"slot-{n}") for n in range(most)]
    with Cluster(make, slots, rule, folder, **{"period": 0.1, **kwargs}) as found:
        yield found.wait_ready(120)


def events(folder: Path) -> list[str]:
    """What happened in the cluster of this folder, in order."""
    return [record["event"] for record in records(folder)]


def records(folder: Path) -> list[dict]:
    """The lines that the cluster of this folder wrote."""
    return [json.loads(line) for line in (folder / EVENTS).read_text().splitlines()]


def kill_at_work(server, count=8) -> None:
    """Kill it as soon as it has answered so many completions; returns at once."""

    def work():
        wait_until(lambda: sum(server.seen()["models"].values()) >= count)
        os.kill(server.process.pid, signal.SIGKILL)

    threading.Thread(target=work, daemon=True).start()
