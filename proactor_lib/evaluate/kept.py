"""One policy's predictions on disk, kept as they come: a run that is killed goes on without asking again.

<policy>.partial grows line by line; when all is there it becomes <policy>.jsonl, with <policy>.parquet beside it.
<policy>.made.json says what they were made from: predictions made from anything else are thrown away.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proactor_lib.files import atomic, read_jsonl, write_json, write_jsonl, write_table
from proactor_lib.schema import TurnPrediction


class Kept:
    """The predictions of `policy` in `folder`, made from `made_from` (JSON values)."""

    def __init__(self, folder: Path, policy: str, made_from: Mapping[str, Any]):
        self.path, self.table = folder / f"{policy}.jsonl", folder / f"{policy}.parquet"
        self._partial, made = folder / f"{policy}.partial", folder / f"{policy}.made.json"
        if not made.exists() or json.loads(made.read_text()) != json.loads(json.dumps(made_from)):
            for stale in (self.path, self.table, self._partial):
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
        """Whether every prediction was made."""
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

    def finish(self) -> None:
        """All is there: write the final files, in order of dialogue and turn."""
        lines = [turns[t] for _, turns in sorted(self._lines.items()) for t in sorted(turns)]
        write_table(self.table, as_table(lines))
        write_jsonl(self.path, lines)
        self._partial.unlink(missing_ok=True)


def as_table(lines: list[TurnPrediction]):
    """A row a prediction with the fields of schema.TurnPrediction; its actions are JSON."""
    import pandas as pd

    rows = [line.model_dump() | {"actions": json.dumps([a.model_dump() for a in line.actions])} for line in lines]
    return pd.DataFrame(rows, columns=list(TurnPrediction.model_fields))
