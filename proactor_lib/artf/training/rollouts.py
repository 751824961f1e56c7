"""Rollouts: K outputs a turn, scored and turned into advantages, step by step, in a thread beside the trainer.

Step s (from 0) may be generated once the served policy is version >= s - max_staleness: staleness is bounded at
admission, no sample is thrown away for it. A visit leases one version: all its turns are sampled by it, and a policy
that is swapped in place waits until nobody holds a lease. Groups without variance carry no gradient: skipped, counted.
"""

import asyncio
import logging
import queue
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import numpy as np

from proactor_lib.agent import Parsed, parse
from proactor_lib.artf.serving.completions import CompletionClient, Output
from proactor_lib.artf.training.episodes import DialogueSampler, Episode
from proactor_lib.artf.training.tokens import DialogueTokens
from proactor_lib.errors import ProcessError, UserError
from proactor_lib.files import disk_failed
from proactor_lib.rewards import Group, Reward, Score

log = logging.getLogger(__name__)

ATTEMPTS = 3  # rounds of visits that a step makes to find a group with variance


@dataclass(frozen=True)
class ScoredGroup:
    """The K outputs of one turn with their rewards and advantages (None: not scored, not trained)."""

    visit: Episode
    turn: int
    outputs: list[Output]
    parsed: list[Parsed]
    scores: list[Score]
    advantages: list[float | None]

    @property
    def trainable(self) -> bool:
        """Whether any advantage differs from zero."""
        return any(self.advantages)

    @property
    def mean_reward(self) -> float | None:
        """Mean over the scored outputs; None if none was scored."""
        return _mean(s.value for s in self.scores)

    @property
    def mean_steady(self) -> float | None:
        """The same under one set of weights (`Score.steady`); None for a reward that does not move."""
        return _mean(s.steady for s in self.scores)


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean over those that are there; None without any."""
    there = [v for v in values if v is not None]
    return statistics.fmean(there) if there else None


@dataclass
class StepBatch:
    """All groups of one optimiser step, in the order of visits and turns."""

    step: int
    version: int  # the policy that sampled it
    groups: list[ScoredGroup]
    samples: list[dict]  # of the groups with variance (of one, if none has any), in turn order: TRL's rows take them
    seconds: float  # from admission to the last score


def advantages(scores: list[Score]) -> list[float | None]:
    """(reward - mean) / standard deviation inside the group [paper]; all 0 without variance; None where not scored."""
    values = [s.value for s in scores if s.value is not None]
    spread = statistics.pstdev(values) if len(values) > 1 else 0.0
    if spread < 1e-6:
        return [None if s.value is None else 0.0 for s in scores]
    mean = statistics.fmean(values)
    return [None if s.value is None else (s.value - mean) / spread for s in scores]


class Gate:
    """Leases of the served policy version. Lives in the worker's event loop."""

    def __init__(self, version: int):
        self.version, self._open = version, True
        self.leased: Counter[int] = Counter()  # version -> who holds it now
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def lease(self, at_least: int):
        """Hold a version >= `at_least` (and 0: before the first there is none) while the block runs; yields it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._open and self.version >= max(0, at_least))
            version = self.version
            self.leased[version] += 1
        try:
            yield version
        finally:
            async with self._changed:
                self.leased[version] -= 1
                self.leased += Counter()  # forgets what nobody holds
                self._changed.notify_all()

    async def close(self) -> None:
        """Give out no more leases, and wait for those that are held."""
        async with self._changed:
            self._open = False
            await self._changed.wait_for(lambda: not self.leased)

    async def open(self, version: int) -> None:
        """Give out leases of `version` from now on."""
        async with self._changed:
            self.version, self._open = version, True
            self._changed.notify_all()


class RolloutWorker:
    """Implements TRL's RolloutWorkerProtocol; `rollout_buffer` holds whole StepBatches, in order.

    model_name: policy version -> the model name that requests carry. A step's visits follow from its number alone, so
    `first_step` is all that a resumed run needs.
    """

    def __init__(self, visits: DialogueSampler, trunk: Callable[[Episode], DialogueTokens],
                 sampler: CompletionClient, reward: Reward,
                 model_name: Callable[[int], str], *, k: int, visits_per_step: int, max_steps: int, max_staleness: int,
                 first_step: int = 0):  # fmt: skip
        self._visits, self._trunk, self._sampler, self.reward = visits, trunk, sampler, reward
        self._model_name, self._k, self._visits_per_step = model_name, k, visits_per_step
        self._max_steps, self._max_staleness = max_steps, max_staleness
        self._first_step = first_step
        self.rollout_buffer: queue.Queue[StepBatch] = queue.Queue()
        self.metrics_queue: queue.Queue[dict] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._gate = Gate(version=-1)
        self._thread = threading.Thread(target=self._main, name="rollouts", daemon=True)
        self._failure: BaseException | None = None
        self._running = 0  # steps being made

    # what the trainer calls, from its own thread

    def start(self) -> None:
        """Begin producing steps."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and let go of connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(timeout=30)

    def drain(self) -> None:
        """Return once no visit holds a version; none is admitted until `update_model_version`."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._gate.close(), self._loop).result()

    def update_model_version(self, model_version: int) -> None:
        """`model_version` is now served; steps that may use it are admitted."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._gate.open(model_version), self._loop).result()
        else:
            self._gate.version = model_version

    def leased_versions(self) -> set[int]:
        """The versions that open visits are sampled by; they must stay served."""
        return set(self._gate.leased)

    def check_health(self, stale_after_s: float = 0.0) -> None:
        """Raise what ended the worker, if anything did; RuntimeError from it where it has no sentence for the user."""
        if isinstance(self._failure, UserError | ProcessError):
            raise self._failure
        if self._failure is not None:
            raise RuntimeError(f"rollouts ended: {self._failure}") from self._failure

    @property
    def idle(self) -> bool:
        """Whether nothing is being sampled or scored now."""
        return self._running == 0

    def next_step(self) -> StepBatch:
        """The next step's batch; waits for it. RuntimeError if the worker has failed."""
        while True:
            try:
                return self.rollout_buffer.get(timeout=1.0)
            except queue.Empty:
                self.check_health()

    # the thread

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._produce())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            log.exception("rollouts failed")
            self._failure = error
        finally:
            self._loop.run_until_complete(self._sampler.close())
            self._loop.run_until_complete(self.reward.close())

    async def _produce(self) -> None:
        ahead: list[asyncio.Task] = []
        for step in range(self._first_step, self._max_steps):
            async with self._gate.lease(at_least=step - self._max_staleness):
                ahead.append(asyncio.create_task(self._step(step)))
                await asyncio.sleep(0)
            while ahead and (ahead[0].done() or len(ahead) > self._max_staleness):
                self.rollout_buffer.put(await ahead.pop(0))
        for task in ahead:
            self.rollout_buffer.put(await task)

    async def _step(self, step: int) -> StepBatch:
        """One step's groups. Where all of them lack variance, further visits are made until one has some."""
        self._running += 1
        try:
            return await self._make_step(step)
        finally:
            self._running -= 1

    async def _make_step(self, step: int) -> StepBatch:
        began = time.monotonic()
        async with self._gate.lease(at_least=step - self._max_staleness) as version:
            groups: list[ScoredGroup] = []
            for attempt in range(ATTEMPTS):
                first = (attempt * self._max_steps + step) * self._visits_per_step
                fresh = (self._visits[n] for n in range(first, first + self._visits_per_step))
                found = await asyncio.gather(*(self._visit(visit, version, step) for visit in fresh))
                groups += [g for visit in found for g in visit]
                if any(g.trainable for g in groups):
                    break
            else:
                log.warning("step %d: none of %d groups has any variance; it carries no gradient", step, len(groups))
            kept = [g for g in groups if g.trainable] or groups[:1]
            samples = [s for n, g in enumerate(kept) for s in self._samples(g, n)]
            return StepBatch(step, version, groups, samples, seconds=time.monotonic() - began)

    async def _visit(self, visit: Episode, version: int, step: int) -> list[ScoredGroup]:
        model, trunk = self._model_name(version), self._trunk(visit)
        await self._sampler.warm(model, trunk.prompt(visit.turns[-1]), visit.session)
        groups = await asyncio.gather(*(self._group(visit, turn, trunk, model, step) for turn in visit.turns))
        await self._sampler.finish(visit.session)
        return groups

    async def _group(self, visit: Episode, turn: int, trunk: DialogueTokens, model: str, step: int) -> ScoredGroup:
        outputs = await self._sampler.sample(model, trunk.prompt(turn), self._k, visit.session)
        parsed = [Parsed((), unreadable=True) if o.truncated else parse(o.text) for o in outputs]
        group = Group(visit, turn, tuple(o.text for o in outputs), tuple(parsed),
                      progress=step / max(1, self._max_steps - 1))  # fmt: skip
        scores = await scored(self.reward, group)
        return ScoredGroup(visit, turn, outputs, parsed, scores, advantages(scores))

    def _samples(self, group: ScoredGroup, number: int) -> list[dict]:
        """The group's outputs as TRL's rows take them: arrays over the whole prompt and output."""
        prompt = self._trunk(group.visit).prompt(group.turn)
        return [
            _sample(prompt, output, advantage or 0.0, number) | {"dialogue": group.visit.session}
            for output, advantage in zip(group.outputs, group.advantages, strict=True)
            if advantage is not None or not group.trainable
        ]


async def scored(reward: Reward, group: Group) -> list[Score]:
    """The group's scores; None for all where a judge or a disk fails, which ends neither the other groups nor the run.

    A mistake in the reward does end the run: it would be trained on.
    """
    try:
        return await reward.score(group)
    except Exception as error:
        if not (isinstance(error, httpx.HTTPError | ConnectionError | TimeoutError) or disk_failed(error)):
            raise
        where = f"group {group.case.dialogue.id}, turn {group.turn}"
        log.exception("%s has no score: reward %s failed", where, reward.name)
        return [Score(None)] * len(group.outputs)


def _sample(prompt: list[int], output: Output, advantage: float, group_id: int) -> dict:
    before = len(prompt)
    return {
        "input_ids": np.array(prompt + output.tokens),
        "completion_mask": np.array([0] * before + [1] * len(output.tokens)),
        "old_log_probs": np.array([0.0] * before + output.log_probs, dtype=np.float32),
        "advantage": advantage,
        "group_id": group_id,
        "metrics": {},
    }
