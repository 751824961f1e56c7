"""The metrics: how well, how early and how sparingly an agent acts.

Alignment, and the scores of one turn, need no pandas: rewards are made of them. The tables are imported on first use.
"""

import importlib

from proactor_lib.metrics.alignment import alignment, as_set, f1, matches, pair, prediction_key
from proactor_lib.metrics.turn_kinds import TURN_KINDS, is_due, is_early, turn_kind
from proactor_lib.metrics.turns import TurnScores, turn_scores

_TABLES = {
    "METRICS": "intervals",
    "DialogueTable": "scores",
    "Scores": "scores",
    "compare": "comparisons",
    "evaluate_predictions": "scores",
    "score_predictions": "scores",
    "table": "ranking",
}
__all__ = [
    "TURN_KINDS",
    "TurnScores",
    "alignment",
    "as_set",
    "f1",
    "is_due",
    "is_early",
    "matches",
    "pair",
    "prediction_key",
    "turn_kind",
    "turn_scores",
    *_TABLES,
]


def __getattr__(name: str):
    if name not in _TABLES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_TABLES[name]}"), name)
