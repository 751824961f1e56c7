"""The adaptive cluster against four fixed servers, on a trace of bursts: real HTTP, a real router, simulated service.

The servers are stand-ins that take `SERVICE` seconds a request and run `SEQS` at once; time is about a hundred times
faster than with real servers (which start in a minute or two), the rule's waits with it.
"""

import json
import tempfile
from pathlib import Path

from proactor_lib.artf.serving.autoscaler import ScalingPolicy
from proactor_lib.artf.serving.cluster import EVENTS, Cluster
from proactor_lib.artf.serving.placement import Slot
from proactor_lib.bench.fake_server import FakeServer
from proactor_lib.bench.fake_vllm import Script
from proactor_lib.bench.traffic import Done, bursts, drive
from proactor_lib.files import read_text

SERVICE, SEQS, START = 0.2, 4, 0.3  # seconds a request; requests at once; seconds from ready to run until it serves
SERVERS = 4
FULL = SERVERS * SEQS / SERVICE  # requests a second that four servers can answer


def benchmark(bursts_: int = 3, burst: float = 3.0, calm: float = 6.5, load: float = 0.65, seed: int = 0) -> dict:
    """Throughput (requests a second), server-seconds, latency (95th percentile, seconds), and how the number moved.

    `load`: a burst's rate as a share of what four servers can answer; between bursts it is a sixteenth of that.
    """
    talks = bursts(bursts_, load * FULL, load * FULL / 16, burst, calm, turns=4, seed=seed)
    fixed, fixed_spent, _ = _run(ScalingPolicy(SERVERS, SERVERS, SEQS), talks)
    rule = ScalingPolicy(1, SERVERS, SEQS, up_after=0.1, down_after=0.5, fill=0.8)
    adaptive, spent, counts = _run(rule, talks)
    return {
        "requests": len(fixed.latencies),
        "throughput_fixed": round(fixed.rps, 2),
        "throughput_adaptive": round(adaptive.rps, 2),
        "throughput_share": round(adaptive.rps / fixed.rps, 4),
        "server_seconds_fixed": round(fixed_spent, 2),
        "server_seconds_adaptive": round(spent, 2),
        "server_seconds_share": round(spent / fixed_spent, 4),
        "latency_p95_fixed": round(fixed.latency(0.95), 3),
        "latency_p95_adaptive": round(adaptive.latency(0.95), 3),
        "retries": fixed.retries + adaptive.retries,
        "bursts": bursts_,
        "targets": counts,
        "reversals": reversals(counts),
    }


def _run(rule: ScalingPolicy, talks) -> tuple[Done, float, list[int]]:
    """What came of the trace, server-seconds while it ran, and the numbers of servers wanted one after another."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        def make(slot: Slot, key: str) -> FakeServer:
            script = Script(service=SERVICE, jitter=0.2, seqs=SEQS, start=START, seed=len(slot.name))
            return FakeServer(log_path=folder / f"{slot.name}.log", key=key, script=script)

        slots = [Slot(f"slot-{n}") for n in range(SERVERS)]
        with Cluster(make, slots, rule, folder, period=0.1) as cluster:
            cluster.wait_ready(120)
            before = cluster.server_seconds()
            done = drive([cluster.url], talks, key=cluster.key, routed=True)
            spent = cluster.server_seconds() - before
        events = [json.loads(line) for line in read_text(folder / EVENTS).splitlines()]
    return done, spent, _steps([e["target"] for e in events])


def _steps(values: list[int]) -> list[int]:
    """The values with repeats in a row left out."""
    return [v for n, v in enumerate(values) if n == 0 or v != values[n - 1]]


def reversals(counts: list[int]) -> int:
    """How often the number of servers changed its direction. A burst gives two at most: up, and down again."""
    ups = [b > a for a, b in zip(counts, counts[1:], strict=False)]
    return sum(a != b for a, b in zip(ups, ups[1:], strict=False))
