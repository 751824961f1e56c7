"""Rollouts: K outputs a turn, scored and turned into advantages, step by step, in a thread beside the trainer.

Step s (from 0) may be generated once the served policy is version >= s - max_staleness: staleness is bounded at
admission, no sample is thrown away for it. A visit leases one version: all its turns are sampled by it, and a policy
that is swapped in place waits until nobody holds a lease. Groups without variance carry no gradient: skipped, counted.
"""

import asyncio
import concurrent.futures
import logging
import math
import queue
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import httpx
import numpy as np

from proactor_lib.agent import Parsed, parse
from proactor_lib.artf.serving.completions import CompletionClient, Output
from proactor_lib.artf.training import credit
from proactor_lib.artf.training.counterfactual import counterfactual_scores
from proactor_lib.artf.training.episodes import DialogueSampler, Episode
from proactor_lib.artf.training.tokens import DialogueTokens
from proactor_lib.errors import ProcessError, UserError
from proactor_lib.files import disk_failed
from proactor_lib.metrics.turn_kinds import TurnKind, turn_kind
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
    advantages: list[float | None] = field(default_factory=list)
    weight: float = 1.0  # of the turn in the step's loss

    @property
    def sampled(self) -> list[Output]:
        """The outputs without those that another stands for: as many as the server made."""
        return list({id(o): o for o in self.outputs}.values())

    @property
    def trainable(self) -> bool:
        """Whether any advantage differs from zero."""
        return any(self.advantages)

    @property
    def kind(self) -> TurnKind:
        """What the references ask for at the turn."""
        return turn_kind(self.visit.references, self.turn)

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
    prompts_too_long: int = 0  # turns left out, for their prompt and an output do not fit into the context

    @property
    def outputs_alike(self) -> int:
        """Scored outputs of groups without variance: nothing is changed there, and a mean over outputs counts that."""
        return sum(a is not None for g in self.groups if not g.trainable for a in g.advantages)


@dataclass(frozen=True)
class Crediting:
    """How rewards become advantages; names as the parameters' (theta and price: reward_theta and reward_price)."""

    scale_rewards: str = "group"
    turn_weights: str = "none"
    credit: str = "turn"
    theta: float = 0.75
    price: float = 0.25

    def scores(self, groups: list[ScoredGroup]) -> list[ScoredGroup]:
        """The groups of one visit; but for credit at the `turn`, with rewards that look at the dialogue."""
        if self.credit == "turn" or not groups:
            return groups
        visit, outputs = groups[0].visit, [(g.turn, g.parsed) for g in groups]
        if self.credit == "trajectory":
            along = credit.trajectory_scores(visit.references, outputs, self.theta, self.price)
        else:
            along = counterfactual_scores(visit.references, outputs, self.theta, self.price, visit.session)
        return [replace(g, scores=scores) for g, scores in zip(groups, along, strict=True)]

    def advantages(self, visits: list[list[ScoredGroup]]) -> list[ScoredGroup]:
        """All groups of a step, given visit by visit, with their advantages and weights."""
        groups = [replace(g, weight=w) for visit in visits for g, w in zip(visit, self._weights(visit), strict=True)]
        found = credit.advantages([g.scores for g in groups], self.scale_rewards)
        return [replace(g, advantages=a) for g, a in zip(groups, found, strict=True)]

    def _weights(self, groups: list[ScoredGroup]) -> list[float]:
        if self.turn_weights == "none" or not groups:
            return [1.0] * len(groups)
        visit, turns = groups[0].visit, [g.turn for g in groups]
        return list(credit.natural_weights(visit.references, len(visit.dialogue.turns), turns).values())


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
    `first_step` is all that a resumed run needs. longest_prompt: tokens; turns with a longer one are left out, and
    counted. reference_tokens: the references' output at a turn, where it is to be trained beside the sampled ones.
    sure_output: the probability from which a turn's first output stands for all K [ours]. Most such groups would have
    been alike and without a gradient; the rare other outputs of such turns are seen about K times more seldom, which
    nothing makes up for: at such turns, mostly silent ones, they are unlearnt that much more slowly.
    """

    def __init__(self, visits: DialogueSampler, trunk: Callable[[Episode], DialogueTokens],
                 sampler: CompletionClient, reward: Reward,
                 model_name: Callable[[int], str], *, k: int, visits_per_step: int, max_steps: int, max_staleness: int,
                 first_step: int = 0, crediting: Crediting | None = None, longest_prompt: int | None = None,
                 reference_tokens: Callable[[Episode, int], list[int]] | None = None,
                 sure_output: float = 1.0):  # fmt: skip
        self._visits, self._trunk, self._sampler, self.reward = visits, trunk, sampler, reward
        self._model_name, self._k, self._visits_per_step = model_name, k, visits_per_step
        self._max_steps, self._max_staleness = max_steps, max_staleness
        self._first_step, self._crediting = first_step, crediting or Crediting()
        self._longest_prompt, self._reference_tokens = longest_prompt or math.inf, reference_tokens
        self._sure_output = sure_output
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
            self._in_loop(self._gate.close())

    def update_model_version(self, model_version: int) -> None:
        """`model_version` is now served; steps that may use it are admitted."""
        if self._thread.is_alive():
            self._in_loop(self._gate.open(model_version))
        else:
            self._gate.version = model_version

    def _in_loop(self, what: Coroutine) -> None:
        """Run it in the worker's thread; where that ends meanwhile, nothing is left to be told."""
        asked = asyncio.run_coroutine_threadsafe(what, self._loop)
        while self._thread.is_alive():
            with suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
                asked.result(timeout=1.0)
                return
        self.check_health()

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
            self._loop.run_until_complete(self._end())

    async def _end(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}  # of steps ahead, and beside what has failed
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._sampler.close()
        await self.reward.close()

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
            visits, asked = [], 0
            for attempt in range(ATTEMPTS):
                first = (attempt * self._max_steps + step) * self._visits_per_step
                fresh = [self._visits[n] for n in range(first, first + self._visits_per_step)]
                visits += await asyncio.gather(*(self._visit(visit, version, step) for visit in fresh))
                asked += sum(len(visit.turns) for visit in fresh)
                if any(credit.varies(g.scores) for visit in visits for g in visit):
                    break
            else:
                log.warning("step %d: none of %d groups has any variance; it carries no gradient", step,
                            sum(map(len, visits)))  # fmt: skip
            groups = self._crediting.advantages(visits)
            return StepBatch(step, version, groups, self._samples(groups), seconds=time.monotonic() - began,
                             prompts_too_long=asked - len(groups))  # fmt: skip

    async def _visit(self, visit: Episode, version: int, step: int) -> list[ScoredGroup]:
        """A group for each turn whose prompt fits."""
        model, trunk = self._model_name(version), self._trunk(visit)
        turns = [turn for turn in visit.turns if len(trunk.prompt(turn)) <= self._longest_prompt]
        if not turns:
            return []
        await self._sampler.warm(model, trunk.prompt(turns[-1]), visit.session)
        groups = await asyncio.gather(*(self._group(visit, turn, trunk, model, step) for turn in turns))
        await self._sampler.finish(visit.session)
        return self._crediting.scores(groups)

    async def _group(self, visit: Episode, turn: int, trunk: DialogueTokens, model: str, step: int) -> ScoredGroup:
        outputs = await self._outputs(model, trunk.prompt(turn), visit.session)
        parsed = [Parsed((), unreadable=True) if o.truncated else parse(o.text) for o in outputs]
        group = Group(visit, turn, tuple(o.text for o in outputs), tuple(parsed),
                      progress=step / max(1, self._max_steps - 1))  # fmt: skip
        scores = await scored(self.reward, group)
        return ScoredGroup(visit, turn, outputs, parsed, scores)

    async def _outputs(self, model: str, prompt: list[int], session: str) -> list[Output]:
        if self._sure_output == 1:
            return await self._sampler.sample(model, prompt, self._k, session)
        (first,) = await self._sampler.sample(model, prompt, 1, session)
        if math.exp(sum(first.log_probs)) >= self._sure_output and not first.truncated:
            return [first] * self._k
        return [first, *await self._sampler.sample(model, prompt, self._k - 1, session)]

    def _samples(self, groups: list[ScoredGroup]) -> list[dict]:
        """What of a step is trained, as TRL's rows take it: arrays over the whole prompt and output.

        The outputs of groups with variance, and after each group's own the references' output, where that is asked for.
        """
        samples = []
        for number, group in enumerate(groups):
            prompt = self._trunk(group.visit).prompt(group.turn)
            rows = _outputs(group, prompt, number) if group.trainable else []
            if self._reference_tokens:
                rows.append(_supervised(prompt, self._reference_tokens(group.visit, group.turn), group.weight, number))
            samples += [row | {"dialogue": group.visit.session} for row in rows]
        if not samples and groups:
            prompt = self._trunk(groups[0].visit).prompt(groups[0].turn)
            samples = [row | {"dialogue": groups[0].visit.session} for row in _outputs(groups[0], prompt, 0)]
        return samples


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


def _outputs(group: ScoredGroup, prompt: list[int], group_id: int) -> list[dict]:
    """The group's outputs that are scored (all of them in a group that is not trainable)."""
    return [
        _sample(prompt, output.tokens, output.log_probs, (advantage or 0.0) * group.weight, group_id)
        for output, advantage in zip(group.outputs, group.advantages, strict=True)
        if advantage is not None or not group.trainable
    ]


def _supervised(prompt: list[int], tokens: list[int], weight: float, group_id: int) -> dict:
    """The references' output: nobody sampled it, so that it has no log-probabilities."""
    return _sample(prompt, tokens, [math.nan] * len(tokens), weight, group_id)


def _sample(prompt: list[int], tokens: list[int], log_probs: list[float], advantage: float, group_id: int) -> dict:
    before = len(prompt)
    return {
        "input_ids": np.array(prompt + tokens),
        "completion_mask": np.array([0] * before + [1] * len(tokens)),
        "old_log_probs": np.array([0.0] * before + log_probs, dtype=np.float32),
        "advantage": advantage,
        "group_id": group_id,
        "metrics": {},
    }
