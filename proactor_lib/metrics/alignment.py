"""How well one prediction fits one reference [SPEC 4]."""

from collections.abc import Callable, Mapping
from operator import eq
from typing import Literal

from proactor_lib.schema import PredictedAction, ReferenceAction
from proactor_lib.values import same_value

Values = Literal["normalised", "exact"]
SAME: dict[str, Callable[[str, str], bool]] = {"normalised": same_value, "exact": eq}


def f1(predicted: Mapping[str, str], reference: Mapping[str, str], values: Values = "normalised") -> float:
    """F1, in [0, 1], of the parameters: one counts when key and value agree. Two empty sets agree fully [ours]."""
    if not predicted and not reference:
        return 1.0
    same = SAME[values]
    agreeing = sum(key in reference and same(value, reference[key]) for key, value in predicted.items())
    return 2 * agreeing / (len(predicted) + len(reference))


def alignment(
    prediction: PredictedAction, reference: ReferenceAction, turn: int, values: Values = "normalised"
) -> float:
    """s(p, r) in [0, 1]: 0 if the names differ, else half for the name and half the F1 of the parameters [ours].

    A `candidate` at `turn` is compared with the parameters whose evidence turn is at most `turn`, a `ready` prediction
    with all of the reference's, for it would be executed. The window plays no part here.
    """
    if prediction.name != reference.name:
        return 0.0
    known_by = turn if prediction.status == "candidate" else None
    return 0.5 + 0.5 * f1(prediction.params, reference.values(known_by), values)


def matches(s, theta: float):
    """Whether an alignment is a match: s >= theta, rounding apart. Names that differ never match, even at theta 0.

    `s`: a float, or an array (then an array of bools comes back).
    """
    return (s > 0) & (s >= theta - 1e-9)
