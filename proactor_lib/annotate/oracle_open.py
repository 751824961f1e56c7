"""`evidence+oracle`: `ready` and `close` by the log, `open` by an oracle that is asked for nothing else [ours].

The log knows when everything required was known and when the action was triggered; when its need showed first it does
not know. An oracle that sees the dialogue and the triggers says it, within what the log leaves room for: after the last
trigger of the same action, up to this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from proactor_lib.agent import _template, transcript
from proactor_lib.annotate import evidence
from proactor_lib.annotate.oracle import object_of
from proactor_lib.connection import session
from proactor_lib.endpoint import Endpoint, Failed, Messages
from proactor_lib.schema import Action, Catalog, Dialogue, DialogueReferences

MOST = 40  # triggers that one answer is about


@dataclass(frozen=True)
class Question:
    """A logged trigger, and the turns at which its need may have shown first."""

    id: str
    name: str
    description: str
    params: dict[str, str]
    first: int
    last: int


@dataclass(frozen=True)
class OpenOracle:
    """Annotates dialogues that have a log through `endpoint`; `repeat` and `sampling` as `Oracle`."""

    endpoint: Endpoint
    catalog: Catalog
    attempts: int = 3
    repeat: int = 0
    sampling: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.0, "max_tokens": 4096})

    async def annotate(self, dialogue: Dialogue) -> DialogueReferences | Failed:
        """The windows of the log's triggers. UserError for a dialogue without a log."""
        evidence.require_log(dialogue)
        asked = [q for q in questions(dialogue, self.catalog) if q.first < q.last]
        opened: dict[str, int] = {}
        for start in range(0, len(asked), MOST):
            some = asked[start : start + MOST]
            answer = await self.endpoint.complete_json(
                open_messages(dialogue, some),
                open_schema(some),
                dict,
                attempts=self.attempts,
                repeat=self.repeat,
                headers=session(dialogue.id),
                **self.sampling,
            )
            if isinstance(answer, Failed):
                return answer
            opened |= answer.value
        return evidence.annotate(dialogue, self.catalog, opened=opened)


def questions(dialogue: Dialogue, catalog: Catalog) -> list[Question]:
    """One for each logged trigger, with the ids and in the order of the evidence annotator."""
    ran: dict[str, int] = {}
    found = []
    for number, o in enumerate(evidence.ordered(dialogue), start=1):
        action = catalog.by_name.get(o.name) or Action(name=o.name)
        first = min(ran.get(o.name, 0) + 1, o.turn)
        found.append(Question(f"r{number}", o.name, action.description, o.params, first, o.turn))
        ran[o.name] = o.turn
    return found


def open_messages(dialogue: Dialogue, asked: Sequence[Question]) -> Messages:
    """The instructions, then the dialogue and its triggers."""
    turns = len(dialogue.turns)
    user = _template("oracle_open.user.j2").render(turns=turns, transcript=transcript(dialogue, turns), questions=asked)
    return [
        {"role": "system", "content": _template("oracle_open.system.j2").render()},
        {"role": "user", "content": user},
    ]


def open_schema(asked: Sequence[Question]) -> dict[str, Any]:
    """The JSON schema of an answer: `{id: turn, ...}`."""
    return object_of({q.id: {"type": "integer", "minimum": q.first, "maximum": q.last} for q in asked})
