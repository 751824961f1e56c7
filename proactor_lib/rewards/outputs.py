"""An output as rewards count it: a set, one status per action, and how much of what is due it serves [ours].

So that neither a repeat, nor a candidate beside the trigger of the same action, nor one of two due actions earns what
belongs to the right output.
"""

from collections.abc import Iterable, Sequence

from proactor_lib.metrics import as_set, is_due, pair, prediction_key
from proactor_lib.metrics.alignment import PredictionKey
from proactor_lib.schema import PredictedAction, ReferenceAction


def counted(
    actions: Iterable[PredictedAction], references: Sequence[ReferenceAction], turn: int, theta: float
) -> list[PredictedAction]:
    """The output as a set, in which a candidate whose name is also `ready` aligns with nothing: its name is changed.

    Unless it pairs with one of the open `references` that no `ready` prediction has taken: then it stays as it is.
    """
    said = as_set(actions)
    ready = [a for a in said if a.status == "ready"]
    names = {a.name for a in ready}
    hedges = [a for a in said if a.status == "candidate" and a.name in names]
    if not hedges:
        return said
    free = _unserved(ready, references, turn, theta)
    right = {id(hedges[i]) for i, _, _ in pair(hedges, free, turn, theta)}
    wrong = {id(a) for a in hedges} - right
    return [a.model_copy(update={"name": f"{a.name} (hedged)"}) if id(a) in wrong else a for a in said]


def _unserved(
    ready: Sequence[PredictedAction], references: Sequence[ReferenceAction], turn: int, theta: float
) -> list[ReferenceAction]:
    """The references that triggers leave over: they take due ones first."""
    due = [r for r in references if is_due(r, turn)]
    early = [r for r in references if not is_due(r, turn)]
    first = pair(ready, due, turn, theta)
    used = {i for i, _, _ in first}
    second = pair([a for i, a in enumerate(ready) if i not in used], early, turn, theta)
    taken = {id(due[j]) for _, j, _ in first} | {id(early[j]) for _, j, _ in second}
    return [r for r in references if id(r) not in taken]


def served(actions: Sequence[PredictedAction], references: Sequence[ReferenceAction], turn: int, theta: float) -> float:
    """The share of the due `needs` that `actions` match one to one, whatever their status; 1 where none is due."""
    due = needs([r for r in references if is_due(r, turn)], turn)
    if not due:
        return 1.0
    of_need = [(n, r) for n, need in enumerate(due) for r in need]
    pairs = pair(actions, [r for _, r in of_need], turn, theta)
    return len({of_need[j][0] for _, j, _ in pairs}) / len(due)


def needs(references: Iterable[ReferenceAction], turn: int) -> list[list[ReferenceAction]]:
    """The references by what an output can say of them at `turn`: those of one name and known values are one need.

    An output, a set, can name it only once. Where some of its references are due, it holds these alone.
    """
    found: dict[PredictionKey, list[ReferenceAction]] = {}
    for r in references:
        said = PredictedAction(name=r.name, params=r.values(known_by=turn))
        found.setdefault(prediction_key(said), []).append(r)
    return [[r for r in need if is_due(r, turn)] or need for need in found.values()]
