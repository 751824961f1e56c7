"""What policies predicted, on disk: the one reader and writer of a run's predictions.

<policy>.partial grows line by line, so that a run that is killed goes on without asking again; when all is there it
becomes <policy>.jsonl. <policy>.made.json says what they were made from: predictions made from anything else are
thrown away. A dialogue that leaves the split keeps its predictions here, for it may come back.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from proactor_lib.errors import UserError
from proactor_lib.files import atomic, read_jsonl, read_lines, read_text, write_json, write_jsonl
from proactor_lib.provenance import fingerprint, hashed
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import TurnPrediction

TEST, DEV = "test", "dev"


def folder(run: RunFolder, split: str = TEST) -> Path:
    """Where the predictions of a split lie: a subfolder but for test."""
    return run.predictions if split == TEST else run.predictions / split


def tuned_from(run: RunFolder, policy: str, split: str) -> dict[str, Any]:
    """What the predictions of `<policy>_tuned` on the split are made from, as JSON values: what `policy` said there
    and on dev, and dev's windows."""
    said = [folder(run, s) / f"{policy}.jsonl" for s in (split, DEV)]
    windows = (line.model_dump_json() for line in run.references(DEV))
    return {"files": list(map(fingerprint, said)), "windows": hashed(windows)}


def policies(run: RunFolder, split: str = TEST) -> list[str]:
    """The policies whose predictions are all there: the order of the parameters, then the alphabet's."""
    names = sorted(p.stem for p in folder(run, split).glob("*.jsonl"))
    return sorted(names, key=lambda n: run.params.policies.index(n) if n in run.params.policies else len(names))


def read(run: RunFolder, policy: str, split: str = TEST) -> list[TurnPrediction]:
    """The policy's predictions, in order of dialogue and turn, but for dialogues that the split no longer uses.

    UserError where there are none.
    """
    path = folder(run, split) / f"{policy}.jsonl"
    if not path.exists():
        kept = ", ".join(sorted(p.stem for p in path.parent.glob("*.jsonl"))) or "none"
        raise UserError(f"{run.out} keeps no predictions of {policy!r} on {split}; kept there: {kept}")
    lines = read_lines(path, TurnPrediction)
    unused = {d.id for d in run.conversations(split)} - {d.id for d in run.dialogues(split)}
    return [line for line in lines if line.dialogue_id not in unused]


def read_all(run: RunFolder, split: str = TEST) -> dict[str, list[TurnPrediction]]:
    """The predictions of all `policies`, by policy; empty where nobody was asked."""
    return {name: read(run, name, split) for name in policies(run, split)}


class PredictionLog:
    """The predictions of `policy` in `folder`, made from `made_from` (JSON values), written as they come."""

    def __init__(self, folder: Path, policy: str, made_from: Mapping[str, Any]):
        self.path = folder / f"{policy}.jsonl"
        self._partial, made = folder / f"{policy}.partial", folder / f"{policy}.made.json"
        if not made.exists() or json.loads(read_text(made)) != json.loads(json.dumps(made_from)):
            for stale in (self.path, self._partial):
                stale.unlink(missing_ok=True)
            write_json(made, made_from)
        self._lines: dict[str, dict[int, TurnPrediction]] = defaultdict(dict)
        for line in self._read():
            self._lines[line.dialogue_id][line.turn] = line

    def _read(self) -> list[TurnPrediction]:
        if self.complete:
            return list(read_jsonl(self.path, TurnPrediction))
        if not self._partial.exists():
            return []
        whole, newline, half = self._partial.read_bytes().rpartition(b"\n")
        if half:  # the line that a kill cut short
            with atomic(self._partial, "wb") as f:
                f.write(whole + newline)
        return list(read_jsonl(self._partial, TurnPrediction))

    @property
    def complete(self) -> bool:
        """Whether every prediction was made that was asked for then."""
        return self.path.exists()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def of(self, dialogue_id: str) -> Mapping[int, TurnPrediction]:
        """The dialogue's predictions so far, by turn."""
        return self._lines[dialogue_id]

    def add(self, line: TurnPrediction) -> None:
        """Keep one more: it is in the file when this returns."""
        self._lines[line.dialogue_id][line.turn] = line
        handle = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, (line.model_dump_json(exclude_unset=True) + "\n").encode())
        finally:
            os.close(handle)

    def missing(self, dialogue_id: str, turns: Iterable[int]) -> set[int]:
        """Those of the dialogue's turns that have no prediction yet."""
        return set(turns) - self.of(dialogue_id).keys()

    def reopen(self) -> None:
        """More is to come: what was whole is partial again, until `finish`."""
        if self.complete:
            self.path.replace(self._partial)

    def write(self, lines: Iterable[TurnPrediction]) -> None:
        """All of them at once."""
        self._lines = defaultdict(dict)
        for line in lines:
            self._lines[line.dialogue_id][line.turn] = line
        self.finish()

    def finish(self) -> None:
        """All is there: write the final file, in order of dialogue and turn."""
        write_jsonl(self.path, (turns[t] for _, turns in sorted(self._lines.items()) for t in sorted(turns)))
        self._partial.unlink(missing_ok=True)
