"""General RULER: an LLM judge with a general rubric [paper]."""

from proactor_lib.rewards.ruler import Ruler


class GeneralRuler(Ruler):
    """One score an output."""

    name = "general_ruler"
    timed = False  # its rubric asks for a good answer, not for an early one
    rubric_file = "ruler.general.txt"
    criteria = ("score",)
