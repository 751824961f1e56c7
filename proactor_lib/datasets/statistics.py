"""What a corpus is like in numbers, beside those that the paper prints."""

from collections.abc import Sequence
from statistics import fmean, pstdev

from proactor_lib.datasets import Corpus
from proactor_lib.schema import DialogueReferences

# [paper] Dialogues by split; annotated actions and turns over all splits.
PUBLISHED = {
    "abcd": {
        "dialogues": {"train": 5647, "dev": 703, "test": 692},
        "annotated_actions": 114_978,
        "turns_mean": 21.2,
        "turns_sd": 7.2,
    },
    "homeloan": {
        "dialogues": {"train": 774, "dev": 97, "test": 97},
        "annotated_actions": 30_610,
        "turns_mean": 47.4,
        "turns_sd": 1.1,
    },
}


def published(dataset: str, split: str) -> dict | None:
    """The paper's numbers for a dataset, with its `split`'s dialogues; None where it has none."""
    numbers = PUBLISHED.get(dataset)
    return numbers and {**numbers, "dialogues": numbers["dialogues"].get(split)}


def describe(corpus: Corpus, references: Sequence[DialogueReferences] | None = None) -> dict:
    """Counts and means of a split; what needs a log or references is None without them.

    `annotated_actions` counts a reference once for each turn that its window covers, for the paper annotates turn by
    turn [ours: it counts 16 a dialogue, where ABCD logs about 4]; `windows` counts it once.
    """
    turns = [len(d.turns) for d in corpus.dialogues]
    logged = [len(d.observed) for d in corpus.dialogues if d.observed is not None]
    windows = None if references is None else [r.window for line in references for r in line.references]
    return {
        "dialogues": len(turns),
        "left_out_too_long": corpus.too_long,
        "turns_mean": round(fmean(turns), 1) if turns else None,
        "turns_sd": round(pstdev(turns), 1) if turns else None,
        "actions_in_catalog": len(corpus.catalog.actions),
        "logged_actions": sum(logged) if logged else None,
        "windows": None if windows is None else len(windows),
        "annotated_actions": None if windows is None else sum(w.close - w.open + 1 for w in windows),
    }
