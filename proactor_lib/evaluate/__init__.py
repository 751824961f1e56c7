"""Policies on held-out dialogues: predictions that are kept as they come, and the tables made of them."""

from proactor_lib.evaluate.run import evaluate_run

__all__ = ["evaluate_run"]
