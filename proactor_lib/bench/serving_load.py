"""`proactor serve` under load: conversations at once, turn after turn; latencies, lost turns, repeats, memory."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import psutil

from proactor_lib import datasets, processes
from proactor_lib.artf.serving.access import ACCESS
from proactor_lib.artf.serving.process import free_port
from proactor_lib.errors import ProcessError
from proactor_lib.files import read_text, write_json
from proactor_lib.schema import Dialogue

SETTINGS = ("max_completion_tokens=24", "max_num_seqs=16", "kv_cache_gb=1")
START = 600.0  # seconds until it must serve
WARM = 0.25  # share of the time after which the memory is first taken


@dataclass
class Tally:
    """What the conversations saw. Latencies in seconds."""

    latencies: list[float] = field(default_factory=list)
    lost: int = 0
    repeated: int = 0
    executions: int = 0
    conversations: int = 0


def benchmark(out: Path, source: str, policy: str | None, conversations: int, seconds: float) -> dict[str, Any]:
    """Hold conversations with the service for so many seconds. Memory in MB (PSS), latencies in seconds.

    ProcessError where it does not start, or answers nothing.
    """
    corpus = datasets.load("homeloan", None, "test", limit=64)
    write_json(out / "catalog.json", corpus.catalog.model_dump(mode="json"))
    with _service(out, source, policy) as (url, key, pid):
        tally, memory = asyncio.run(_talk(url, key, pid, corpus.dialogues, conversations, seconds))
    if not (ordered := sorted(tally.latencies)):
        raise ProcessError(f"the service answered no turn ({tally.lost} were lost): {out / 'serve.log'}")
    at = {f"p{p}_s": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 3) for p in (50, 95, 99)}
    return {
        "conversations_at_once": conversations, "seconds": seconds, "conversations_begun": tally.conversations,
        "turns": len(ordered), "turns_per_s": round(len(ordered) / seconds, 1), **at, "lost_turns": tally.lost,
        "executions": tally.executions, "repeated_executions": tally.repeated, **memory,
    }  # fmt: skip


@contextmanager
def _service(out: Path, source: str, policy: str | None) -> Iterator[tuple[str, str, int]]:
    """Its address, its key and its process, once it serves. ProcessError if it does not."""
    port, access = free_port(), out / "serve" / ACCESS
    command = [sys.executable, "-m", "proactor_lib", "serve", source, "--catalog", out / "catalog.json"]
    command += ["--port", port, "--rate", 0, "--out", out / "serve", *(["--policy", policy] if policy else [])]
    command += [part for setting in SETTINGS for part in ("--set", setting)]
    with open(out / "serve.log", "wb") as log:
        job = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + START
        while not _answers(f"http://127.0.0.1:{port}/health"):
            if job.poll() is not None or time.monotonic() > deadline:
                raise ProcessError(f"the service did not start: {out / 'serve.log'}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", json.loads(read_text(access))["key"], job.pid
    finally:
        processes.end(job.pid)
        job.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


async def _talk(url: str, key: str, pid: int, dialogues: list[Dialogue], at_once: int, seconds: float):
    tally, numbers, end = Tally(), count(), time.monotonic() + seconds
    every = httpx.Limits(max_connections=None, max_keepalive_connections=None)  # nobody waits in the client
    client = httpx.AsyncClient(
        base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60.0, trust_env=False, limits=every
    )

    async def converse() -> None:
        while time.monotonic() < end:
            number = next(numbers)
            tally.conversations += 1
            await _hold(client, f"bench-{number}", dialogues[number % len(dialogues)], tally, end)

    async def weighed() -> dict[str, float]:
        await asyncio.sleep(WARM * seconds)
        early = _weights(pid)
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        return {f"{what}_mb_{when}": w[what] for when, w in (("early", early), ("end", _weights(pid))) for what in w}

    async with client:
        memory, *_ = await asyncio.gather(weighed(), *(converse() for _ in range(at_once)))
    return tally, memory


async def _hold(client: httpx.AsyncClient, name: str, dialogue: Dialogue, tally: Tally, end: float) -> None:
    """One conversation, turn after turn, until it or the time is over."""
    executed: set[str] = set()
    for number, turn in enumerate(dialogue.turns, start=1):
        if time.monotonic() > end:
            return
        began = time.perf_counter()
        body = {"conversation": name, "turns": [turn.model_dump()], "from": number}
        try:
            answer = await client.post("/v1/proactor/turns", json=body)
        except httpx.HTTPError:
            tally.lost += 1
            return
        tally.latencies.append(time.perf_counter() - began)
        told = answer.json().get("answers", [])
        if answer.status_code != 200 or [a["turn"] for a in told] != [number]:
            tally.lost += 1
            return
        done = [json.dumps([a["name"], a["params"]], sort_keys=True) for a in told[0]["ready"]]
        tally.executions += len(done)
        tally.repeated += len(executed.intersection(done))
        executed.update(done)


def _weights(pid: int) -> dict[str, float]:
    """MB of the service alone, and of all that it started."""
    itself, whole = [psutil.Process(pid)], processes.family(pid)
    return {"service": round(processes.pss_bytes(itself) / 1e6, 1), "all": round(processes.pss_bytes(whole) / 1e6, 1)}
