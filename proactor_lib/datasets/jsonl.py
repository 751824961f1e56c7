"""Anyone's own domain: a folder with `catalog.json` and `<split>.jsonl`, else `dialogues.jsonl`, one dialogue per line.

Either may be gzipped (.gz).
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from proactor_lib.errors import UserError
from proactor_lib.files import numbered_jsonl, numbered_lines, plain_or_gzipped, read_json, write_json, write_jsonl
from proactor_lib.schema import Catalog, Dialogue

FOREIGN = {"messages": "chat", "segments": "whisper", "transcription": "whisper"}  # a key that tells another form


def read(folder: Path, split: str) -> tuple[Catalog, Iterator[Dialogue]]:
    """The catalog and the split's dialogues, read as they are used. UserError names the file, the line, the key."""
    catalog_file = plain_or_gzipped(folder / "catalog.json")
    if not catalog_file.exists():
        raise UserError(f"{folder} is not an own domain: it has no catalog.json; `proactor data import` makes one")
    catalog = read_json(catalog_file, Catalog)
    if (name := _unwritable(catalog)) is not None:
        raise UserError(
            f"{catalog_file}: an agent cannot write the name {name!r}: an action's has no white space, and neither an "
            "action's nor a parameter's has | or =, or is empty"
        )
    path = plain_or_gzipped(folder / f"{split}.jsonl")
    if not path.exists():
        path = plain_or_gzipped(folder / "dialogues.jsonl")
    if not path.exists():
        there = ", ".join(sorted({p.name.partition(".jsonl")[0] for p in folder.glob("*.jsonl*")})) or "none"
        raise UserError(
            f"{folder} has neither {split}.jsonl nor dialogues.jsonl; splits there: {there} "
            "(train_split, dev_split and test_split say from which a run takes its own)"
        )
    return catalog, _dialogues(path, catalog)


def _unwritable(catalog: Catalog) -> str | None:
    """The first name that has no place in an agent's output."""
    for action in catalog.actions:
        if not re.fullmatch(r"[^\s|=]+", action.name):
            return action.name
        for p in action.params:
            if not re.fullmatch(r"[^|=\n\r]+", p.name) or p.name != p.name.strip():
                return p.name
    return None


def _dialogues(path: Path, catalog: Catalog) -> Iterator[Dialogue]:
    seen: dict[str, int] = {}
    for line, dialogue in _lines(path):
        if problem := _problem(dialogue, catalog):
            raise UserError(f"{path}, line {line}: {problem}")
        if (first := seen.setdefault(dialogue.id, line)) != line:
            raise UserError(f"{path}, line {line}: the id {dialogue.id!r} was used at line {first} before")
        yield dialogue


def _lines(path: Path) -> Iterator[tuple[int, Dialogue]]:
    """The file's dialogues; where they are of a form that `proactor data import` reads, its UserError says so."""
    try:
        yield from numbered_jsonl(path, Dialogue)
    except UserError as error:
        first = next((text for _, text in numbered_lines(path)), "")
        form = next((form for key, form in FOREIGN.items() if f'"{key}"' in first), None)
        hint = f"; `proactor data import {path} --from {form}` reads such files" if form else ""
        raise UserError(f"{error}{hint}") from None


def _problem(dialogue: Dialogue, catalog: Catalog) -> str | None:
    """What the dialogue names that the catalog does not have."""
    known = ", ".join(catalog.by_name)
    for name in dialogue.actions:
        if name not in catalog.by_name:
            return f"actions: unknown action {name!r}; the catalog has: {known}"
    groups = sorted({a.group for a in catalog.actions})
    if unknown := [s for s in dialogue.services if s not in groups]:
        return f"services: no action of the catalog has the group {unknown[0]!r}; it has: {', '.join(groups)}"
    for i, o in enumerate(dialogue.observed or ()):
        if o.name not in catalog.by_name:
            return f"observed.{i}.name: unknown action {o.name!r}; the catalog has: {known}"
        accepted = [p.name for p in catalog.by_name[o.name].params]
        if unknown := [p for p in o.params if p not in accepted]:
            return f"observed.{i}.params: {o.name!r} has no parameter {unknown[0]!r}; it has: {', '.join(accepted)}"
    return None


def write(folder: Path, split: str, catalog: Catalog, dialogues: Iterable[Dialogue]) -> int:
    """Write what `read` reads: `<split>.jsonl` and `catalog.json`; returns the number of dialogues.

    A catalog that is there already gets the actions that it lacks, so that the splits of a corpus may share a folder;
    UserError if it describes an action otherwise.
    """
    merged = _merged(folder / "catalog.json", catalog)
    count = write_jsonl(folder / f"{split}.jsonl", dialogues)
    write_json(folder / "catalog.json", merged.model_dump(mode="json"))
    return count


def _merged(path: Path, catalog: Catalog) -> Catalog:
    if not path.exists():
        return catalog
    before = read_json(path, Catalog)
    if differ := [a.name for a in catalog.actions if before.by_name.get(a.name, a) != a]:
        raise UserError(f"{path} describes {differ[0]!r} otherwise: export to another folder, or delete it")
    new = tuple(a for a in catalog.actions if a.name not in before.by_name)
    return before.model_copy(update={"actions": before.actions + new})
