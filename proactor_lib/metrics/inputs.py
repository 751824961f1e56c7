"""The three files that `proactor score` reads, checked line by line against one another."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel

from proactor_lib.errors import UserError
from proactor_lib.files import numbered_jsonl
from proactor_lib.metrics.scores import Checked
from proactor_lib.schema import Dialogue, DialogueReferences, TurnPrediction

M = TypeVar("M", bound=BaseModel)


class Inputs(NamedTuple):
    """What `score_predictions` takes."""

    dialogues: list[Dialogue]
    references: list[DialogueReferences]
    predictions: list[TurnPrediction]

    def unannotated(self) -> set[str]:
        """Dialogues with predictions and no line of references: they count as dialogues where nothing was needed."""
        return {p.dialogue_id for p in self.predictions} - {r.dialogue_id for r in self.references}


def read_inputs(dialogues: Path, references: Path, predictions: Path | None = None) -> Inputs:
    """Read and check JSONL files of Dialogue, DialogueReferences and (where given) TurnPrediction lines.

    Raises UserError, naming the file and the line, for what a schema or `Checked` refuses.
    """
    checked = Checked(())
    return Inputs(
        list(_lines(dialogues, Dialogue, checked.dialogue)),
        list(_lines(references, DialogueReferences, checked.reference)),
        list(_lines(predictions, TurnPrediction, checked.prediction)) if predictions else [],
    )


def _lines(path: Path, model: type[M], check: Callable[[M], M]) -> Iterator[M]:
    for number, record in numbered_jsonl(path, model):
        try:
            yield check(record)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
