"""One output at one turn against the references open there; rewards are made of these numbers too."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from proactor_lib.metrics.alignment import Values, alignment, as_set, matches
from proactor_lib.schema import PredictedAction, ReferenceAction


@dataclass(frozen=True)
class TurnScores:
    """The metrics of one turn; None is undefined: all of a turn that is not scored, FTR without a ready prediction."""

    predictions: int
    ready: int  # predictions with status `ready`
    faults: int  # ready predictions that match no reference covering the turn
    open: int  # references whose coverage [open, close] holds the turn
    ac: float | None  # mean over predictions of the best alignment with an open reference
    max_ac: float | None  # the best alignment of any prediction with any open reference
    pt: float | None  # alignments of the ready predictions that match an open reference, summed, over all predictions

    @property
    def rar(self) -> float | None:
        """Ready action rate: ready predictions / predictions."""
        return self.ready / self.predictions if self.predictions else None

    @property
    def ftr(self) -> float | None:
        """Fault trigger rate: ready predictions at fault / ready predictions."""
        return self.faults / self.ready if self.ready else None


def turn_scores(
    predictions: Sequence[PredictedAction],
    references: Iterable[ReferenceAction],
    turn: int,
    theta: float = 0.75,
    values: Values = "normalised",
) -> TurnScores:
    """Score the predictions made at `turn`; of `references` (all of the dialogue's, say) those that cover it count.

    Equal predictions are one. Silence scores 0 on AC, Max AC and PT where a reference is open, and None where none is:
    that turn is not scored.
    """
    predictions = as_set(predictions, values)
    covering = [r for r in references if r.window.covers(turn)]
    best = [max((alignment(p, r, turn, values) for r in covering), default=0.0) for p in predictions]
    ready = [s for s, p in zip(best, predictions, strict=True) if p.status == "ready"]
    matched = [s for s in ready if matches(s, theta)]
    count = len(predictions)
    scored = bool(covering or predictions)
    return TurnScores(
        predictions=count,
        ready=len(ready),
        faults=len(ready) - len(matched),
        open=len(covering),
        ac=sum(best) / max(count, 1) if scored else None,
        max_ac=max(best, default=0.0) if scored else None,
        pt=sum(matched) / max(count, 1) if scored else None,
    )
