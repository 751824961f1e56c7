"""Kinds of turns: what the references ask for at a turn [ours]."""

from collections.abc import Iterable
from typing import Literal

from proactor_lib.schema import ReferenceAction

TurnKind = Literal["due", "early", "silent"]
TURN_KINDS: tuple[TurnKind, ...] = ("due", "early", "silent")


def is_early(reference: ReferenceAction, turn: int) -> bool:
    """Whether `turn` lies in [open, ready): the action can be prepared, not yet executed."""
    return reference.window.open <= turn < reference.window.ready


def is_due(reference: ReferenceAction, turn: int) -> bool:
    """Whether `turn` lies in [ready, close]: the action can be executed and still helps."""
    return reference.window.ready <= turn <= reference.window.close


def turn_kind(references: Iterable[ReferenceAction], turn: int) -> TurnKind:
    """`due` if any of the references is due at `turn`, else `early` if any is, else `silent`."""
    covering = [r for r in references if r.window.covers(turn)]
    if any(is_due(r, turn) for r in covering):
        return "due"
    return "early" if covering else "silent"
