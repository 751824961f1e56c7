"""The policies of a run on its held-out dialogues: predictions, then tables. A killed evaluation goes on."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from proactor_lib import events, progress
from proactor_lib.annotate.oracle_run import in_order
from proactor_lib.concurrency import run_async
from proactor_lib.errors import UserError
from proactor_lib.evaluate.agents import Agent, EvalCase, Unanswered
from proactor_lib.evaluate.policy_set import SFT, PolicySet
from proactor_lib.evaluate.predictions import DEV, TEST, PredictionLog, folder
from proactor_lib.evaluate.readiness import write_tuned
from proactor_lib.evaluate.results import focus, load_or_score
from proactor_lib.evaluate.splits import EvalSplit
from proactor_lib.policies import untuned
from proactor_lib.run_folder import RunFolder

if TYPE_CHECKING:
    from proactor_lib.artf.serving.server import Server

logger = logging.getLogger(__name__)
TELL_EVERY = 0.2  # seconds between two lines of progress


def evaluate_run(run: RunFolder, dev: bool = False, log: Callable[[str], None] = lambda text: None) -> list[str]:
    """Predictions of every policy in `params.policies` on test, and their results in metrics/; the policies' names.

    `dev`: the policy in focus is asked on dev too, where its threshold is tuned, and where several that were only
    fine-tuned are compared with it, these, for dev says which of them is the best. A policy whose adapter the run does
    not have is left out, with a line to `log`. What an earlier call made is not asked again. Raises UserError for a
    policy that nobody knows, where none is left, and for an endpoint that does not answer, ServerDied if our server
    does not start.
    """
    with PolicySet(run) as roster:
        names = roster.present(run.params.policies, log)
        if not names:
            raise UserError(f"{run.out}: none of the policies {', '.join(run.params.policies)} was trained here")
        _ask(run, roster, names, dev)
    events.emit(events.Evaluated(run.out, load_or_score(run).as_json()))
    return names


def ask_on(run: RunFolder, server: "Server") -> None:
    """Ask all that needs our own server, on dev too, of one that is up: `evaluate_run` then finds it."""
    with PolicySet(run, server=server) as roster:
        names = [name for name in roster.present(run.params.policies, logger.info) if roster.is_ours(name)]
        _ask(run, roster, names, dev=True)


def _ask(run: RunFolder, roster: PolicySet, names: Sequence[str], dev: bool) -> None:
    for name in names:
        _evaluate(run, roster, name)
    for name in _asked_on_dev(names) if dev else ():
        evaluate_policy(EvalSplit(run, DEV), roster, name)


def _evaluate(run: RunFolder, roster: PolicySet, name: str) -> None:
    """On test; a tuned policy says what the one that it is made of says there and, to tune it, on dev."""
    own = untuned(name)
    for split in (TEST, DEV) if own else (TEST,):
        evaluate_policy(EvalSplit(run, split), roster, own or name)
    if own:
        write_tuned(run, own)


def _asked_on_dev(names: Sequence[str]) -> list[str]:
    opponents = [name for name in names if name.startswith(SFT)]
    asked = {focus(names), *(opponents if len(opponents) > 1 else ())}
    return [name for name in names if name in asked and untuned(name) is None]


def evaluate_policy(split: EvalSplit, roster: PolicySet, name: str) -> None:
    """Make and keep the predictions that the policy lacks, also of dialogues that came to the split later.

    Raises as `evaluate_run`.
    """
    log = PredictionLog(folder(split.run, split.split), name, split.made_from(name) | roster.made_from(name))
    cases = [c for c in split.cases if log.missing(c.dialogue.id, c.turns)]
    if log.complete and not cases:
        return
    log.reopen()
    total = len(log) + sum(len(log.missing(c.dialogue.id, c.turns)) for c in cases)
    told = 0.0

    def on_progress() -> None:
        nonlocal told
        if len(log) == total or time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            progress.report(split.run.out, "evaluate", len(log), total, f"{name}, {split.split}")

    agent = roster.agent(name)
    try:
        run_async(predict(agent, cases, log, on_progress))
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
