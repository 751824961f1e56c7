"""Custom RULER: an LLM judge with a proactiveness rubric and sub-scores [paper; ours: how they are mixed]."""

from proactor_lib.rewards.base import Marks
from proactor_lib.rewards.ruler import Ruler


class CustomRuler(Ruler):
    """Four marks an output, mixed with the weights of `ruler_weights`."""

    name = "custom_ruler"
    rubric_file = "ruler.custom.txt"
    criteria = ("timing", "alignment", "restraint", "completeness")

    def mix(self, marks: Marks) -> float:
        """The weighted mean of the marks."""
        weights = self.params.ruler_weights
        return sum(w * marks[c] for c, w in weights.items()) / sum(weights.values())
