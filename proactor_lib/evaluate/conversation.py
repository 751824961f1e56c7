"""An agent at a conversation that grows turn by turn: what it would do now, against the windows where known."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TypeVar

from proactor_lib.evaluate.agents import Agent, EvalCase, Known, OnPrediction
from proactor_lib.metrics import alignment, matches
from proactor_lib.schema import Catalog, Dialogue, PredictedAction, ReferenceAction, Turn, TurnPrediction

T = TypeVar("T")


class Background:
    """An event loop in a thread: an agent's connections live in it as long as it is watched."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="watch", daemon=True).start()

    def run(self, work: Coroutine[None, None, T]) -> T:
        """What `work` returns; raises what it raises."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class Replayed:
    """An agent that says again what was kept: nothing at turns that were not asked."""

    at_once = 1

    def __init__(self, lines: Sequence[TurnPrediction]):
        self._lines = {(line.dialogue_id, line.turn): line for line in lines}

    async def follow(self, case: EvalCase, known: Known, on_prediction: OnPrediction) -> None:
        """As Agent."""
        for turn in case.turns:
            if turn not in known and (line := self._lines.get((case.dialogue.id, turn))):
                on_prediction(line)

    async def close(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True)
class Judged:
    """An action with what the windows say of it; `verdict` is empty where none are known."""

    action: PredictedAction
    verdict: str


class Conversation:
    """What was said so far, by the people and by the agent."""

    def __init__(self, agent: Agent, catalog: Catalog, background: Background, *, dialogue_id: str = "typed",
                 references: Sequence[ReferenceAction] | None = None, theta: float = 0.75):  # fmt: skip
        """`catalog`: what is shown; `references`: None where nobody knows the windows."""
        self._agent, self._catalog, self._background = agent, catalog, background
        self._id, self.references, self._theta = dialogue_id, references, theta
        self.turns: list[Turn] = []
        self.said: dict[int, TurnPrediction] = {}

    @property
    def dialogue(self) -> Dialogue:
        """The conversation so far. It has turns once one was heard."""
        return Dialogue(id=self._id, domain=self._catalog.domain, turns=tuple(self.turns))

    def hear(self, turn: Turn) -> list[Judged]:
        """One more turn; what the agent would prepare or trigger now. Raises Unanswered."""
        self.turns.append(turn)
        now = len(self.turns)
        case = EvalCase(self.dialogue, tuple(self.references or ()), self._catalog, tuple(range(1, now + 1)))
        known = {t: self.said.get(t) or TurnPrediction(dialogue_id=self._id, turn=t) for t in range(1, now)}
        self._background.run(self._agent.follow(case, known, lambda line: self.said.update({line.turn: line})))
        return self.judged(now)

    def judged(self, turn: int) -> list[Judged]:
        """What was said at `turn`, with its verdicts."""
        line = self.said.get(turn)
        if self.references is None:
            return [Judged(a, "") for a in line.actions] if line else []
        return [Judged(a, verdict(a, turn, self.references, self._theta)) for a in line.actions] if line else []

    def unsaid(self, turn: int) -> list[ReferenceAction]:
        """References that could be triggered at `turn` and were not, by any fitting action; none where nobody asked."""
        line = self.said.get(turn)
        if line is None:
            return []
        said = [a for a in line.actions if a.status == "ready"]
        return [
            r for r in self.references or ()
            if r.window.ready <= turn <= r.window.close
            and not any(matches(alignment(a, r, turn), self._theta) for a in said)
        ]  # fmt: skip


def verdict(action: PredictedAction, turn: int, references: Sequence[ReferenceAction], theta: float) -> str:
    """One clause: in its window, early, late, with other parameters, or not needed."""
    own = [r for r in references if r.name == action.name]
    if not own:
        return "not needed"
    fitting = [r for r in own if matches(alignment(action, r, turn), theta)]
    nearest = min(fitting or own, key=lambda r: max(r.window.open - turn, turn - r.window.close, 0))
    window = nearest.window
    if not fitting:
        return f"not the parameters that are needed (window {span(nearest)})"
    if turn < window.open:
        return f"early: its window is {span(nearest)}"
    if turn > window.close:
        return f"late: its window was {span(nearest)}"
    return f"in its window {span(nearest)}"


def span(reference: ReferenceAction) -> str:
    """A window in words: `4-9, ready from 6`."""
    w = reference.window
    return f"{w.open}-{w.close}, ready from {w.ready}"
