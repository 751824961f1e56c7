"""The objects of the method. Every other module imports these; this file imports none of them.

Turns count from 1. Parameter values are strings: what a dialogue says, not what a program would parse from it.
"""

import datetime
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from operator import not_
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Status = Literal["candidate", "ready"]


def _unseeded(sampling: dict[str, Any]) -> dict[str, Any]:
    if "seed" in sampling:
        raise ValueError("no request may carry a seed: it kills a CPU vLLM engine")
    return sampling


Sampling = Annotated[dict[str, Any], AfterValidator(_unseeded)]  # fields of a request, as its endpoint knows them


def _as_text(value):
    """JSON values as text, so that `2`, `"2"` and `true` are one thing in files from anywhere; a list as its JSON."""
    if isinstance(value, list | dict):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return str(value) if isinstance(value, bool | int | float) else value


def _without_blanks(params: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in params.items() if value.strip()}


Value = Annotated[str, BeforeValidator(_as_text)]
# Values by parameter. An empty one is absent: nobody says it, and an agent cannot write it.
ParamValues = Annotated[dict[str, Value], AfterValidator(_without_blanks)]
TurnIndex = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
LocalPath = Annotated[Path, AfterValidator(Path.expanduser)]  # `~` is the home folder
Form = Literal["schema", "object", "text"]  # what an endpoint can hold its JSON answers to
# How a parameter's values are compared (comparison.py): by the rule of their type, by similarity, or not at all.
Match = Literal["exact", "text", "any"]
Headers = dict[str, str]  # of every request to an endpoint; a value `$NAME` is that environment variable's
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Record(BaseModel):
    """Immutable; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Parameter(Record):
    """One parameter of an action: its type signature and where its value comes from."""

    name: str  # a part of an object is `object.part`
    type: str = "string"
    description: str = ""
    required: bool = False
    values: tuple[Value, ...] = ()  # allowed values; empty: any
    keys: tuple[str, ...] = ()  # of an object, or of the objects in a list; empty: not known
    source: Literal["user", "agent", "system", "derived"] = "user"
    match: Match = "exact"
    text_threshold: Share = 0.6  # similarity from which two free texts agree
    # The keys that lead to its value in a call, where its name split at the dots is not these; left out where it is.
    path: Annotated[tuple[str, ...], Field(exclude_if=not_)] = ()


class Action(Record):
    """What the assistant could prepare or trigger."""

    name: str
    description: str = ""
    group: str = ""  # its place in the ontology
    effect: Literal["read", "write"] = "write"
    preconditions: tuple[str, ...] = ()  # names of actions that must come first
    params: tuple[Parameter, ...] = ()

    @cached_property
    def comparisons(self) -> dict[str, dict[str, Any]]:
        """By parameter, `match` and `text_threshold` of those that are not compared exactly."""
        compared = [p for p in self.params if p.match != "exact"]
        return {p.name: {"match": p.match, "text_threshold": p.text_threshold} for p in compared}

    @cached_property
    def required(self) -> tuple[str, ...]:
        """Names of the required parameters, in order."""
        return tuple(p.name for p in self.params if p.required)


class Catalog(Record):
    """The actions of a domain. Names are unique and preconditions name actions of the catalog (ValueError if not)."""

    domain: str
    version: str = "1"
    actions: tuple[Action, ...]

    @model_validator(mode="after")
    def _consistent(self):
        names = [a.name for a in self.actions]
        if len(set(names)) < len(names):
            raise ValueError(f"two actions share the name {next(n for n in names if names.count(n) > 1)!r}")
        for action in self.actions:
            if unknown := set(action.preconditions) - set(names):
                raise ValueError(f"action {action.name!r} has the unknown precondition {sorted(unknown)[0]!r}")
        return self

    @cached_property
    def by_name(self) -> dict[str, Action]:
        """Actions by name."""
        return {a.name: a for a in self.actions}

    @cached_property
    def wording(self) -> tuple[tuple[str, str], ...]:
        """Each action's name, and the text that describes it and names its parameters."""
        return tuple((a.name, " ".join([a.description, *(p.name for p in a.params)])) for a in self.actions)

    @cached_property
    def digest(self) -> str:
        """12 hex digits that change with the content."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:12]

    def subset(self, names: tuple[str, ...]) -> "Catalog":
        """The catalog of these actions only, in catalog order; all of it when `names` is empty."""
        if not names:
            return self
        kept = tuple(a for a in self.actions if a.name in set(names))
        inside = {a.name for a in kept}
        return Catalog(
            domain=self.domain,
            version=self.version,
            actions=tuple(
                a.model_copy(update={"preconditions": tuple(p for p in a.preconditions if p in inside)}) for a in kept
            ),
        )


class Turn(Record):
    """One utterance. Its index is its place in the dialogue, from 1."""

    speaker: str
    text: str
    start: NonNegative | None = None  # seconds into the dialogue; None: the source has no time stamps
    end: NonNegative | None = None  # seconds; None: only its start is known

    @property
    def moment(self) -> float | None:
        """When an agent that hears it can act, seconds into the dialogue: at its end, else at its start [ours]."""
        return self.start if self.end is None else self.end


class ObservedAction(Record):
    """A logged trigger. `turn` is the last spoken turn before it was executed."""

    turn: TurnIndex
    name: str
    params: ParamValues = {}
    evidence: dict[str, TurnIndex] = {}  # where the corpus's own state first holds each value; empty: it has no state
    spellings: dict[str, tuple[str, ...]] = {}  # other ways in which a value was named, where the corpus says so
    intent_turn: TurnIndex | None = None  # where the corpus's own state first shows the intent; None: it has no state
    time: NonNegative | None = None  # its true moment, seconds into the dialogue; None: its turn's


class Dialogue(Record):
    """A conversation as an agent sees it, and beside it what was logged (None: this corpus logs no triggers)."""

    id: str
    domain: str
    turns: tuple[Turn, ...] = Field(min_length=1)
    observed: tuple[ObservedAction, ...] | None = None
    actions: tuple[str, ...] = ()  # the catalog's actions that this dialogue is shown; empty: all
    services: tuple[str, ...] = ()  # the groups of actions that it is about, where the corpus says so; not shown
    date: datetime.date | None = None  # the day on which it takes place; None: not known

    @model_validator(mode="after")
    def _inside(self):
        for o in self.observed or ():
            if o.turn > len(self.turns):
                raise ValueError(
                    f"observed action {o.name!r} is at turn {o.turn}, the dialogue has {len(self.turns)} turns"
                )
        return self


class Window(Record):
    """1 <= open <= ready <= close: anticipated, executable, moot after."""

    open: TurnIndex
    ready: TurnIndex
    close: TurnIndex

    @model_validator(mode="after")
    def _ordered(self):
        if not self.open <= self.ready <= self.close:
            raise ValueError(f"a window needs open <= ready <= close, got {self.open}, {self.ready}, {self.close}")
        return self

    def covers(self, turn: int) -> bool:
        """Whether `turn` lies in the reference coverage [open, close]."""
        return self.open <= turn <= self.close


class ReferenceParam(Record):
    """A value, the first turn that gives evidence for it, and how another value is compared with it.

    today: of a value that is a day, the dialogue's day, where it is known (`days`). spellings: other ways to write the
    value, each of which is as right (`SFO` for `San Francisco`).
    """

    value: Value
    turn: TurnIndex
    match: Match = "exact"
    text_threshold: Share = 0.6
    today: datetime.date | None = None
    spellings: tuple[str, ...] = ()


class ReferenceAction(Record):
    """An action that would help, its parameters, and its window of turns."""

    id: str
    name: str
    params: dict[str, ReferenceParam] = {}
    window: Window
    observed_turn: TurnIndex | None = None
    observed_time: NonNegative | None = None  # seconds into the dialogue; None: the observed turn's

    def values(self, known_by: int | None = None) -> dict[str, str]:
        """Parameter values, but for empty ones; with `known_by`, those whose evidence turn is at most that turn."""
        known = {k: p.value for k, p in self.params.items() if known_by is None or p.turn <= known_by}
        return _without_blanks(known)


class DialogueReferences(Record):
    """A line of a references file."""

    dialogue_id: str
    references: tuple[ReferenceAction, ...] = ()


@dataclass(frozen=True)
class Case:
    """A dialogue, its references, and the catalog that it is shown: agents, rewards and judges see no other actions."""

    dialogue: Dialogue
    references: tuple[ReferenceAction, ...]
    catalog: Catalog

    @property
    def line(self) -> DialogueReferences:
        """The references as a line of a references file."""
        return DialogueReferences(dialogue_id=self.dialogue.id, references=self.references)


def cases(dialogues: Iterable[Dialogue], lines: Iterable[DialogueReferences], catalog: Catalog) -> tuple[Case, ...]:
    """Each dialogue with its line's references (without a line it has none) and its part of the catalog, in order."""
    references = {line.dialogue_id: line.references for line in lines}
    shown: dict[tuple[str, ...], Catalog] = {}
    for dialogue in (dialogues := tuple(dialogues)):
        if dialogue.actions not in shown:
            shown[dialogue.actions] = catalog.subset(dialogue.actions)
    return tuple(Case(d, references.get(d.id, ()), shown[d.actions]) for d in dialogues)


class PredictedAction(Record):
    """What an agent would prepare (`candidate`) or trigger (`ready`) now."""

    name: str
    params: ParamValues = {}
    status: Status = "ready"
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None  # that it is ready, where a policy has one


class TurnPrediction(Record):
    """A line of a predictions file: an agent's output at one turn. A turn that a file leaves out is silence."""

    dialogue_id: str
    turn: TurnIndex
    actions: tuple[PredictedAction, ...] = ()
    text: str | None = None  # the raw output
    unreadable: bool = False  # the parser could not read the output (or a part of it)
    reason: str | None = None  # why an endpoint rejected the request: there is no output
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None
