"""Simulated calls between a borrower and a loan agent, with the truth about every window kept apart. [ours]

The paper's Home Loan corpus is proprietary; this one has its shape: mortgage consulting, 30 to 50 turns. A call is a
sequence of topics and small talk. A topic is one action: the need, the values (asked for one by one, or said at once),
sometimes a correction, sometimes a wait, then the trigger, after which the agent says that it is done. Wishes that are
withdrawn again have no reference: with hindsight nobody needed them; the borrower words them with doubt.
What can be said stands in `homeloan.yaml`.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from itertools import count, islice, pairwise

from proactor_lib.errors import UserError
from proactor_lib.schema import (
    Action,
    Catalog,
    Dialogue,
    DialogueReferences,
    ObservedAction,
    Parameter,
    ReferenceAction,
    ReferenceParam,
    Turn,
    Window,
)
from proactor_lib.values import normalise
from proactor_lib.yaml_text import read_yaml

SIZES = {"train": 774, "dev": 97, "test": 97}  # calls [paper]
AGENT, BORROWER = "agent", "borrower"
_DIGITS = "zero one two three four five six seven eight nine".split()  # noqa: SIM905
_HOURS = [*_DIGITS, "ten", "eleven", "twelve"]
_COUNTS = {"10": "ten", "15": "fifteen", "20": "twenty", "25": "twenty-five", "30": "thirty", "45": "forty-five",
           "60": "sixty", "75": "seventy-five"}  # fmt: skip
EXCHANGES = 15, 24  # a call's, before small talk fills it up; each an agent's line and the borrower's answer
TURNS = 30, 50
BUSY = 0.95  # share of the exchanges that topics may take
CORRECTED, RETURNED = 0.15, 0.02  # topics with a value that is changed, and with one that is changed back
AT_ONCE, OFFERED = 0.3, 0.5  # topics that the borrower states in one sentence; else, those that the agent proposes
ANNOUNCED, PAIRED = 0.2, 0.2  # blocks announced early, and blocks of two topics
WAITS = (0, 0, 1, 1, 2)  # exchanges between the last value and the trigger
WITHDRAWN = 0.45  # calls with a withdrawn wish
SPELLED = 0.12  # values said in another spelling than the log's


@lru_cache
def _says() -> dict:
    return read_yaml(files(__package__) / "homeloan.yaml")


@lru_cache
def catalog() -> Catalog:
    """The simulator's 15 mortgage actions."""
    return Catalog(domain="homeloan", version="1", actions=tuple(_action(n, a) for n, a in _says()["actions"].items()))


def _action(name: str, spec: dict) -> Action:
    optional = spec.get("optional", ())
    return Action(
        name=name,
        description=spec["description"],
        effect=spec.get("effect", "write"),
        preconditions=tuple(spec.get("after", ())),
        params=tuple(
            Parameter(name=p, description=d, required=p not in optional) for p, d in spec["params"].items()
        ),
    )  # fmt: skip


@dataclass
class _Topic:
    """One action of a call: its final values, and the turns at which things happened, filled in when it is laid out."""

    name: str
    values: dict[str, str]
    opened: int = 0
    known: dict[str, int] = field(default_factory=dict)
    triggered: int = 0


@dataclass(frozen=True)
class _Line:
    """One utterance and what it does to topics."""

    text: str
    opens: _Topic | None = None
    gives: tuple[tuple[_Topic, str], ...] = ()  # parameters that get their final value here
    done: _Topic | None = None  # was triggered just before this line


_Exchange = tuple[_Line, _Line]  # the agent, then the borrower


def _plain(texts: list[str]) -> _Exchange:
    return _Line(texts[0]), _Line(texts[1])


def _respell(param: str, value: str, rng: random.Random) -> str:
    """Another way to say the value; the same where there is none."""
    match param:
        case "last4" | "zip":
            return " ".join(_DIGITS[int(d)] for d in value)
        case "income" | "price" | "loan":
            return rng.choice([f"${value[:-1]},000", f"{value[:-1]} thousand dollars"])
        case "date":
            month, day = value.split()
            return f"the {_nth(int(day))} of {month}"
        case "time":
            return _spoken_time(value)
        case "down" | "rate":
            return value.replace("%", " percent")
        case "term" | "days":
            return value.replace(value.split()[0], _COUNTS[value.split()[0]])
        case _:
            return value


def _nth(day: int) -> str:
    return f"{day}{'th' if 4 <= day <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def _spoken_time(time: str) -> str:
    clock, half = time.split()
    hour, _, minutes = clock.partition(":")
    part = {"am": "morning", "pm": "afternoon"}[half]
    return f"{'half past ' if minutes else ''}{_HOURS[int(hour)]} in the {part}"


class _Call:
    """Draws one call; every choice comes from one random stream."""

    def __init__(self, key: str):
        self.rng = random.Random(key)
        self.says = _says()
        self.used: set[str] = set()
        self.small_talk = self._shuffled(self.says["chat"])

    def _shuffled(self, items: list) -> list:
        return self.rng.sample(items, len(items))

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, key: str, **values) -> str:
        return self.rng.choice(self.says[key]).format(**values)

    # values

    def value(self, param: str) -> str | None:
        """A value of `param` that this call has not used yet; None where it has used all that there are."""
        few = self.says["values"].get(param, ())
        if few and self.used.issuperset(map(normalise, few)):
            return None
        while True:
            value = self._draw(param)
            if normalise(value) not in self.used:
                self.used.add(normalise(value))
                return value

    def _draw(self, param: str) -> str:
        rng, pool = self.rng, self.says["values"]
        match param:
            case "name":
                return f"{rng.choice(pool['first'])} {rng.choice(pool['last'])}"
            case "last4":
                return f"{rng.randint(2100, 9899)}"
            case "income":
                return f"{rng.randrange(52, 180, 2)}k"
            case "price" | "loan":
                return f"{rng.randrange(205, 795, 5)}k"
            case "address":
                return f"{rng.randint(101, 199)} {rng.choice(pool['street'])}"
            case "zip":
                return f"{rng.randint(30001, 97999)}"
            case "email":
                return f"{rng.choice(pool['first']).lower()}{rng.randint(10, 99)}@mail.com"
            case "date":
                return f"{rng.choice(pool['month'])} {rng.randint(1, 28)}"
            case _:
                return rng.choice(pool[param])

    def spoken(self, param: str, value: str) -> str:
        """The value as it is said: mostly as it is logged."""
        return _respell(param, value, self.rng) if self.chance(SPELLED) else value

    # lines

    def line(self, topic: _Topic, key: str, param: str | None = None, instead: dict[str, str] | None = None) -> str:
        """A line of the topic's action with its values filled in, or others `instead`."""
        texts = self.says["actions"][topic.name][key]
        text = self.rng.choice(texts[param] if param else texts)
        values = topic.values | (instead or {})
        spoken = {p: self.spoken(p, v) for p, v in values.items() if "{" + p + "}" in text}
        said = text.format(**spoken)
        return said[0].upper() + said[1:]

    def answered(self, text: str) -> str:
        """An agent's line, sometimes with an acknowledgement in front."""
        return f"{self.pick('acks')} {text}" if self.chance(0.5) else text

    def talk(self) -> list[_Exchange]:
        """Small talk, each piece once a call while they last."""
        if not self.small_talk:
            self.small_talk = self._shuffled(self.says["chat"])
        return [_plain(texts) for texts in self.small_talk.pop()]

    def wait(self) -> _Exchange:
        return _Line(self.pick("hold")), _Line(self.pick("wait"))

    # one topic

    def body(self, topic: _Topic) -> list[_Exchange]:
        """From the need to the last value."""
        asked = list(topic.values)
        if self.chance(AT_ONCE) or set(asked) != set(self.says["actions"][topic.name]["ask"]):
            return [self._at_once(topic)]
        changed = self.rng.choice(asked)
        versions = self._versions(changed, topic.values[changed])
        answers = [self._answer(topic, p, versions[0] if p == changed else None, len(versions) > 1) for p in asked]
        return [*self._questions(topic, answers), *self._corrections(topic, changed, versions)]

    def _versions(self, param: str, value: str) -> list[str]:
        """What the borrower says one after the other for a parameter; the last one counts."""
        draw = self.rng.random()
        other = self.value(param) if draw < CORRECTED else None
        if other is None:
            return [value]
        return [value, other, value] if draw < RETURNED else [other, value]

    def _answer(self, topic: _Topic, param: str, said: str | None, open_end: bool) -> _Line:
        text = self.line(topic, "give", param, {param: said} if said else {})
        return _Line(text, gives=() if said and open_end else ((topic, param),))

    def _questions(self, topic: _Topic, answers: list[_Line]) -> list[_Exchange]:
        asks = [self.line(topic, "ask", p) for p in topic.values]
        if self.chance(OFFERED):
            offer = _Line(f"{self.line(topic, 'offer')} {asks[0]}", opens=topic)
            return [
                (offer, answers[0]),
                *((_Line(self.answered(q)), a) for q, a in zip(asks[1:], answers[1:], strict=True)),
            ]
        need = _Line(self.pick("openers")), _Line(self.line(topic, "need"), opens=topic)
        return [need, *((_Line(self.answered(q)), a) for q, a in zip(asks, answers, strict=True))]

    def _corrections(self, topic: _Topic, param: str, versions: list[str]) -> list[_Exchange]:
        exchanges = []
        for i, (before, after) in enumerate(pairwise(versions), start=2):
            text = self.pick("return" if after == versions[0] else "correct", x=self.spoken(param, after))
            gives = ((topic, param),) if i == len(versions) else ()
            exchanges.append((_Line(self.pick("confirm", x=before)), _Line(text, gives=gives)))
        return exchanges

    def _at_once(self, topic: _Topic) -> _Exchange:
        if len(topic.values) == len(self.says["actions"][topic.name]["params"]):
            wish = self.line(topic, "all")
        else:  # an optional parameter is not wanted this time
            wish = f"{self.line(topic, 'need')} {self.line(topic, 'give', next(iter(topic.values)))}"
        return _Line(self.pick("openers")), _Line(wish, opens=topic, gives=tuple((topic, p) for p in topic.values))

    def done(self, topic: _Topic) -> _Exchange:
        return _Line(self.line(topic, "done"), done=topic), _Line(self.pick("thanks"))

    def withdrawn(self, name: str) -> list[_Exchange]:
        """A wish that is dropped before its values are known."""
        topic = _Topic(name, {})
        question = self.line(topic, "ask", next(iter(self.says["actions"][name]["ask"])))
        return [
            (_Line(self.pick("openers")), _Line(self.line(topic, "hedge"))),
            (_Line(self.answered(question)), _Line(self.pick("withdraw"))),
            (_Line(self.pick("withdrawn")), _Line(self.pick("moved_on"))),
        ]

    # the call

    def topics(self) -> list[_Topic]:
        """Actions in an order that keeps the preconditions, each with its values."""
        actions, order = catalog().by_name, []

        def add(name: str) -> None:
            for needed in actions[name].preconditions:
                if needed not in order:
                    add(needed)
            if name not in order or self.says["actions"][name].get("twice"):
                order.append(name)

        for name in self.rng.choices(list(actions), weights=[1 + len(a.preconditions) for a in actions.values()], k=9):
            add(name)
        drawn = [(name, self._values(actions[name])) for name in order]
        return [_Topic(name, values) for name, values in drawn if None not in values.values()]

    def _values(self, action: Action) -> dict[str, str | None]:
        return {p.name: self.value(p.name) for p in action.params if p.required or self.chance(0.6)}

    def block(self, group: list[_Topic]) -> list[_Exchange]:
        """One topic, or two whose triggers come after both are settled."""
        exchanges = []
        if self.chance(ANNOUNCED):
            announced = _Line(self.line(group[0], "mention"), opens=group[0])
            exchanges += [(announced, _Line(self.pick("accept_later"))), *self.talk()]
        for topic in group:
            exchanges += self.body(topic)
        for _ in range(self.rng.choice(WAITS)):
            exchanges += [self.wait()] if self.chance(0.6) else self.talk()
        return exchanges + [self.done(topic) for topic in group]

    def exchanges(self) -> list[_Exchange]:
        """The whole call."""
        length, withdrawn = self.rng.randint(*EXCHANGES), self.chance(WITHDRAWN)
        blocks, topics = self._blocks(int(BUSY * (length - 2)) - 3 * withdrawn)
        if withdrawn:
            unwanted = [name for name in catalog().by_name if name not in {t.name for t in topics}]
            self._put(blocks, self.withdrawn(self.rng.choice(unwanted)))
        while sum(map(len, blocks)) < length - 2:
            self._put(blocks, self.talk())
        start, end = self.rng.choice(self.says["greetings"]), self.rng.choice(self.says["goodbyes"])
        return [_plain(start), *(exchange for block in blocks for exchange in block), _plain(end)]

    def _blocks(self, room: int) -> tuple[list[list[_Exchange]], list[_Topic]]:
        waiting, blocks, placed = self.topics(), [], []
        while waiting:
            size = 2 if self.chance(PAIRED) else 1
            block = self.block(waiting[:size])
            if blocks and sum(map(len, blocks)) + len(block) > room:
                break
            blocks.append(block)
            placed += waiting[:size]
            waiting = waiting[size:]
        return blocks, placed

    def _put(self, blocks: list[list[_Exchange]], block: list[_Exchange]) -> None:
        blocks.insert(self.rng.randint(0, len(blocks)), block)


def simulate(split: str, index: int, seed: int = 0, log: bool = True) -> tuple[Dialogue, DialogueReferences]:
    """Call `index` (from 0) of a split, and the truth about it: one reference for each trigger, in their order.

    Seed, split and index name the random stream, so no call belongs to two splits. Without `log` the dialogue hides the
    triggers (`observed` is None); the truth is the same.
    """
    lines = [line for exchange in _Call(f"homeloan/{seed}/{split}/{index}").exchanges() for line in exchange]
    topics = _lay_out(lines)
    dialogue = Dialogue(
        id=f"homeloan-{split}-{index:05d}",
        domain="homeloan",
        turns=tuple(Turn(speaker=(AGENT, BORROWER)[i % 2], text=line.text) for i, line in enumerate(lines)),
        observed=tuple(ObservedAction(turn=t.triggered, name=t.name, params=t.values) for t in topics) if log else None,
    )
    references = tuple(_reference(f"r{i}", t, topics) for i, t in enumerate(topics, start=1))
    return dialogue, DialogueReferences(dialogue_id=dialogue.id, references=references)


def _lay_out(lines: list[_Line]) -> list[_Topic]:
    """Write the turns into the topics; returns them in the order of their triggers."""
    topics = []
    for turn, line in enumerate(lines, start=1):
        if line.opens:
            line.opens.opened = line.opens.opened or turn
        for topic, param in line.gives:
            topic.known[param] = turn
        if line.done:
            line.done.triggered = turn - 1
            topics.append(line.done)
    return topics


def _reference(id: str, topic: _Topic, topics: list[_Topic]) -> ReferenceAction:
    action = catalog().by_name[topic.name]
    earlier = [t.triggered for t in topics if t.name in action.preconditions]
    ready = max(topic.opened, *(topic.known[p] for p in action.required), *earlier)
    return ReferenceAction(
        id=id,
        name=topic.name,
        params={p: ReferenceParam(value=v, turn=topic.known[p]) for p, v in topic.values.items()},
        window=Window(open=topic.opened, ready=ready, close=topic.triggered),
        observed_turn=topic.triggered,
    )


def calls(split: str, seed: int = 0, log: bool = True) -> Iterator[tuple[Dialogue, DialogueReferences]]:
    """The split's calls without end, each with its truth. UserError for a split that there is not."""
    size(split)
    return (simulate(split, index, seed, log) for index in count())


def truth(split: str, limit: int | None = None, seed: int = 0) -> tuple[DialogueReferences, ...]:
    """The true windows of the split's first `limit` calls (None: `size(split)`)."""
    return tuple(references for _, references in islice(calls(split, seed), size(split) if limit is None else limit))


def size(split: str) -> int:
    """Calls of a split where no limit is given [paper: its corpus]. UserError for a split that there is not."""
    if split not in SIZES:
        raise UserError(f"the simulator has no split {split!r}; accepted: {', '.join(SIZES)}")
    return SIZES[split]
