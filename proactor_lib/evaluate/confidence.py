"""How sure a served policy is that an action is ready: from the probabilities of the word that it chose [ours]."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proactor_lib.agent import parse
from proactor_lib.schema import PredictedAction

if TYPE_CHECKING:
    from proactor_lib.artf.serving.completions import Output

ALTERNATIVES = 5  # likeliest tokens at each place


def with_confidence(actions: Sequence[PredictedAction], output: "Output") -> tuple[PredictedAction, ...]:
    """The actions, each with P(ready) / (P(ready) + P(candidate)) at the token that opens its line.

    An action keeps None where neither word is among the alternatives there.
    """
    starts = [start for start, line in _lines(output.text) if parse(line).actions]
    sure = [_readiness(output, start) for start in starts]
    return tuple(a.model_copy(update={"confidence": s}) for a, s in zip(actions, sure, strict=True))


def _lines(text: str) -> list[tuple[int, str]]:
    """Each line with the place of its first letter."""
    found, at = [], 0
    for line in text.splitlines(keepends=True):
        found.append((at + len(line) - len(line.lstrip()), line))
        at += len(line)
    return found


def _readiness(output: "Output", start: int) -> float | None:
    begun = [i for i, at in enumerate(output.offsets) if at - output.offsets[0] <= start]
    if not begun or len(output.top) <= begun[-1]:
        return None
    chances = {"ready": 0.0, "candidate": 0.0}
    for token, log_prob in output.top[begun[-1]].items():
        said = token.strip().lower()
        for word in chances:
            if said and word.startswith(said):
                chances[word] += math.exp(log_prob)
    total = sum(chances.values())
    return round(chances["ready"] / total, 6) if total else None
