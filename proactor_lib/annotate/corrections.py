"""Corrections by hand, in a file of their own, that every later stage honours [ours].

A line corrects one window: `{"dialogue_id", "split", "name", "occurrence", "window"}`. The key is what a re-annotation
keeps: the dialogue, the action, and which of its references this is, counted from 1 in the order of their observed
(else ready) turns. `"window": null` withdraws the reference. A line may give the `reference_id` in place of name and
occurrence. Splits may share ids (SGD's do), so a line applies in its own split only; one without applies in each, as
older files do. The file only grows: the last line for a reference counts.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from proactor_lib.files import read_jsonl
from proactor_lib.schema import DialogueReferences, Record, ReferenceAction, Window


class Correction(Record):
    """A line of an overlay."""

    dialogue_id: str
    split: Literal["train", "dev", "test"] | None = None  # None: any split
    name: str | None = None
    occurrence: int = Field(default=1, ge=1)
    reference_id: str | None = None
    window: Window | None  # None: this reference is withdrawn

    @model_validator(mode="after")
    def _keyed(self):
        if (self.name is None) == (self.reference_id is None):
            raise ValueError("a correction needs either name (and occurrence) or reference_id")
        return self

    @property
    def key(self) -> tuple:
        """What it corrects within its dialogue: (name, occurrence), or (reference id,)."""
        return (self.reference_id,) if self.name is None else (self.name, self.occurrence)


def read(path: Path, split: str | None = None) -> dict[str, dict[tuple, Correction]]:
    """Corrections by dialogue id and key, the last line of each, in order; of all splits where `split` is None.

    UserError names a bad line or a missing file.
    """
    corrections: dict[str, dict[tuple, Correction]] = {}
    for correction in read_jsonl(path, Correction):
        if split is None or correction.split in (None, split):
            put(corrections, correction)
    return corrections


def put(corrections: dict[str, dict[tuple, Correction]], correction: Correction) -> None:
    """Add to those by dialogue id and key, as the last of its dialogue: of two corrections of a reference it counts."""
    known = corrections.setdefault(correction.dialogue_id, {})
    known.pop(correction.key, None)
    known[correction.key] = correction


def append(path: Path, correction: Correction) -> None:
    """Add one line, in one write; a last line that a person left without its end is ended first."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    line = correction.model_dump_json(exclude_none=correction.window is not None).encode() + b"\n"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        unended = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, b"\n" * unended + line)
    finally:
        os.close(handle)


def occurrences(references: Iterable[ReferenceAction]) -> dict[str, int]:
    """Which of its action's references each one is, from 1, by reference id."""
    counts, places = {}, {}
    for r in sorted(references, key=lambda r: r.observed_turn or r.window.ready):
        places[r.id] = counts[r.name] = counts.get(r.name, 0) + 1
    return places


def corrected(line: DialogueReferences, corrections: dict[tuple, Correction]) -> DialogueReferences:
    """The dialogue's references with their windows as corrected, withdrawn ones left out."""
    places, kept = occurrences(line.references), []
    for r in line.references:
        keys = ((r.name, places[r.id]), (r.id,))
        found = [correction for key, correction in corrections.items() if key in keys]
        if not found:
            kept.append(r)
        elif found[-1].window is not None:
            kept.append(r.model_copy(update={"window": found[-1].window}))
    return line.model_copy(update={"references": tuple(kept)})


def apply(
    references: Iterable[DialogueReferences], path: Path | None, split: str | None = None
) -> list[DialogueReferences]:
    """The references with the overlay's corrections of `split`; unchanged where `path` is None. Raises as `read`."""
    corrections = read(path, split) if path else {}
    return [corrected(line, corrections.get(line.dialogue_id, {})) for line in references]


def unmatched(annotated: Mapping[str, Iterable[DialogueReferences]], path: Path) -> list[Correction]:
    """Corrections of references that are not there, say after a re-annotation that found fewer. Raises as `read`.

    `annotated`: the references by split. A correction without a split is matched by any split's.
    """
    last = {(c.split, c.dialogue_id, c.key): c for c in read_jsonl(path, Correction)}
    there = {
        (split, line.dialogue_id, key) for split, lines in annotated.items() for line in lines for key in _keys(line)
    }
    there |= {(None, *rest) for _, *rest in there}
    return [correction for key, correction in last.items() if key not in there]


def _keys(line: DialogueReferences) -> Iterable[tuple]:
    """The keys of the corrections that the dialogue's references could have."""
    places = occurrences(line.references)
    return [key for r in line.references for key in ((r.name, places[r.id]), (r.id,))]
