"""The adaptive cluster: servers on slots behind one router, their number following the load.

A controller thread looks at every server each `period` seconds. A server that died or hangs leaves the router at once,
and another one takes its slot, on a new port. A new, woken or healed server is added to the router only after it holds
and confirms what requests name. `cluster.json` in the folder says what is, `cluster.jsonl` what happened.
"""

import json
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx

from proactor_lib.artf.serving.autoscaler import ScalingPolicy, ScalingState, desired_servers
from proactor_lib.artf.serving.placement import Slot
from proactor_lib.artf.serving.process import ServerDied, free_port
from proactor_lib.artf.serving.router import Router
from proactor_lib.artf.serving.server import Load, Server, Stuck
from proactor_lib.errors import UserError
from proactor_lib.files import write_json

log = logging.getLogger(__name__)

STATE, EVENTS = "cluster.json", "cluster.jsonl"
STARTING, SERVING, DRAINING, ASLEEP, LOST = "starting", "serving", "draining", "asleep", "lost"
FAILED_STARTS = 3  # of a slot, one after another: then it is given up


class PolicyHolder(Protocol):
    """What a PolicySync does for the cluster: it has a server hold what requests name. Its lock keeps that still."""

    lock: threading.RLock

    def load_on(self, server: Server) -> None: ...

    def is_loaded_on(self, server: Server) -> bool: ...


class NoPolicy:
    """The holder before there is a policy: servers serve what they start with."""

    def __init__(self):
        self.lock = threading.RLock()

    def load_on(self, server: Server) -> None: ...

    def is_loaded_on(self, server: Server) -> bool:
        return True


@dataclass
class Member:
    """A server on its slot. since: when its state began; heard: when it last answered a look; load: what it said."""

    slot: Slot
    server: Server
    state: str = STARTING
    since: float = field(default_factory=time.monotonic)
    born: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    load: Load = Load()

    def become(self, state: str) -> None:
        """Enter a state now."""
        self.state = state
        self.since = self.heard = time.monotonic()


class Cluster:
    """Use it as a context manager, or `start`, `wait_ready`, `stop`. `url` is the router's; requests carry `key`.

    make: a slot and the key -> a server, not yet started; key: None for a random one, "" for none; sync: what has
    servers hold the policy, once there is one; start_timeout, drain_timeout, hang_timeout: seconds; a busy machine may
    leave a server without an answer for a while.
    """

    def __init__(self, make: Callable[[Slot, str], Server], slots: list[Slot], rule: ScalingPolicy, folder: Path, *,
                 key: str | None = None, port: int = 0, period: float = 0.5, start_timeout: float = 300.0,
                 drain_timeout: float = 600.0, hang_timeout: float = 60.0):  # fmt: skip
        self.key = secrets.token_hex(16) if key is None else key
        self.rule, self.target = rule, rule.least
        self.sync: PolicyHolder = NoPolicy()
        self.failure: Exception | None = None
        self._was_ready = False
        self.members: list[Member] = []
        self._make, self._slots, self._folder = make, slots, folder
        self._period, self._start_timeout = period, start_timeout
        self._drain_timeout, self._hang_timeout = drain_timeout, hang_timeout
        self._router = Router(log_path=folder / "router.log", port=port or free_port())
        self._trend, self._failed_starts, self._spent = ScalingState(), Counter(), 0.0
        self._checked_at, self._routes, self._written = 0.0, False, None
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(max(4, len(slots)), thread_name_prefix="cluster")
        self._thread = threading.Thread(target=self._run, name="cluster", daemon=True)

    # what its user calls

    @property
    def url(self) -> str:
        """The router's root, without /v1."""
        return self._router.url

    def start(self) -> "Cluster":
        """Start the router and the first servers; returns at once."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def wait_ready(self, timeout: float = 300.0) -> "Cluster":
        """Wait until as many servers serve as there must be at least, or as slots are left where it was ready before.

        ServerDied if that fails or takes too long.
        """
        deadline = time.monotonic() + timeout
        while self.failure or len(self.serving()) < self._least():
            if self.failure or time.monotonic() > deadline:
                raise self.failure or ServerDied(f"the cluster was not ready after {timeout:.0f} s: {self._folder}")
            time.sleep(0.05)
        self._was_ready = True
        return self

    def _least(self) -> int:
        """How many servers must serve: where it was ready before, no more than there are slots left."""
        return min(self.rule.least, len(self._slots)) if self._was_ready else self.rule.least

    def stop(self) -> None:
        """End all servers and the router."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join(15)
            if self._thread.is_alive():  # it waits for a server that does not answer
                list(self._pool.map(lambda m: m.server.stop(), list(self.members)))
                self._thread.join()
        self._pool.shutdown()

    def __enter__(self) -> "Cluster":
        return self.start()

    def __exit__(self, *exc) -> None:
        self.stop()

    def serving(self) -> list[Server]:
        """The servers that get requests."""
        return [m.server for m in list(self.members) if m.state == SERVING]

    def lose(self, server: Server, error: Exception) -> None:
        """Take a server out of service, for it does not hold the policy; the controller replaces it."""
        for member in list(self.members):
            if member.server is server:
                self._leave(member)
                member.become(LOST)
                self._tell("lost", member, reason=str(error))

    def server_seconds(self) -> float:
        """Seconds that server processes have lived so far, summed."""
        return self._spent + sum(time.monotonic() - m.born for m in list(self.members))

    def state(self) -> dict:
        """What is, as it is written to cluster.json; the key is not in it."""
        servers = [
            {"slot": m.slot.name, "url": m.server.url, "state": m.state, "waiting": m.load.waiting,
             "running": m.load.running}
            for m in list(self.members)
        ]  # fmt: skip
        failure = str(self.failure) if self.failure else None
        return {"url": f"{self.url}/v1", "target": self.target, "servers": servers, "failure": failure}

    # the controller's thread: servers are its children, and end with it

    def _run(self) -> None:
        try:
            self._router.start()
            while not self._stopping.wait(self._period):
                try:
                    self.tick(time.monotonic())
                # No answer, a port just taken, a disk that is full: the next look sees to it.
                except (httpx.HTTPError, UserError, OSError) as error:
                    log.warning("the cluster's controller: %s", str(error) or type(error).__name__)
        except BaseException as error:
            log.exception("the cluster's controller failed")
            self.failure = error
        finally:
            list(self._pool.map(lambda m: m.server.stop(), self.members))
            for member in list(self.members):
                self._forget(member)
            self._router.stop()
            self._write()

    def tick(self, now: float) -> None:
        """One look at everything, and what follows from it."""
        self._keep_router()
        self._look(now)
        self._bury(now)
        load = Load(*(sum(getattr(m.load, k) for m in self._in(SERVING)) for k in ("waiting", "running")))
        if len(self._in(SERVING)) >= self.rule.least:
            self.target, self._trend = desired_servers(self.rule, self._trend, now, self.target, load)
        self._reconcile()
        self._end_drains(now)
        sync = self.sync  # a run gives its own at any time: this look keeps to one
        # While a version is being published its lock is held: the next look will do.
        if self._routes and sync.lock.acquire(blocking=False):
            try:
                self._admit(now, sync)
                self._check(now, sync)
            finally:
                sync.lock.release()
        self._write()

    def _keep_router(self) -> None:
        """Start it again if it has died, on its old port, and give it the servers that serve."""
        if not self._router.alive():
            self._tell("router restarted", reason=self._router.last_words())
            self._router.start()
            self._routes = False
        if not self._routes and self._router.ready():
            self._routes = True
            for server in self.serving():
                self._router.add(server.url)

    def _in(self, *states: str) -> list[Member]:
        return [m for m in self.members if m.state in states]

    def _look(self, now: float) -> None:
        watched = self._in(SERVING, DRAINING)
        for member, load in zip(watched, self._pool.map(_load, watched), strict=True):
            if load:
                member.load, member.heard = load, now

    def _bury(self, now: float) -> None:
        """Replace what died, hangs or was lost: here it only goes; `_reconcile` fills its slot."""
        for member in list(self.members):
            died = not member.server.alive()
            hangs = member.state in (SERVING, DRAINING) and now - member.heard > self._hang_timeout
            if died or hangs or member.state == LOST:
                self._leave(member)
                if member.state == STARTING:
                    self._start_failed(member)
                reason = "its process ended" if died else "it does not answer" if hangs else "lost"
                self._tell("removed", member, reason=reason)
                self._end(member)

    def _start_failed(self, member: Member) -> None:
        """Give a slot up where no server starts. With too few slots left a cluster that was never ready has failed.

        One that was goes on with those that are left.
        """
        self._failed_starts[member.slot] += 1
        if self._failed_starts[member.slot] < FAILED_STARTS:
            return
        self._slots = [s for s in self._slots if s != member.slot]
        self._tell("slot given up", member, reason=member.server.last_words())
        if len(self._slots) < (1 if self._was_ready else self.rule.least):
            self.failure = ServerDied(f"slot {member.slot.name}: {member.server.last_words()}")
            self._stopping.set()

    def _reconcile(self) -> None:
        """Start, wake or keep what is missing; drain what is too much."""
        active = self._in(STARTING, SERVING)
        for _ in range(self.target - len(active)):
            if spare := self._in(DRAINING) or self._in(ASLEEP):
                self._take_back(spare[0])
            elif free := [s for s in self._slots if s not in {m.slot for m in self.members}]:
                self.members.append(Member(free[0], self._make(free[0], self.key).start()))
                self._tell("started", self.members[-1])
        # Those that start go first; then the least loaded.
        active.sort(key=lambda m: (m.state == SERVING, m.load.waiting + m.load.running))
        for member in active[: max(0, len(active) - self.target)]:
            if member.state == STARTING:
                self._end(member)
            else:
                self._leave(member)
                member.become(DRAINING)
            self._tell("drains" if member.state == DRAINING else "not needed", member)

    def _take_back(self, member: Member) -> None:
        """A server that drains or sleeps is added again once it holds the policy."""
        try:
            if member.state == ASLEEP:
                member.server.wake()
        except httpx.HTTPError as error:
            return self.lose(member.server, error)
        member.become(STARTING)
        return self._tell("back", member)

    def _end_drains(self, now: float) -> None:
        """A drained server sleeps where it can, else it ends."""
        for member in self._in(DRAINING):
            waited = now - member.since
            if waited < 2 * self._period or (member.load != Load() and waited < self._drain_timeout):
                continue
            if not member.server.sleeps:
                self._end(member)
                self._tell("stopped", member)
                continue
            try:
                member.server.sleep()
            except httpx.HTTPError as error:
                self.lose(member.server, error)
                continue
            member.become(ASLEEP)
            self._tell("asleep", member)

    def _admit(self, now: float, sync: PolicyHolder) -> None:
        """Add those that are ready, once they hold and confirm what requests name."""
        for member in self._in(STARTING):
            if not member.server.ready(timeout=2.0):
                if now - member.since > self._start_timeout:
                    self.lose(member.server, ServerDied(f"not ready after {self._start_timeout:.0f} s"))
                    self._start_failed(member)
            elif self._brought(member, sync):
                self._router.add(member.server.url)
                self._failed_starts[member.slot] = 0
                member.become(SERVING)
                self._tell("serves", member)
            else:
                self._start_failed(member)

    def _brought(self, member: Member, sync: PolicyHolder) -> bool:
        try:
            sync.load_on(member.server)
            return True
        except (httpx.HTTPError, Stuck) as error:
            self.lose(member.server, error)
            return False

    def _check(self, now: float, sync: PolicyHolder) -> None:
        """Every few looks: no server that serves is paused, or without what requests name."""
        if now - self._checked_at < 4 * self._period:
            return
        self._checked_at = now
        for member in (m for m in self._in(SERVING) if m.heard == now):
            with suppress(httpx.HTTPError):  # _look sees to its silence
                self._heal(member, sync)

    def _heal(self, member: Member, sync: PolicyHolder) -> None:
        if member.server.paused():
            self._tell("was paused", member)
            try:
                member.server.resume()
            except Stuck as error:
                return self.lose(member.server, error)
        if not sync.is_loaded_on(member.server):
            self._tell("did not hold the policy", member)
            self._leave(member)
            if self._brought(member, sync):
                self._router.add(member.server.url)
                self._tell("holds it again", member)
        return None

    def _leave(self, member: Member) -> None:
        with suppress(httpx.HTTPError):  # a router that does not answer is started again, with those that serve
            self._router.remove(member.server.url)

    def _end(self, member: Member) -> None:
        member.server.stop()
        self._forget(member)

    def _forget(self, member: Member) -> None:
        self._spent += time.monotonic() - member.born
        self.members.remove(member)

    def _tell(self, what: str, member: Member | None = None, **facts) -> None:
        where = {"slot": member.slot.name, "url": member.server.url} if member else {}
        line = {"time": time.time(), "event": what, **where, **facts, "target": self.target}
        log.info("cluster: %s", " ".join(f"{k}={v}" for k, v in line.items() if k != "time"))
        with kept_going("what happened is only in the log"), open(self._folder / EVENTS, "a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")

    def _write(self) -> None:
        if (state := self.state()) != self._written:
            with kept_going(f"{STATE} is not what is"):
                write_json(self._folder / STATE, state)
                self._written = state


@contextmanager
def kept_going(consequence: str) -> Iterator[None]:
    """What a disk does (it is full, say) is logged, with its consequence, and ends nothing."""
    try:
        yield
    except (OSError, UserError) as error:
        log.warning("the cluster's records: %s; %s", error, consequence)


def _load(member: Member) -> Load | None:
    try:
        return member.server.load(timeout=2.0)
    except httpx.HTTPError:
        return None
