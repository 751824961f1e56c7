"""Where a method is good and where not: the metrics by action, domain, place in the dialogue, window length [ours].

- action: predictions and references of that action alone, as if the catalog held no other. A turn is scored for it when
  the action is predicted or open there.
- domain: the dialogues of that domain. Where actions are named `Restaurants_2.FindRestaurants`, as SGD's services are,
  the domain is the service's (`Restaurants`) and holds its actions alone: a dialogue may be about several.
- position: thirds of each dialogue's turns; a reference belongs to the third that holds its `ready` turn.
- window: the number of turns from `open` to `close`. A prediction belongs to no window, so only the metrics of
  references (opportunity timing, lead, missed, late, premature) are defined.

A right execution belongs where its reference does, a false one where its turn and action do. Turns at which nothing is
needed belong to no group, so `false_needs` and `balanced_accuracy` are undefined.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from proactor_lib.metrics.intervals import METRICS, bootstrapped, with_intervals
from proactor_lib.metrics.scores import DialogueTable, Scores, dialogue_table

By = Literal["action", "domain", "position", "window"]
THIRDS = ("first third", "second third", "last third")
WINDOWS = ("1", "2-3", "4-7", "8+")  # turns


def breakdown(methods: Mapping[str, Scores], by: By, bootstrap: int = 2000, seed: int = 0) -> pd.DataFrame:
    """One row per (group, method, metric) with value, low, high and `references`, the group's number of them.

    Groups are those of any method, in order of name, third or length. Raises UserError as `table` does.
    """
    labelled = {name: (scores, labels(scores, by)) for name, scores in methods.items()}
    found = set().union(*(set(label.cells) | set(label.references) for _, label in labelled.values())) - {""}
    order = {"position": THIRDS, "window": WINDOWS}.get(by, sorted(found))
    return pd.concat(
        [_group(group, labelled, bootstrap, seed) for group in order if group in found] or [_empty()],
        ignore_index=True,
    )


class Labels(NamedTuple):
    """The group of each row of a method's frames; `""` is none. `executions`: None where there are none."""

    cells: np.ndarray
    references: np.ndarray
    executions: np.ndarray | None


def labels(scores: Scores, by: By) -> Labels:
    """The groups of the rows of `scores`."""
    cells, references = (_labels(f, scores.about, by, turn) for f, turn in _frames(scores))
    if scores.sampled or by == "window":
        return Labels(cells, references, None)
    keys = zip(scores.references.dialogue_id, scores.references.id, strict=True)
    of_reference = dict(zip(keys, references, strict=True))
    by_turn = _labels(scores.executions, scores.about, by, "turn")
    taken = zip(scores.executions.dialogue_id, scores.executions.reference, by_turn, strict=True)
    return Labels(cells, references, np.array([of_reference.get((d, r), label) for d, r, label in taken], object))


def _frames(scores: Scores) -> list[tuple[pd.DataFrame, str]]:
    """The cells and the references, each with the column that places a row in its dialogue."""
    return [(scores.cells, "turn"), (scores.references, "ready")]


def _labels(frame: pd.DataFrame, about: pd.DataFrame, by: By, turn: str) -> np.ndarray:
    about = about.set_index("dialogue_id")
    if by == "action":
        return frame.action.to_numpy()
    if by == "domain":
        return _domains(frame, about.domain)
    if by == "position":
        return _thirds(frame[turn].to_numpy(), about.turns.reindex(frame.dialogue_id).to_numpy())
    if "close" not in frame:
        return np.full(len(frame), "")
    return np.array(WINDOWS)[np.digitize((frame.close - frame.open + 1).to_numpy(), [2, 4, 8])]


def _domains(frame: pd.DataFrame, of_dialogue: pd.Series) -> np.ndarray:
    service = frame.action.astype(str).str.extract(r"^(.+?)(?:_\d+)?\.", expand=False).to_numpy()
    return np.where(pd.isna(service), of_dialogue.reindex(frame.dialogue_id).to_numpy(), service)


def _thirds(turn: np.ndarray, turns: np.ndarray) -> np.ndarray:
    return np.array(THIRDS)[np.clip(np.ceil(3 * turn / turns).astype(int) - 1, 0, 2)]


def _group(group: str, labelled: dict, bootstrap: int, seed: int) -> pd.DataFrame:
    tables = {name: _table(group, scores, label) for name, (scores, label) in labelled.items()}
    frames = [
        with_intervals(METRICS, *of_method).assign(method=name, references=int(tables[name].references.sum()))
        for name, *of_method in zip(tables, *bootstrapped(tables, bootstrap, seed)[:3], strict=True)
    ]
    return pd.concat(frames).assign(group=group)[_empty().columns]


def _table(group: str, scores: Scores, label: Labels) -> DialogueTable:
    """The dialogue table of one method's rows in a group."""
    executions = None if label.executions is None else scores.executions[label.executions == group]
    cells, references = scores.cells[label.cells == group], scores.references[label.references == group]
    return dialogue_table(cells, references, executions, scores.about.assign(evaluated_turns=0), scores.price)


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=["group", "method", "metric", "value", "low", "high", "references"])
