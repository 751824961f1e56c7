"""The oracle asked turn by turn [paper]: it sees the whole dialogue, and says what exists at one turn.

What belongs together is ours: an answer goes on with an opportunity of its action that it contradicts in nothing that
is known, that was not ready before it was a candidate again, and that existed at most `GAP` turns before; the union of
the turns is its window. A value's evidence is the first turn whose answer gives it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from proactor_lib.agent import _template, transcript
from proactor_lib.annotate.oracle import MOST, Opportunity, Oracle, object_of, reference_param, value_schema
from proactor_lib.comparison import agreement
from proactor_lib.connection import session
from proactor_lib.endpoint import Answer, Failed, Messages
from proactor_lib.schema import Action, Dialogue

GAP = 3  # turns from one turn of an opportunity to its next at most: an answer may be silent in between


@dataclass(frozen=True)
class TurnOracle(Oracle):
    """Asks once for each turn (and group of actions); the turns of a dialogue are asked at once."""

    async def _about(self, dialogue: Dialogue, actions: Sequence[Action]) -> list[Opportunity] | Failed:
        turns = range(1, len(dialogue.turns) + 1)
        answers = await asyncio.gather(*(self._at(dialogue, actions, turn) for turn in turns))
        if failed := next((a for a in answers if isinstance(a, Failed)), None):
            return failed
        return linked([answer.value for answer in answers])

    async def _at(self, dialogue: Dialogue, actions: Sequence[Action], turn: int) -> Answer | Failed:
        return await self.endpoint.complete_json(
            turn_messages(dialogue, actions, turn),
            turn_schema(actions),
            lambda value: read_turn(value, actions, turn),
            attempts=self.attempts,
            repeat=self.repeat,
            headers=session(dialogue.id),
            **self.sampling,
        )


def turn_messages(dialogue: Dialogue, actions: Sequence[Action], turn: int) -> Messages:
    """Instructions and catalog, then the dialogue, the same for all of its turns, then the turn."""
    turns = len(dialogue.turns)
    user = _template("oracle_turn.user.j2").render(turns=turns, transcript=transcript(dialogue, turns), turn=turn)
    system = _template("oracle_turn.system.j2").render(actions=actions)
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def turn_schema(actions: Sequence[Action]) -> dict[str, Any]:
    """The JSON schema of an answer: `{action: [{"params", "status"}, ...], ...}`, every action there."""

    def item(action: Action) -> dict[str, Any]:
        params = {p.name: {"anyOf": [{"type": "null"}, value_schema(p)]} for p in action.params}
        status = {"type": "string", "enum": ["candidate", "ready"]}
        return object_of({"params": object_of(params), "status": status})

    return object_of({a.name: {"type": "array", "items": item(a), "maxItems": MOST} for a in actions})


def read_turn(answer: dict[str, Any], actions: Sequence[Action], turn: int) -> list[Opportunity]:
    """What exists at the turn.

    Raises ValueError, for the model to read, where an action is ready without a required parameter.
    """
    found = []
    for action in actions:
        for number, item in enumerate(answer[action.name], 1):
            known = {k: value for k, value in item["params"].items() if value is not None}
            ready = item["status"] == "ready"
            if ready and (missing := [name for name in action.required if name not in known]):
                raise ValueError(
                    f"opportunity {number} of {action.name} is ready without its required parameter {missing[0]!r}: it"
                    " is a candidate until that is known"
                )
            params = {k: reference_param(action, k, value, turn) for k, value in known.items()}
            at = frozenset([turn])
            found.append(Opportunity(action.name, params, **({"ready": at} if ready else {"candidate": at})))
    return found


def linked(turns: Sequence[Sequence[Opportunity]]) -> list[Opportunity]:
    """What was said at each turn, as opportunities over turns; what never is ready is left out."""
    found: list[Opportunity] = []
    for at_turn in turns:
        free = set(range(len(found)))
        for item in sorted(at_turn, key=lambda o: -len(o.params)):
            place = max((i for i in free if goes_on(found[i], item)), key=lambda i: _fit(found[i], item), default=None)
            if place is None:
                found.append(item)
            else:
                free.discard(place)
                new = {k: p for k, p in item.params.items() if k not in found[place].params}
                found[place] = replace(
                    found[place],
                    params=found[place].params | new,
                    candidate=found[place].candidate | item.candidate,
                    ready=found[place].ready | item.ready,
                )
    return [o for o in found if o.ready]


def goes_on(before: Opportunity, item: Opportunity) -> bool:
    """Whether what is said at one turn is the opportunity that existed before it."""
    (turn,) = item.turns
    if before.name != item.name or turn - max(before.turns) > GAP or (before.ready and not item.ready):
        return False
    return all(k in item.params and _agree(p, item.params[k]) for k, p in before.params.items())


def _fit(before: Opportunity, item: Opportunity) -> tuple[int, int]:
    return max(before.turns), len(before.params.keys() & item.params.keys())


def _agree(known, said) -> bool:
    return agreement(said.value, known.value, known.match, known.text_threshold) >= 1
