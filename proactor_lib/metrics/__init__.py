"""The metrics of SPEC 4: how well, how early and how sparingly an agent acts."""

from proactor_lib.metrics.alignment import alignment, f1, matches
from proactor_lib.metrics.turns import TurnScores, turn_scores

__all__ = ["TurnScores", "alignment", "f1", "matches", "turn_scores"]
