"""Conversations as a service remembers them: what was said, what the agent answered, and what was executed [ours].

Nothing is executed twice. As SPEC's executor, a `ready` action that equals an earlier execution is held back, and so is
one whose parameters extend those of an earlier execution. Nobody knows the references here, so that an execution counts
as right, and is not to be extended, once it has every parameter that its action requires.
"""

import asyncio
import hashlib
import itertools
import json
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from proactor_lib.metrics.alignment import PredictionKey, as_set, prediction_key
from proactor_lib.schema import Catalog, PredictedAction, Turn, TurnPrediction


@dataclass(frozen=True)
class Answer:
    """What is to be done at a turn, and what the policy said there besides."""

    turn: int
    ready: tuple[PredictedAction, ...] = ()  # execute these, now
    candidates: tuple[PredictedAction, ...] = ()  # prepare these
    held: tuple[PredictedAction, ...] = ()  # ready, but executed before
    unknown: tuple[PredictedAction, ...] = ()  # not in the catalog that was shown: never executed
    unreadable: bool = False  # the output, or a part of it, could not be read
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass
class Talk:
    """One conversation. `lock`: a turn is asked once, whoever asks."""

    id: str
    turns: list[Turn] = field(default_factory=list)
    said: dict[int, TurnPrediction] = field(default_factory=dict)  # by turn, as the policy said it
    answers: dict[tuple[int, str], Answer] = field(default_factory=dict)  # by turn and the shown catalog's digest
    executed: list[tuple[int, PredictionKey]] = field(default_factory=list)  # with the turn
    digests: set[str] = field(default_factory=set)  # by which it is found where it has no name
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def common(self, turns: Sequence[Turn]) -> int:
        """How many turns, from the first on, are those of `turns`."""
        pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(self.turns, turns, strict=False))
        return sum(1 for _ in pairs)

    def until(self, turn: int, id: str) -> "Talk":
        """A new conversation that begins with the first `turn` turns of this one, and what came of them."""
        said = {t: line.model_copy(update={"dialogue_id": id}) for t, line in self.said.items() if t <= turn}
        answers = {key: answer for key, answer in self.answers.items() if answer.turn <= turn}
        return Talk(id, self.turns[:turn], said, answers, [e for e in self.executed if e[0] <= turn])

    def take_back(self, first: int, last: int) -> None:
        """Forget the turns `first` to `last`, unless there are later ones, or one was answered or is being asked."""
        if self.lock.locked() or len(self.turns) != last or any(turn >= first for turn, _ in self.answers):
            return
        del self.turns[first - 1 :]

    def act(self, line: TurnPrediction, catalog: Catalog, elsewhere: Collection[PredictionKey] = ()) -> Answer:
        """Execute what `line` says at its turn, but for what was executed before, here or `elsewhere`."""
        ready, held, unknown, candidates = [], [], [], []
        for action in as_set(line.actions):
            if action.name not in catalog.by_name:
                unknown.append(action)
            elif action.status == "candidate":
                candidates.append(action)
            elif self._is_done(key := prediction_key(action), catalog, elsewhere):
                held.append(action)
            else:
                ready.append(action)
                self.executed.append((line.turn, key))
        groups = (tuple(group) for group in (ready, candidates, held, unknown))
        tokens = line.prompt_tokens or 0, line.output_tokens or 0
        answer = self.answers[line.turn, catalog.digest] = Answer(line.turn, *groups, line.unreadable, *tokens)
        return answer

    def _is_done(self, key: PredictionKey, catalog: Catalog, elsewhere: Collection[PredictionKey]) -> bool:
        name, params = key
        required = set(catalog.by_name[name].required)
        earlier = [dict(p) for n, p in [*(done for _, done in self.executed), *elsewhere] if n == name]
        now = dict(params)
        return any(e == now or (required <= e.keys() and e.items() <= now.items()) for e in earlier)


class Memory:
    """The conversations that were heard last, `most` of them; those before them are forgotten."""

    def __init__(self, most: int = 1000):
        self._most = most
        self._talks: OrderedDict[str, Talk] = OrderedDict()
        self._nameless: dict[str, Talk] = {}  # by the digest of its catalog and its turns so far

    def named(self, id: str, turns: Sequence[Turn] = ()) -> Talk:
        """The conversation of that name, as far as it agrees with `turns`; a new one, without turns, if unknown."""
        return self._keep(_agreeing(self._talks.get(id) or Talk(id), turns, id))

    def of_turns(self, turns: Sequence[Turn], catalog: Catalog) -> Talk:
        """The nameless conversation that has these turns, or the first of them; a new one without any.

        Who writes the same turns is told the same: without a name, two conversations differ by their turns and by the
        catalog that is shown.
        """
        digests = _digests(turns, catalog)
        id = f"turns-{digests[-1]}"
        known = next((talk for d in reversed(digests) if (talk := self._nameless.get(d))), None)
        talk = _agreeing(known or Talk(id), turns, id)
        self._nameless |= dict.fromkeys(digests, talk)
        talk.digests.update(digests)
        return self._keep(talk)

    def _keep(self, talk: Talk) -> Talk:
        self._talks[talk.id] = talk
        self._talks.move_to_end(talk.id)
        while len(self._talks) > self._most:
            _, gone = self._talks.popitem(last=False)
            for digest in gone.digests:
                if self._nameless.get(digest) is gone:
                    del self._nameless[digest]
        return talk

    def __len__(self) -> int:
        return len(self._talks)


def _agreeing(talk: Talk, turns: Sequence[Turn], id: str) -> Talk:
    """The talk; where its turns and `turns` part, a new one from what they share."""
    shared = talk.common(turns)
    return talk if not turns or shared == min(len(talk.turns), len(turns)) else talk.until(shared, id)


def _digests(turns: Sequence[Turn], catalog: Catalog) -> list[str]:
    """A digest of the catalog and the first turn, of it and the first two, and so on: 24 hex digits each."""
    running, found = hashlib.sha256(catalog.digest.encode()), []
    for turn in turns:
        running.update(json.dumps([turn.speaker, turn.text]).encode())
        found.append(running.hexdigest()[:24])
    return found
