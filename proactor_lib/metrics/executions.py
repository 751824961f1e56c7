"""What a deployed agent would have done, and what that is worth [ours: beyond the paper].

An executor walks the turns in order and remembers. Within a turn the `ready` predictions and the references of their
name that cover it and that no execution has taken yet pair greedily, one to one: by highest s, then earliest close,
earliest open, id. A prediction that equals an earlier execution takes only a reference that it fits exactly. A paired
prediction is a right execution. An unpaired one is ignored if it equals an earlier execution, or if its parameters
extend those of a right execution of its name; else it is a false execution. Candidates never execute.

U_c = (sum of the timing scores of right executions - c x false executions) / references.
"""

from collections.abc import Sequence
from typing import NamedTuple

from proactor_lib.metrics.alignment import (
    PredictionKey,
    TieBreak,
    Values,
    alignment,
    as_set,
    matches,
    prediction_key,
    tie_break,
)
from proactor_lib.schema import PredictedAction, ReferenceAction

PRICE = 0.25  # of a false execution, in missed opportunities, unless said otherwise


class Execution(NamedTuple):
    """One prediction that was executed. `reference`: its place in the dialogue's list; None: a false execution."""

    prediction: PredictedAction
    reference: int | None
    timing: float  # the timing score, in [0, 1]; 0 of a false execution


class Offer(NamedTuple):
    """A ready prediction that could take a reference; tuples sort best first."""

    misfit: float  # 1 - s
    close: int
    open: int
    id: str
    tie: TieBreak  # breaks ties by what the prediction is, never by where it stands in an output
    place: int  # the prediction's in the output
    reference: int


class Executor:
    """Executes one dialogue's predictions, turn after turn, against its references."""

    def __init__(self, references: Sequence[ReferenceAction], theta: float = 0.75, values: Values = "normalised"):
        self._references, self._theta, self._values = references, theta, values
        self._named: dict[str, list[int]] = {}
        for i, r in enumerate(references):
            self._named.setdefault(r.name, []).append(i)
        self._taken: set[int] = set()
        self._executed: set[PredictionKey] = set()
        self._right: list[PredictionKey] = []

    def turn(self, turn: int, output: Sequence[PredictedAction]) -> list[Execution]:
        """What of the output of `turn` is executed; turns must come in order."""
        ready = [p for p in as_set(output, self._values) if p.status == "ready"]
        keys = [prediction_key(p, self._values) for p in ready]
        pairs = self._pairs([o for i, p in enumerate(ready) for o in self._offers(turn, i, p, keys[i])])
        self._taken.update(pairs.values())
        self._right += [keys[i] for i in pairs]
        places = [i for i in range(len(ready)) if i in pairs or not self._is_known(keys[i])]
        self._executed.update(keys[i] for i in places)
        return [self._execution(turn, ready[i], pairs.get(i)) for i in places]

    def _offers(self, turn: int, place: int, prediction: PredictedAction, key: PredictionKey) -> list[Offer]:
        least = 1.0 if key in self._executed else self._theta
        offers = []
        for i in self._named.get(prediction.name, ()):
            r = self._references[i]
            if i not in self._taken and r.window.covers(turn):
                s = alignment(prediction, r, turn, self._values)
                if matches(s, least):
                    offers.append(Offer(1 - s, r.window.close, r.window.open, r.id, tie_break(key), place, i))
        return offers

    def _pairs(self, offers: list[Offer]) -> dict[int, int]:
        """The reference of each paired prediction, both by their places."""
        pairs: dict[int, int] = {}
        for o in sorted(offers):
            if o.place not in pairs and o.reference not in pairs.values():
                pairs[o.place] = o.reference
        return pairs

    def _is_known(self, key: PredictionKey) -> bool:
        """Whether an unpaired prediction repeats an execution or extends a right one."""
        name, params = key
        return key in self._executed or any(n == name and set(p) <= set(params) for n, p in self._right)

    def _execution(self, turn: int, prediction: PredictedAction, reference: int | None) -> Execution:
        if reference is None:
            return Execution(prediction, None, 0.0)
        w = self._references[reference].window
        return Execution(prediction, reference, min((w.close + 1 - turn) / (w.close + 1 - w.ready), 1.0))
