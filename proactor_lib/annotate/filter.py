"""What is taken out of annotations before anything is learnt: dialogues and references below thresholds [ours]."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from proactor_lib.annotate.agreement import Lines, pairs, triggers
from proactor_lib.schema import Dialogue, DialogueReferences, Record

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Thresholds:
    """What annotations must satisfy to be kept; the defaults keep everything."""

    coverage: float = 0.0  # of a dialogue: least share of its logged triggers that a window holds
    iou: float = 0.0  # of a dialogue: least mean window IoU with a second annotator
    param_agreement: float = 0.0  # of a reference: least F1 of its parameters with its trigger's
    lead: float = np.inf  # of a reference: most turns from `ready` to its trigger
    logged: bool = False  # of a reference: it has a trigger (asked only where the dialogue has a log)


class Removed(Record):
    """What a filter took out, and why; without a reference id it is the whole dialogue."""

    dialogue_id: str
    reason: str
    reference_id: str | None = None
    name: str | None = None


def filtered(
    dialogues: Iterable[Dialogue], lines: Lines, thresholds: Thresholds, second: Lines | None = None
) -> tuple[list[DialogueReferences], list[Removed]]:
    """The annotations that satisfy `thresholds`, and all that was removed.

    Dialogues go first: one that is kept for its other references still scores right predictions of a removed one as
    faults, so prefer the thresholds of dialogues for evaluation. `second`: another annotator's lines, for `iou`.
    """
    lines = list(lines)
    seen = triggers(dialogues, lines)
    removed = [*_bad_dialogues(seen, lines, second, thresholds)]
    gone = {r.dialogue_id for r in removed}
    removed += [r for r in _bad_references(seen, thresholds) if r.dialogue_id not in gone]
    bad = {(r.dialogue_id, r.reference_id) for r in removed}
    kept = [
        line.model_copy(update={"references": tuple(r for r in line.references if (line.dialogue_id, r.id) not in bad)})
        for line in lines
        if line.dialogue_id not in gone
    ]
    return kept, removed


def _bad_dialogues(seen: "pd.DataFrame", lines: list, second: Lines | None, least: Thresholds) -> Iterator[Removed]:
    logged = seen[seen.observed_turn.notna()]
    for dialogue_id, share in logged.covered.fillna(0).groupby(logged.dialogue_id).mean().items():
        if share < least.coverage:
            reason = f"windows hold {share:.2f} of its logged triggers, below {least.coverage:g}"
            yield Removed(dialogue_id=dialogue_id, reason=reason)
    both = pairs(lines, second or ())
    for dialogue_id, mean in both.iou.groupby(both.dialogue_id).mean().items():
        if mean < least.iou:
            reason = f"mean window IoU {mean:.2f} with the second annotator, below {least.iou:g}"
            yield Removed(dialogue_id=dialogue_id, reason=reason)


def _bad_references(seen: "pd.DataFrame", least: Thresholds) -> Iterator[Removed]:
    for row in seen[seen.reference_id.notna()].itertuples():
        if least.logged and np.isnan(row.observed_turn):
            reason = "no logged trigger"
        elif row.param_f1 < least.param_agreement:
            reason = f"parameters agree {row.param_f1:.2f} with the trigger's, below {least.param_agreement:g}"
        elif row.lead > least.lead:
            reason = f"ready {row.lead:.0f} turns before its trigger, above {least.lead:g}"
        else:
            continue
        yield Removed(dialogue_id=row.dialogue_id, reason=reason, reference_id=row.reference_id, name=row.name)
