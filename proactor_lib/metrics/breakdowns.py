"""Where a method is good and where not: the metrics by action, domain, place in the dialogue, window length [ours].

- action: predictions and references of that action alone, as if the catalog held no other. A turn is scored for it when
  the action is predicted or open there.
- domain: the dialogues of that domain. Where actions are named `Restaurants_2.FindRestaurants`, as SGD's services are,
  the domain is the service's (`Restaurants`) and holds its actions alone: a dialogue may be about several.
- position: thirds of each dialogue's turns; a reference belongs to the third that holds its `ready` turn.
- window: the number of turns from `open` to `close`. A prediction belongs to no window, so only the metrics of
  references (opportunity timing, lead, missed, late, premature) are defined.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from proactor_lib.metrics.intervals import METRICS, bootstrapped, with_intervals
from proactor_lib.metrics.scores import Scores, dialogue_table

By = Literal["action", "domain", "position", "window"]
THIRDS = ("first third", "second third", "last third")
WINDOWS = ("1", "2-3", "4-7", "8+")  # turns


def breakdown(methods: Mapping[str, Scores], by: By, bootstrap: int = 2000, seed: int = 0) -> pd.DataFrame:
    """A row a (group, method, metric) with value, low, high and `references`, the group's number of them.

    Groups are those of any method, in order of name, third or length. Raises UserError as `table` does.
    """
    labelled = {name: (scores, *labels(scores, by)) for name, scores in methods.items()}
    found = set().union(*(set(c) | set(r) for _, c, r in labelled.values())) - {""}
    order = {"position": THIRDS, "window": WINDOWS}.get(by, sorted(found))
    return pd.concat(
        [_group(group, labelled, bootstrap, seed) for group in order if group in found] or [_empty()],
        ignore_index=True,
    )


def labels(scores: Scores, by: By) -> tuple[np.ndarray, np.ndarray]:
    """The group of each cell and of each reference, shapes (cells,) and (references,); `""` is none."""
    cells, references = scores.cells, scores.references
    about = scores.about.set_index("dialogue_id")
    if by == "action":
        return cells.action.to_numpy(), references.action.to_numpy()
    if by == "domain":
        return tuple(_domains(f, about.domain) for f in (cells, references))
    if by == "position":
        ends = [(cells.turn, cells), (references.ready, references)]
        return tuple(_thirds(t.to_numpy(), about.turns.reindex(f.dialogue_id).to_numpy()) for t, f in ends)
    length = (references.close - references.open + 1).to_numpy()
    return np.full(len(cells), ""), np.array(WINDOWS)[np.digitize(length, [2, 4, 8])]


def _domains(frame: pd.DataFrame, of_dialogue: pd.Series) -> np.ndarray:
    service = frame.action.astype(str).str.extract(r"^(.+?)(?:_\d+)?\.", expand=False).to_numpy()
    return np.where(pd.isna(service), of_dialogue.reindex(frame.dialogue_id).to_numpy(), service)


def _thirds(turn: np.ndarray, turns: np.ndarray) -> np.ndarray:
    return np.array(THIRDS)[np.clip(np.ceil(3 * turn / turns).astype(int) - 1, 0, 2)]


def _group(group: str, labelled: dict, bootstrap: int, seed: int) -> pd.DataFrame:
    tables = {
        n: dialogue_table(s.cells[c == group], s.references[r == group], s.about) for n, (s, c, r) in labelled.items()
    }
    frames = [
        with_intervals(METRICS, v, s).assign(method=name, references=int(tables[name].references.sum()))
        for name, v, s in zip(tables, *bootstrapped(tables, bootstrap, seed), strict=True)
    ]
    return pd.concat(frames).assign(group=group)[_empty().columns]


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=["group", "method", "metric", "value", "low", "high", "references"])
