"""Policies on held-out dialogues: predictions that are kept as they come, and the results made of them, once."""

from proactor_lib.evaluate.results import EvalResults, load_or_score
from proactor_lib.evaluate.run import evaluate_run

__all__ = ["EvalResults", "evaluate_run", "load_or_score"]
