"""The policies of a run on its held-out dialogues: predictions, then tables. A killed evaluation goes on."""

import time
from collections.abc import Callable, Sequence
from functools import cached_property

from proactor_lib import progress, provenance
from proactor_lib.annotate.oracle_run import in_order
from proactor_lib.concurrency import run_async
from proactor_lib.errors import UserError
from proactor_lib.evaluate.agents import Agent, EvalCase, Unanswered
from proactor_lib.evaluate.policy_set import PolicySet
from proactor_lib.evaluate.predictions import DEV, TEST, PredictionLog, folder
from proactor_lib.evaluate.results import focus, load_or_score
from proactor_lib.policies import FIXED_POLICIES
from proactor_lib.run_folder import RunFolder

TELL_EVERY = 0.2  # seconds between two lines of progress


def evaluate_run(run: RunFolder, dev: bool = False, log: Callable[[str], None] = lambda text: None) -> list[str]:
    """Predictions of every policy in `params.policies` on test, and their results in metrics/; the policies' names.

    `dev`: the policy in focus is asked on dev too, where its threshold is tuned. A policy whose adapter the run does
    not have is left out, with a line to `log`. What an earlier call made is not asked again. Raises UserError for a
    policy that nobody knows, where none is left, and for an endpoint that does not answer, ServerDied if our server
    does not start.
    """
    with PolicySet(run) as roster:
        names = roster.present(run.params.policies, log)
        if not names:
            raise UserError(f"{run.out}: none of the policies {', '.join(run.params.policies)} was trained here")
        for name in names:
            evaluate_policy(EvalSplit(run, TEST), roster, name)
        if dev:
            evaluate_policy(EvalSplit(run, DEV), roster, focus(names))
    load_or_score(run)
    return names


class EvalSplit:
    """A split of a run, as policies are asked about it."""

    def __init__(self, run: RunFolder, split: str = TEST):
        self.run, self.split = run, split

    @cached_property
    def cases(self) -> list[EvalCase]:
        """The dialogues with the turns that are asked."""
        count = self.run.params.evaluation_turns
        return [
            EvalCase(c.dialogue, c.references, c.catalog, spread(len(c.dialogue.turns), count))
            for c in self.run.split(self.split)
        ]

    @property
    def evaluated_turns(self) -> dict[str, tuple[int, ...]]:
        """The turns that are asked, by dialogue."""
        return {c.dialogue.id: c.turns for c in self.cases}

    def made_from(self, policy: str) -> dict:
        """What the policy's predictions depend on in the data: JSON values. Only fixed policies see the references."""
        run = self.run
        files = run.sources(self.split) if policy in FIXED_POLICIES else [run.data / f"{self.split}.jsonl"]
        return {
            "files": [provenance.fingerprint(f) for f in files],
            "catalog": run.catalog.digest,
            "turns": run.params.evaluation_turns,
        }


def spread(turns: int, count: int) -> tuple[int, ...]:
    """`count` evenly spaced turns of 1 to `turns`, the middles of equal parts; all for 0 or where there are no more."""
    if count == 0 or count >= turns:
        return tuple(range(1, turns + 1))
    return tuple(int((i + 0.5) * turns / count) + 1 for i in range(count))


def evaluate_policy(split: EvalSplit, roster: PolicySet, name: str) -> None:
    """Make and keep the predictions that the policy lacks. Raises as `evaluate_run`."""
    log = PredictionLog(folder(split.run, split.split), name, split.made_from(name) | roster.made_from(name))
    if log.complete:
        return
    total = sum(len(c.turns) for c in split.cases)
    told = 0.0

    def on_progress() -> None:
        nonlocal told
        if len(log) == total or time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            progress.report(split.run.out, "evaluate", len(log), total, f"{name}, {split.split}")

    agent = roster.agent(name)
    try:
        run_async(predict(agent, split.cases, log, on_progress))
    except Unanswered as error:
        raise UserError(f"policy {name!r}: {error}; what was answered is kept, the same command goes on") from None
    log.finish()


async def predict(agent: Agent, cases: Sequence[EvalCase], log: PredictionLog, on_progress: Callable[[], None]) -> None:
    """Have the agent follow the cases, `agent.at_once` at a time; each prediction is kept at once."""

    def on_prediction(line) -> None:
        log.add(line)
        on_progress()

    async def follow(case: EvalCase) -> None:
        await agent.follow(case, log.of(case.dialogue.id), on_prediction)

    on_progress()
    try:
        async for _ in in_order(cases, follow, agent.at_once):
            pass
    finally:
        await agent.close()
