"""The router's price: the same requests sent to two servers directly and through the router, in one run.

Directly, dialogue n goes to server n mod 2. The same client code drives both ways, in turn, several times, and the
median of the paired ratios counts: a machine's slow moments hit both.
"""

import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from proactor_lib.artf.serving.router import Router
from proactor_lib.artf.serving.server import Server
from proactor_lib.bench.fake_server import FakeServer
from proactor_lib.bench.fake_vllm import Script
from proactor_lib.bench.traffic import Talk, drive
from proactor_lib.errors import UserError

KINDS = ("vllm", "scripted")


def benchmark(kind: str = "vllm", dialogues: int = 16, turns: int = 6, rounds: int = 5) -> dict:
    """`direct_rps`, `routed_rps` (requests a second, medians), `routed_share` (the median ratio of a round),
    `load_share` (each server's share of the routed requests), `affinity` (the share of dialogues on one server).

    kind: `vllm`, two servers of the tiny random model, or `scripted`, two that only wait. UserError for another.
    """
    if kind not in KINDS:
        raise UserError(f"servers {kind!r}: accepted: {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = [stack.enter_context(server) for server in _servers(kind, Path(folder))]
        router = stack.enter_context(Router(log_path=Path(folder) / "router.log")).wait_ready(60)
        for server in servers:
            router.add(server.wait_ready(300).url)
        ways = {"direct": [s.url for s in servers], "routed": [router.url]}
        held: dict[str, list[Throughput]] = {way: [] for way in ways}
        for n in range(-1, rounds):  # the first round warms up: kernels, pools, connections
            for way in sorted(ways, reverse=n % 2 == 1):
                talks = [Talk(f"{way}-{n}-{d}", 0.0, turns) for d in range(dialogues)]
                held[way].append(_measure(servers, ways[way], talks))
        alone = [_measure(servers, [router.url], [Talk(f"alone-{d}", 0.0, turns)]) for d in range(dialogues)]
    return _summary(kind, held["direct"][1:], held["routed"][1:], alone)


@dataclass(frozen=True)
class Throughput:
    """What came of some dialogues, and how many of their requests each server answered."""

    rps: float
    answered: list[int]


def _measure(servers: list[Server], urls: list[str], talks: list[Talk]) -> Throughput:
    before = [answered(server) for server in servers]
    done = drive(urls, talks, routed=len(urls) == 1)
    return Throughput(done.rps, [answered(server) - b for server, b in zip(servers, before, strict=True)])


def _summary(kind: str, direct: list[Throughput], routed: list[Throughput], alone: list[Throughput]) -> dict:
    totals = [sum(column) for column in zip(*(h.answered for h in routed), strict=True)]
    ratios = [r.rps / d.rps for r, d in zip(routed, direct, strict=True)]
    return {
        "servers": kind,
        "direct_rps": round(statistics.median(h.rps for h in direct), 2),
        "routed_rps": round(statistics.median(h.rps for h in routed), 2),
        "routed_share": round(statistics.median(ratios), 4),
        "routed_shares": [round(r, 4) for r in ratios],
        "load_share": [round(total / sum(totals), 4) for total in totals],
        "affinity": sum(max(h.answered) == sum(h.answered) for h in alone) / len(alone),
    }


def _servers(kind: str, folder: Path) -> list[Server]:
    if kind == "scripted":
        script = Script(service=0.02, jitter=0.2, seqs=8)
        return [FakeServer(log_path=folder / f"{n}.log", script=script) for n in range(2)]
    from proactor_lib import models

    weights = models.resolve(models.TINY)
    return [
        Server(model=weights, log_path=folder / f"{n}.log", max_model_len=4096, max_num_seqs=8, kv_cache_gb=1.0)
        for n in range(2)
    ]


def answered(server: Server) -> int:
    """Requests that a server has answered since it began."""
    if isinstance(server, FakeServer):
        return sum(server.seen()["sessions"].values())
    name = "vllm:request_success_total{"
    lines = server.get("/metrics").text.splitlines()
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)))
