"""Opportunity timing: when each reference was first triggered over a whole dialogue [ours: beyond the paper].

Ready predictions are matched to references one to one, turn by turn: a pair whose reference covers the turn before one
that does not, then the highest alignment, then the earliest close.

A repeat of an already matched prediction is ignored, since an agent says an action again at every turn of its window.
A ready prediction is a repeat [ours]
- when the reference that it ranks first, matched ones included, was matched at an earlier turn: the agent goes on
  saying the same thing, perhaps with more of its parameters; or
- when the same action with the same normalised parameters was matched before, and to a better fit than the reference
  now at hand: the agent is stuck on an old action while a like one is wanted. Where it fits both equally well, a
  reference of the very same values is a new opportunity once only it covers the turn, and saying the action meets it.
The output of a turn is a set: the same action with the same parameters twice in one turn is one prediction.
"""

from typing import NamedTuple

import numpy as np

from proactor_lib.metrics.alignment import PredictionKey, TieBreak, tie_break
from proactor_lib.schema import ReferenceAction


class Match(NamedTuple):
    """One ready prediction that matches one reference (by its place in the dialogue's list); tuples sort best first."""

    outside: bool  # the reference does not cover the turn
    misfit: float  # 1 - s
    close: int
    reference_order: tuple  # breaks ties by what the reference is, never by where it stands in a file
    tie: TieBreak
    reference: int

    @property
    def said(self) -> PredictionKey:
        """The prediction."""
        return self.tie[1]


def claim(turn: int, prediction: PredictionKey, s: float, index: int, reference: ReferenceAction) -> Match:
    """The claim of a ready prediction with alignment `s` on the dialogue's reference number `index`."""
    w = reference.window
    return Match(not w.covers(turn), 1 - s, w.close, (w.open, w.ready, reference.id), tie_break(prediction), index)


class Matcher:
    """Matches the claims of one dialogue, turn after turn; `triggered` maps a reference's index to its first turn."""

    def __init__(self):
        self.triggered: dict[int, int] = {}
        self._misfit: dict[PredictionKey, float] = {}  # of the predictions matched so far

    def turn(self, turn: int, claims: list[Match]) -> None:
        """Match the claims of `turn`; turns must come in order."""
        settled = set()
        for c in sorted(claims):
            taken = self.triggered.get(c.reference)
            if c.said in settled or taken == turn:
                continue
            settled.add(c.said)
            if taken is None and c.misfit <= self._misfit.get(c.said, 1.0):  # else it is a repeat
                self.triggered[c.reference] = turn
                self._misfit[c.said] = c.misfit


def timing_score(triggered: np.ndarray, open_: np.ndarray, ready: np.ndarray, close: np.ndarray) -> np.ndarray:
    """Scores in [0, 1] for first matches at `triggered` (turns; NaN: never), shape (references,).

    1 on [open, ready], falling linearly to 0 at close + 1; 0 before open and if never.
    """
    score = np.clip((close + 1 - triggered) / (close + 1 - ready), 0, 1)
    return np.where(triggered >= open_, score, 0.0)


def outcome(triggered: np.ndarray, open_: np.ndarray, close: np.ndarray) -> np.ndarray:
    """`missed` (no match at all), `premature` (first match before open), `late` (after close) or `in window`."""
    cases = [np.isnan(triggered), triggered < open_, triggered > close]
    return np.select(cases, ["missed", "premature", "late"], default="in window")
