"""The oracle annotator [paper]: a language model that sees the whole dialogue says at which turns opportunities exist.

For every action it lists opportunities, each with its candidate turns, its ready turns and the turn that gives
evidence for each value; the union of the turns is the window [paper], the first ready turn its `ready`. The answer's
schema leaves no room for a window outside the dialogue, an unknown action or an unknown parameter. A long dialogue is
judged part by part, each turn once, with turns on both sides as context; what is open at a border is named in the
next part's prompt, and the answer says what goes on. Where an answer does not fit into the token limit the parts are
halved; where a catalog does not fit into an answer's schema it is asked about in groups of actions [ours]. That a
whole dialogue is asked about at once is ours too: the paper asks turn by turn (`oracle_turns`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from proactor_lib.agent import _template, turn_line
from proactor_lib.comparison import counted_from
from proactor_lib.connection import session
from proactor_lib.endpoint import Endpoint, Failed, Messages
from proactor_lib.schema import (
    Action,
    Catalog,
    Dialogue,
    DialogueReferences,
    Parameter,
    ReferenceAction,
    ReferenceParam,
    Window,
)

# A value without quotes, backslashes and line breaks. Hosted models know `pattern` but refuse `maxLength`; xgrammar
# fails to compile repeats above 128.
VALUE = {"type": "string", "pattern": r'^[^"\\\x00-\x1f]{1,100}$'}
TEXT = {"type": "string", "pattern": r'^[^"\\\x00-\x1f]+$'}  # of any length: a value that is compared by similarity
MOST_ITEMS = 20  # of a list as a value
MOST = 8  # opportunities of one action in one answer
FEWEST = 8  # turns of the smallest part that is asked about where answers do not fit


class Limits(NamedTuple):
    """What a schema may hold: properties, enum values, and characters of both."""

    properties: int
    values: int
    characters: int


LIMITS = Limits(5000, 1000, 120_000)  # OpenAI's for structured outputs, the narrowest that is published


@dataclass(frozen=True)
class Part:
    """Turns to be judged, and turns that are shown with them, as ranges from 1."""

    judged: range
    shown: range
    last: bool

    def goes_on(self, opportunity: "Opportunity") -> bool:
        """Whether it may have turns in the next part: it exists at this part's last turn."""
        return not self.last and self.judged[-1] in opportunity.turns


@dataclass(frozen=True)
class Opportunity:
    """What an answer says of one need: its parameters and its turns."""

    name: str
    params: dict[str, ReferenceParam] = field(default_factory=dict)
    candidate: frozenset[int] = frozenset()
    ready: frozenset[int] = frozenset()

    @property
    def turns(self) -> frozenset[int]:
        """All turns at which it exists."""
        return self.candidate | self.ready

    def window(self) -> Window:
        """The union of its turns; it must have a ready turn."""
        return Window(open=min(self.turns), ready=min(self.ready), close=max(self.turns))

    def continued(self, later: "Opportunity", required: Sequence[str]) -> "Opportunity":
        """With what a later part adds. A value that stays keeps its first evidence; a changed one undoes readiness."""
        changed = {k: p for k, p in later.params.items() if k not in self.params or self.params[k].value != p.value}
        known = max((p.turn for k, p in changed.items() if k in required), default=0)
        undone = frozenset(t for t in self.ready if t < known)
        return Opportunity(
            name=self.name,
            params=self.params | changed,
            candidate=self.candidate | undone | later.candidate,
            ready=(self.ready - undone) | later.ready,
        )


@dataclass(frozen=True)
class Oracle:
    """Annotates dialogues through `endpoint`. Another `repeat` asks all again, for agreement between repeated runs."""

    endpoint: Endpoint
    catalog: Catalog
    judged: int = 60  # turns of a part
    overlap: int = 15  # turns shown on each side of a part
    attempts: int = 3  # answers asked for before a dialogue fails
    repeat: int = 0
    actions: int = 0  # that one answer is about at most; 0: as many as `LIMITS` lets a schema hold
    sampling: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.0, "max_tokens": 4096})

    async def annotate(self, dialogue: Dialogue) -> DialogueReferences | Failed:
        """The dialogue's reference windows, or why there are none. Logged actions are not shown to the model."""
        actions = self.catalog.subset(dialogue.actions).actions
        groups = [actions] if self.endpoint.form != "schema" else fitting(actions, LIMITS)
        if self.actions:
            groups = [group[i : i + self.actions] for group in groups for i in range(0, len(group), self.actions)]
        done: list[Opportunity] = []
        while groups:
            found = await self._about(dialogue, groups[0])
            if isinstance(found, Failed) and found.kind == "rejected" and _of_schema(found) and len(groups[0]) > 1:
                half = len(groups[0]) // 2
                groups = [groups[0][:half], groups[0][half:], *groups[1:]]
            elif isinstance(found, Failed):
                return found
            else:
                done += found
                groups = groups[1:]
        return references(dialogue, done)

    async def _about(self, dialogue: Dialogue, actions: Sequence[Action]) -> list[Opportunity] | Failed:
        """What all parts say of some actions; parts are halved while an answer does not fit."""
        judged = min(self.judged, len(dialogue.turns))
        while True:
            found = await self._annotate(dialogue, actions, judged)
            if not (isinstance(found, Failed) and found.cut) or judged <= FEWEST:
                return found
            judged = max(FEWEST, judged // 2)

    async def _annotate(self, dialogue: Dialogue, actions: Sequence[Action], judged: int) -> list[Opportunity] | Failed:
        done: list[Opportunity] = []
        carried: list[Opportunity] = []
        for part in parts(len(dialogue.turns), judged, self.overlap):
            found = await self._judge(dialogue, actions, part, carried)
            if isinstance(found, Failed):
                return found
            carried = [o for o in found if part.goes_on(o)]
            done += [o for o in found if o.ready and not part.goes_on(o)]
        return done

    async def _judge(
        self, dialogue: Dialogue, actions: Sequence[Action], part: Part, carried: list[Opportunity]
    ) -> list[Opportunity] | Failed:
        answer = await self.endpoint.complete_json(
            messages(dialogue, actions, part, carried),
            answer_schema(actions, part, carried),
            lambda value: read(value, actions, part, carried),
            attempts=self.attempts,
            repeat=self.repeat,
            headers=session(dialogue.id),
            **self.sampling,
        )
        return answer if isinstance(answer, Failed) else answer.value


def fitting(actions: Sequence[Action], limits: Limits) -> list[Sequence[Action]]:
    """The actions in groups, in order, each of which an answer's schema may hold; an action never is cut in two."""
    groups, sums = [[]], Limits(0, 0, 0)
    for action in actions:
        values = [v for p in action.params for v in p.values]
        names = [action.name, *(p.name for p in action.params)]
        # "params", "candidate", "ready", and "value" and "turn" of each parameter
        inner = [key for p in action.params for key in (p.keys or (("key", "value") if p.type == "object" else ()))]
        names += inner
        own = Limits(4 + 3 * len(action.params) + len(inner), len(values), sum(map(len, [*names, *values])))
        if groups[-1] and any(a + b > most for a, b, most in zip(sums, own, limits, strict=True)):
            groups, sums = [*groups, []], Limits(0, 0, 0)
        groups[-1].append(action)
        sums = Limits(*(a + b for a, b in zip(sums, own, strict=True)))
    return groups


def _of_schema(failed: Failed) -> bool:
    """Whether a request was rejected for what its schema asks."""
    return bool(re.search(r"schema|response_format|too many states|properties|enum|grammar", failed.reason, re.I))


def parts(turns: int, judged: int, overlap: int) -> list[Part]:
    """The dialogue's turns cut into parts of at most about `judged` turns, all of one size give or take one."""
    count = -(-turns // judged)
    borders = [round(i * turns / count) for i in range(count + 1)]
    return [
        Part(
            judged=range(a + 1, b + 1),
            shown=range(max(1, a + 1 - overlap), min(turns, b + overlap) + 1),
            last=b == turns,
        )
        for a, b in zip(borders, borders[1:], strict=False)
    ]


def messages(dialogue: Dialogue, actions: Sequence[Action], part: Part, carried: Sequence[Opportunity]) -> Messages:
    """The request's messages: instructions and catalog, the same for all dialogues of it, then the part's turns."""
    user = _template("oracle.user.j2").render(
        turns=len(dialogue.turns),
        shown=part.shown,
        judged=part.judged,
        carried=carried,
        transcript="".join(turn_line(i, dialogue.turns[i - 1]) for i in part.shown),
    )
    system = _template("oracle.system.j2").render(actions=actions)
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def answer_schema(actions: Sequence[Action], part: Part, carried: Sequence[Opportunity]) -> dict[str, Any]:
    """The JSON schema of an answer: `{action: [{"params", "candidate", "ready"}, ...], ...}`, every action there.

    With opportunities carried over from the part before, an item of their action also has "continues": the number of
    the one that it continues, or 0.
    """
    numbers = {a.name: [0] + [i for i, o in enumerate(carried, 1) if o.name == a.name] for a in actions}
    whole = part.last and not carried and part.judged[0] == 1
    items = {a.name: _item(a, part, numbers[a.name], fewest_ready=int(whole)) for a in actions}
    return object_of({name: {"type": "array", "items": item, "maxItems": MOST} for name, item in items.items()})


def _item(action: Action, part: Part, numbers: list[int], fewest_ready: int) -> dict[str, Any]:
    judged = {"type": "integer", "minimum": part.judged[0], "maximum": part.judged[-1]}
    turns = {"type": "array", "items": judged, "maxItems": len(part.judged)}
    seen = {"type": "integer", "minimum": 1, "maximum": part.shown[-1]}
    params = {
        p.name: {
            "anyOf": [
                {"type": "null"},
                object_of({"value": value_schema(p), "turn": seen}),
            ]
        }
        for p in action.params
    }
    continues = {"continues": {"type": "integer", "enum": numbers}} if len(numbers) > 1 else {}
    ready = turns | ({"minItems": fewest_ready} if fewest_ready else {})
    return object_of({**continues, "params": object_of(params), "candidate": turns, "ready": ready})


def value_schema(p: Parameter) -> dict[str, Any]:
    """What an answer gives as the parameter's value; an object of unknown keys is a list of its `{key, value}`."""
    if p.values:
        return {"type": "string", "enum": list(p.values)}
    if p.match != "exact" and p.type not in ("array", "object"):
        return TEXT
    inner = object_of({key: {"anyOf": [{"type": "null"}, VALUE]} for key in p.keys}) if p.keys else VALUE
    if p.type == "array":
        return {"type": "array", "items": inner, "maxItems": MOST_ITEMS}
    if p.type == "object" and not p.keys:
        return {"type": "array", "items": object_of({"key": VALUE, "value": VALUE}), "maxItems": MOST_ITEMS}
    return inner


def plain_value(value: Any, p: Parameter) -> Any:
    """An answer's value as JSON: objects without what is null, `{key, value}` pairs as the object that they are."""
    if p.type == "object" and isinstance(value, list):
        return {pair["key"]: pair["value"] for pair in value}
    if isinstance(value, dict):
        return {key: inner for key, inner in value.items() if inner is not None}
    return [plain_value(item, p) for item in value] if isinstance(value, list) else value


def object_of(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has all of these properties and no others."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def read(
    answer: dict[str, Any], actions: Sequence[Action], part: Part, carried: Sequence[Opportunity]
) -> list[Opportunity]:
    """The opportunities carried over, with what the answer adds, then its new ones.

    Raises ValueError, for the model to read, where an opportunity has no ready turn and cannot get one in a later part,
    or is ready before the evidence for a required parameter.
    """
    found = list(carried)
    for action in actions:
        for number, item in enumerate(answer[action.name], 1):
            fresh, place = _opportunity(action, item), int(item.get("continues", 0))  # to a schema 1.0 is one, too
            whole = carried[place - 1].continued(fresh, action.required) if place else fresh
            _accept(whole, action, part, f"opportunity {number} of {action.name}")
            if place:
                found[place - 1] = found[place - 1].continued(fresh, action.required)
            else:
                found.append(whole)
    return found


def _opportunity(action: Action, item: dict[str, Any]) -> Opportunity:
    ready = frozenset(item["ready"])
    known = {k: p for k, p in item["params"].items() if p is not None}
    params = {k: reference_param(action, k, p["value"], p["turn"]) for k, p in known.items()}
    return Opportunity(action.name, params, candidate=frozenset(item["candidate"]) - ready, ready=ready)


def reference_param(action: Action, name: str, value: Any, turn: int) -> ReferenceParam:
    """An answer's value, with the way in which the action's parameter is compared."""
    parameter = next(p for p in action.params if p.name == name)
    return ReferenceParam(value=plain_value(value, parameter), turn=turn, **action.comparisons.get(name, {}))


def _accept(o: Opportunity, action: Action, part: Part, label: str) -> None:
    if not o.ready and not part.goes_on(o):
        raise ValueError(f"{label} has no ready turn: give those at which the action can run, or leave it out")
    for name in action.required:
        if o.ready and name in o.params and o.params[name].turn > min(o.ready):
            raise ValueError(
                f"{label} is ready at turn {min(o.ready)}, but the evidence for its required parameter {name!r} is at"
                f" turn {o.params[name].turn}: it is a candidate until then"
            )


def references(dialogue: Dialogue, found: Sequence[Opportunity]) -> DialogueReferences:
    """Opportunities as references, in the order of their windows."""
    ordered = sorted(((o.window(), o) for o in found), key=lambda pair: tuple(pair[0].model_dump().values()))
    return DialogueReferences(
        dialogue_id=dialogue.id,
        references=tuple(
            ReferenceAction(id=f"r{i}", name=o.name, params=_with_days(o.params, dialogue), window=window)
            for i, (window, o) in enumerate(ordered, 1)
        ),
    )


def _with_days(params: dict[str, ReferenceParam], dialogue: Dialogue) -> dict[str, ReferenceParam]:
    return {k: p.model_copy(update=counted_from(p.value, dialogue.date)) for k, p in params.items()}
