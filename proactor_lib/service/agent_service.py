"""An agent at many conversations: each turn asked once, exactly as in evaluation, and nothing executed twice."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from proactor_lib.evaluate.agents import Agent, EvalCase, Unanswered
from proactor_lib.metrics.alignment import PredictionKey
from proactor_lib.metrics.thresholds import fired_from, persistence
from proactor_lib.schema import Catalog, Dialogue, TurnPrediction
from proactor_lib.service.errors import ApiError
from proactor_lib.service.memory import Answer, Memory, Talk


@dataclass(frozen=True)
class Readiness:
    """When an action fires. `threshold`: a confidence in [0, 1], or None for what the policy says.

    `own`: by the policy's own confidence; else by its persistence, as in tuning.
    """

    threshold: float | None = None
    own: bool = True

    def applied(self, said: Sequence[TurnPrediction]) -> TurnPrediction:
        """The last prediction, with what fires; `said`: all of the conversation's, in order."""
        if self.threshold is None:
            return said[-1]
        if not self.own:
            said = persistence(said, evaluated_turns={said[-1].dialogue_id: tuple(line.turn for line in said)})
        return fired_from(said[-1:], self.threshold)[0]


class AgentService:
    """Use it in one event loop. `catalog`: what is shown where a request names no tools."""

    def __init__(self, agent: Agent, catalog: Catalog, readiness: Readiness = Readiness(), remembered: int = 1000):
        self._agent, self.catalog, self._readiness = agent, catalog, readiness
        self.memory = Memory(remembered)

    async def answer(
        self, talk: Talk, turn: int, catalog: Catalog, elsewhere: Collection[PredictionKey] = ()
    ) -> Answer:
        """What is to be done at `turn` of the conversation; the same again where it was asked with that catalog.

        ApiError: the conversation is too long for the model, or rejected by its endpoint (400), or the model does not
        answer (503).
        """
        async with talk.lock:
            if turn > len(talk.turns):  # while this request waited, the one that had added the turn failed
                raise ApiError(503, f"turn {turn} was taken back, for it was not answered", "model_unavailable")
            if known := talk.answers.get((turn, catalog.digest)):
                return known
            line = await self._ask(talk, turn, catalog)
            if line.unreadable and line.text is None:
                raise _not_taken(line)
            talk.said[turn] = line
            return talk.act(self._fired(talk, turn), catalog, elsewhere)

    async def _ask(self, talk: Talk, turn: int, catalog: Catalog) -> TurnPrediction:
        """The agent sees the turns so far; those at which nobody asked are silence."""
        turns = tuple(talk.turns[:turn])
        case = EvalCase(Dialogue(id=talk.id, domain=catalog.domain, turns=turns), (), catalog,
                        tuple(range(1, turn + 1)))  # fmt: skip
        known = {t: talk.said.get(t) or TurnPrediction(dialogue_id=talk.id, turn=t) for t in range(1, turn)}
        said = {turn: TurnPrediction(dialogue_id=talk.id, turn=turn)}  # an agent that has nothing to say
        try:
            await self._agent.follow(case, known, lambda line: said.update({line.turn: line}))
        except Unanswered as error:
            raise ApiError(503, str(error), "model_unavailable") from None
        return said[turn]

    def _fired(self, talk: Talk, turn: int) -> TurnPrediction:
        return self._readiness.applied([talk.said[t] for t in sorted(talk.said) if t <= turn])

    async def close(self) -> None:
        """Let go of the agent's connections."""
        await self._agent.close()


def _not_taken(line: TurnPrediction) -> ApiError:
    """Too long for a policy of ours, which alone knows by how much; or whatever an endpoint says."""
    if line.prompt_tokens is None:
        sentence = f"the model's endpoint rejects the conversation at turn {line.turn}: {line.reason}"
        return ApiError(400, sentence, "request_rejected", "messages")
    size = f"({line.prompt_tokens} tokens)"
    sentence = f"the conversation is too long for the model at turn {line.turn} {size}: begin another one"
    return ApiError(400, sentence, "context_length_exceeded", "messages")
