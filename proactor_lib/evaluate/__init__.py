"""Policies on held-out dialogues: predictions that are kept as they come, and the tables made of them."""

from proactor_lib.evaluate.run import evaluate_run
from proactor_lib.evaluate.tables import outputs, write_tables

__all__ = ["evaluate_run", "outputs", "write_tables"]
