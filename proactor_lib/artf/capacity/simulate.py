"""A training run as discrete events: how long a step takes, who waits for whom, and how to split a cluster's GPUs.

The protocol is that of rollouts.py and trainer.py: a step is admitted when the served version is at most `staleness`
behind, its dialogues lease that version, a dialogue's requests go to one server, the trainer takes whole steps in
order, and a sync in place waits until no lease is held. Times come from workload.ServiceTimes.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import simpy

from proactor_lib.artf.capacity.workload import ServiceTimes, Workload


@dataclass(frozen=True)
class Plan:
    """Who works, and how they wait for each other."""

    servers: int
    trainers: int  # processes of one data-parallel trainer
    staleness: int = 0  # versions that a sample may lag behind
    packed: bool = True  # dialogue rows; else padded samples
    in_turn: bool = False  # the same GPUs serve, then train: with staleness 0, the synchronous loop
    judges: int = 0  # servers of a judge, where the workload has one
    name: str = "ART-F"

    @property
    def gpus(self) -> int:
        """GPUs (or slots of cores) that it takes."""
        policy = max(self.servers, self.trainers) if self.in_turn else self.servers + self.trainers
        return policy + self.judges


@dataclass(frozen=True)
class Forecast:
    """What a plan is predicted to do. Shares in [0, 1], seconds, tokens."""

    plan: Plan
    steps: int
    seconds: float  # from the first request to the end of the last step
    step_s: float  # seconds / steps
    rollout_s: float  # from a step's admission to its last score, mean
    rollout_wait_s: float  # the trainer waits for rollouts, a step
    train_s: float
    sync_s: float
    server_busy: float  # of all servers' time
    trainer_busy: float
    waiting: float  # requests in servers' queues, mean over time
    wait_s: float  # a request waits for its first slot, mean
    wait_p95_s: float
    trained_tokens_per_s: float  # forwarded by the trainer

    def as_dict(self) -> dict:
        """Flat: the plan's fields, then the figures."""
        figures = asdict(self)
        return {**figures.pop("plan"), "gpus": self.plan.gpus, **figures}


@dataclass
class _Request:
    """Sequences of one prompt, of which `fresh` tokens are in no cache."""

    fresh: float
    lengths: list[int]  # of those that have no slot yet
    done: simpy.Event
    arrived: float
    left: int  # sequences that are not finished
    started: float | None = None

    def finish_one(self) -> None:
        """A sequence is finished; with the last one, the request is."""
        self.left -= 1
        if self.left == 0:
            self.done.succeed()


class _Servers:
    """Continuous batching on each of n servers: first come, first served, one sequence per slot."""

    def __init__(self, world: "_World", count: int, counted: bool = True):
        self.world, self.busy, self.waits, self._counted = world, 0.0, [], counted
        self.queues: list[deque[_Request]] = [deque() for _ in range(count)]
        self.sessions, self.called = [0] * count, [world.env.event() for _ in range(count)]
        self.working = 0
        for n in range(count):
            world.env.process(self._serve(n))

    def send(self, server: int, fresh: float, lengths: list[int]) -> simpy.Event:
        """Queue a request; the event comes when its last sequence is finished."""
        env = self.world.env
        request = _Request(fresh, lengths, env.event(), arrived=env.now, left=len(lengths))
        self.queues[server].append(request)
        self.world.count(self._counted)
        if not self.called[server].triggered:
            self.called[server].succeed()
        return request.done

    def _serve(self, n: int) -> Iterator[simpy.Event]:
        world, times, queue = self.world, self.world.service, self.queues[n]
        active: list[tuple[int, int, _Request]] = []  # a heap: the iteration that ends a sequence, a tie breaker
        iteration, ties = 0, itertools.count()
        while True:
            if not queue and not active:
                self.called[n] = world.env.event()
                yield self.called[n]
            prefill = 0.0
            while queue and len(active) < times.slots:
                cost, lengths, request = self._admit(queue, times.slots - len(active))
                prefill += cost
                for length in lengths:
                    heapq.heappush(active, (iteration + length, next(ties), request))
            began, self.working = world.env.now, self.working + 1
            slower, count = world.slower(world.training), active[0][0] - iteration
            each = slower * (times.decode_step_s + len(active) * times.decode_s)
            if len(active) < times.slots:  # who comes now is let in after the iteration
                self.called[n] = world.env.event()
                yield world.env.timeout(slower * prefill + count * each) | self.called[n]
                if each:  # a fit may find that iterations take no time
                    count = min(count, max(1, math.ceil((world.env.now - began - slower * prefill) / each - 1e-9)))
            yield world.env.timeout(max(0.0, began + slower * prefill + count * each - world.env.now))
            iteration, self.working = iteration + count, self.working - 1
            self.busy += world.env.now - began
            while active and active[0][0] == iteration:
                heapq.heappop(active)[2].finish_one()

    def _admit(self, queue: deque, room: int) -> tuple[float, list[int], _Request]:
        """Give slots to the first request's sequences: what that costs, their lengths, the request."""
        request, times, cost = queue[0], self.world.service, 0.0
        if request.started is None:
            request.started = self.world.env.now
            self.waits.append(request.started - request.arrived)
            cost = times.request_s + request.fresh * times.prefill_s
        part, request.lengths = request.lengths[:room], request.lengths[room:]
        if not request.lengths:
            queue.popleft()
            self.world.count(-self._counted)
        return cost, part, request


class _World:
    """The state that servers, rollouts and trainer share, and its clockwork."""

    def __init__(self, service: ServiceTimes, workload: Workload, plan: Plan, steps: int, seed: int):
        self.env, self.rng = simpy.Environment(), np.random.default_rng(seed)
        self.service, self.workload, self.plan, self.steps = service, workload, plan, steps
        self.version, self.open, self.holders, self.training = -1, True, 0, 0
        self.changed = self.env.event()
        self.batches = simpy.Store(self.env)
        self.servers, self.judges = _Servers(self, plan.servers), _Servers(self, plan.judges, counted=False)
        self.asking = simpy.Resource(self.env, workload.judge_calls or 2**31)  # calls to the judges in flight
        self.rollouts: list[float] = []
        self.waited = self.trained = self.synced = 0.0
        self._queued, self._since, self._area = 0, 0.0, 0.0

    def run(self) -> Forecast:
        self.env.process(self._produce())
        self.env.run(until=self.env.process(self._train()))
        now, plan, waits = self.env.now, self.plan, self.servers.waits
        self.count(0)
        tokens = sum(sum(self._rows(step)) for step in range(self.steps))
        return Forecast(
            plan, self.steps, seconds=now, step_s=now / self.steps, rollout_s=float(np.mean(self.rollouts)),
            rollout_wait_s=self.waited / self.steps, train_s=self.trained / self.steps,
            sync_s=self.synced / self.steps, server_busy=self.servers.busy / (now * plan.servers),
            trainer_busy=self.trained / now, waiting=self._area / now, wait_s=float(np.mean(waits)),
            wait_p95_s=float(np.quantile(waits, 0.95)), trained_tokens_per_s=tokens / now,
        )  # fmt: skip

    def count(self, change: int) -> None:
        """Requests that wait, and their sum over time."""
        self._area += self._queued * (self.env.now - self._since)
        self._queued, self._since = self._queued + change, self.env.now

    def slower(self, others: int) -> float:
        """How much longer work takes while the other side works too."""
        return self.service.overlap if others else 1.0

    # leases

    def _lease(self, at_least: int) -> Iterator[simpy.Event]:
        while not (self.open and self.version >= at_least):
            yield self.changed
        self.holders += 1

    def _tell(self) -> None:
        self.changed.succeed()
        self.changed = self.env.event()

    # rollouts

    def _produce(self) -> Iterator[simpy.Event]:
        ahead: deque[simpy.Process] = deque()
        for step in range(self.steps):
            yield from self._lease(step - self.plan.staleness)
            ahead.append(self.env.process(self._step(step)))
            while ahead and (ahead[0].triggered or len(ahead) > self.plan.staleness):
                self.batches.put((yield ahead.popleft()))
        while ahead:
            self.batches.put((yield ahead.popleft()))

    def _step(self, number: int) -> Iterator[simpy.Event]:
        began, step = self.env.now, self.workload.step(number)
        for _ in range(step.rounds):
            visits = [self.env.process(self._visit(step.output_tokens)) for _ in range(self.workload.dialogues)]
            yield self.env.all_of(visits)
        self.holders -= 1
        self._tell()
        self.rollouts.append(self.env.now - began)
        return self.env.now - began

    def _visit(self, output_tokens: float) -> Iterator[simpy.Event]:
        """One dialogue: its prompt once, then all its turns at once, on the server with the fewest dialogues."""
        sessions, w = self.servers.sessions, self.workload
        server = int(np.argmin(sessions))
        sessions[server] += 1
        yield self.servers.send(server, w.prompt_tokens, [1])
        lengths = w.lengths(output_tokens, w.turns * w.k, self.rng).reshape(w.turns, w.k).tolist()
        yield self.env.all_of([self.env.process(self._group(server, each)) for each in lengths])
        sessions[server] -= 1

    def _group(self, server: int, lengths: list[int]) -> Iterator[simpy.Event]:
        yield self.servers.send(server, self.workload.cue_tokens, lengths)
        if self.plan.judges:  # a dialogue's questions share a prefix
            w = self.workload
            with self.asking.request() as call:
                yield call
                yield self.judges.send(server % self.plan.judges, w.question_tokens, [w.answer_tokens])
        yield self.env.timeout(self.service.score_s)

    # trainer

    def _train(self) -> Iterator[simpy.Event]:
        yield from self._sync()
        for step in range(self.steps):
            began = self.env.now
            yield self.batches.get()
            self.waited += self.env.now - began
            began, self.training = self.env.now, 1
            for row in self._rows(step)[:: self.plan.trainers]:  # one row per process, the heaviest first
                spent = self.service.row_s + self.service.train_s * row
                yield self.env.timeout(spent * self.slower(self.servers.working))
            self.training = 0
            self.trained += self.env.now - began
            yield self.env.timeout(self.service.step_s + self.plan.in_turn * self.service.switch_s)
            yield from self._sync()
            yield self.env.timeout(self.service.record_s)

    def _rows(self, step: int) -> list[float]:
        """Forwarded tokens of the step's rows, the heaviest first."""
        w = self.workload
        rows = sorted(w.rows(self.plan.packed) * w.dialogues, reverse=True)
        scale = w.step(step).packed_tokens / sum(rows) if w.seen and self.plan.packed else 1.0
        return [row * scale for row in rows]

    def _sync(self) -> Iterator[simpy.Event]:
        began, self.open = self.env.now, not self.service.in_place
        while self.service.in_place and self.holders:
            yield self.changed
        yield self.env.timeout(self.service.sync_s)
        self.version, self.open = self.version + 1, True
        self._tell()
        self.synced += self.env.now - began


def simulate(service: ServiceTimes, workload: Workload, plan: Plan, steps: int = 20, seed: int = 0) -> Forecast:
    """What the plan does in `steps` optimiser steps; the same for the same seed."""
    return _World(service, workload, plan, steps, seed).run()
