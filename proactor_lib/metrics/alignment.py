"""How well one prediction fits one reference."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from proactor_lib.comparison import agreement
from proactor_lib.schema import PredictedAction, ReferenceAction, ReferenceParam
from proactor_lib.values import key as value_key

Values = Literal["normalised", "exact"]
PredictionKey = tuple[str, tuple[tuple[str, str], ...]]
TieBreak = tuple[int, PredictionKey]
NO_COMPARISONS: Mapping[str, ReferenceParam] = {}


def f1(
    predicted: Mapping[str, str],
    reference: Mapping[str, str],
    values: Values = "normalised",
    how: Mapping[str, ReferenceParam] = NO_COMPARISONS,
) -> float:
    """F1, in [0, 1], of the parameters: one counts as far as its values agree. Two empty sets agree fully [ours].

    how: by parameter, how its values are compared; those that it does not name, exactly. A list or an object counts by
    its parts.
    """
    if not predicted and not reference:
        return 1.0
    shared = [(value, reference[key], how.get(key)) for key, value in predicted.items() if key in reference]
    if values == "exact":
        agreeing = sum(a == b for a, b, _ in shared)
    else:
        agreeing = sum(
            max(agreement(a, v, c.match, c.text_threshold, c.today) for v in (b, *c.spellings))
            if c
            else agreement(a, b)
            for a, b, c in shared
        )
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
    return 0.5 + 0.5 * f1(prediction.params, reference.values(known_by), values, reference.params)


def matches(s, theta: float):
    """Whether an alignment is a match: s >= theta, rounding apart. Names that differ never match, even at theta 0.

    `s`: a float, or an array (then an array of bools comes back).
    """
    return (s > 0) & (s >= theta - 1e-9)


def prediction_key(prediction: PredictedAction, values: Values = "normalised") -> PredictionKey:
    """What makes two predictions the same: the name and the parameters, normalised unless `values` is `exact`."""
    items = prediction.params.items()
    return prediction.name, tuple(sorted(items if values == "exact" else ((k, value_key(v)) for k, v in items)))


def tie_break(key: PredictionKey) -> TieBreak:
    """Which of two predictions that fit equally goes first: the one with fewer parameters, then by its key [ours]."""
    return len(key[1]), key


def as_set(predictions: Iterable[PredictedAction], values: Values = "normalised") -> list[PredictedAction]:
    """The output of a turn as a set [ours]: of equal predictions one is left, `ready` if any of them is.

    In the order in which each was first said; of spellings of one key the first by its characters, whatever the order.
    """
    predictions = list(predictions)
    if len(predictions) < 2:
        return predictions
    by_key: dict[PredictionKey, PredictedAction] = {}
    for prediction in predictions:
        key = prediction_key(prediction, values)
        by_key[key] = min(by_key.get(key, prediction), prediction, key=_rank)
    return list(by_key.values())


def _rank(prediction: PredictedAction) -> tuple[bool, list[tuple[str, str]]]:
    return prediction.status != "ready", sorted(prediction.params.items())


Pair = tuple[int, int, float]  # a prediction's place, a reference's place, their alignment


def pair(
    predictions: Sequence[PredictedAction], references: Sequence[ReferenceAction], turn: int, theta: float
) -> list[Pair]:
    """Predictions and references matched one to one at `turn`, whatever the predictions' status [ours].

    Greedily: by highest s, then earliest close, earliest open, id, and by what the prediction is (`tie_break`), never
    by its place. Which references cover the turn is the caller's.
    """
    found = [
        (-s, r.window.close, r.window.open, r.id, tie_break(prediction_key(p)), i, j)
        for i, p in enumerate(predictions)
        for j, r in enumerate(references)
        if matches(s := alignment(p, r, turn), theta)
    ]
    pairs, taken, served = [], set(), set()
    for minus_s, *_, i, j in sorted(found):
        if i not in taken and j not in served:
            pairs.append((i, j, -minus_s))
            taken.add(i)
            served.add(j)
    return pairs
