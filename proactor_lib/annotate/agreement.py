"""How good annotations are: against logged triggers, between annotators, against the truth of simulated dialogues.

Annotations are guidance, not ground truth; logged triggers filter them [paper]. The figures are ours. References are
paired one to one within a dialogue and an action, so that windows and parameters agree best in all.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from proactor_lib.metrics.alignment import f1
from proactor_lib.schema import Dialogue, DialogueReferences, ObservedAction, ReferenceAction, Window

if TYPE_CHECKING:
    import pandas as pd

A = TypeVar("A", ReferenceAction, ObservedAction)
B = TypeVar("B", ReferenceAction, ObservedAction)
Lines = Iterable[DialogueReferences]
NONE, CANDIDATE, READY = 0, 1, 2  # what an annotator says of an action at a turn


def iou(a: Window, b: Window) -> float:
    """Turns in both windows over turns in either, in [0, 1]."""
    shared = min(a.close, b.close) - max(a.open, b.open) + 1
    return max(0, shared) / (a.close - a.open + b.close - b.open + 2 - max(0, shared))


def paired(a: Sequence[A], b: Sequence[B], fit: Callable[[A, B], float]) -> Iterator[tuple[A | None, B | None]]:
    """Pairs of one action's name, one to one, whose fits (0: no pair) have the highest sum; then who is left alone."""
    from scipy.optimize import linear_sum_assignment

    left_a, left_b = set(range(len(a))), set(range(len(b)))
    for name in {x.name for x in a} & {y.name for y in b}:
        rows, columns = ([i for i, x in enumerate(side) if x.name == name] for side in (a, b))
        fits = np.array([[fit(a[i], b[j]) for j in columns] for i in rows])
        for r, c in zip(*linear_sum_assignment(fits, maximize=True), strict=True):
            if fits[r, c] > 0:
                left_a.discard(rows[r])
                left_b.discard(columns[c])
                yield a[rows[r]], b[columns[c]]
    yield from ((a[i], None) for i in sorted(left_a))
    yield from ((None, b[j]) for j in sorted(left_b))


def _fit_windows(a: ReferenceAction, b: ReferenceAction) -> float:
    return iou(a.window, b.window) + f1(a.values(), b.values(), how=b.params)


def _fit_trigger(r: ReferenceAction, o: ObservedAction) -> float:
    """Covering the trigger counts as much as agreeing on all parameters; the nearer window decides between equals."""
    fit = r.window.covers(o.turn) + f1(o.params, r.values(), how=r.params)
    return fit and fit + 1e-3 / (1 + abs(r.window.close - o.turn))


def with_observed(line: DialogueReferences, dialogue: Dialogue) -> DialogueReferences:
    """The references with the turns and times of the logged triggers that they pair with; as they are without a log."""
    if not dialogue.observed:
        return line
    found = {r.id: o for r, o in paired(line.references, dialogue.observed, _fit_trigger) if r and o}
    return line.model_copy(update={"references": tuple(_with_trigger(r, found.get(r.id)) for r in line.references)})


def _with_trigger(r: ReferenceAction, o: ObservedAction | None) -> ReferenceAction:
    time = {} if o is None or o.time is None else {"observed_time": o.time}
    return r.model_copy(update={"observed_turn": o and o.turn, **time})


def triggers(dialogues: Iterable[Dialogue], lines: Lines) -> "pd.DataFrame":
    """A row for each logged trigger with its reference, and for each that is alone; dialogues with a log only.

    Columns: dialogue_id, name, reference_id, observed_turn, open, ready, close (turns), covered (the window holds the
    trigger), lead (turns from `ready` to the trigger), param_f1; missing where one side is.
    """
    logged = {d.id: d.observed for d in dialogues if d.observed is not None}
    rows = [
        _trigger_row(line.dialogue_id, r, o)
        for line in lines
        if line.dialogue_id in logged
        for r, o in paired(line.references, logged[line.dialogue_id], _fit_trigger)
    ]
    return _table(rows, _trigger_row("", None, None))


def _trigger_row(dialogue_id: str, r: ReferenceAction | None, o: ObservedAction | None) -> dict[str, Any]:
    both = r is not None and o is not None
    return {
        "dialogue_id": dialogue_id,
        "name": r.name if r else o and o.name,
        "reference_id": r and r.id,
        "observed_turn": o and o.turn,
        **_turns(r),
        "covered": r.window.covers(o.turn) if both else None,
        "lead": o.turn - r.window.ready if both else None,
        "param_f1": f1(o.params, r.values(), how=r.params) if both else None,
    }


def _turns(r: ReferenceAction | None) -> dict[str, int | None]:
    return {key: r and getattr(r.window, key) for key in ("open", "ready", "close")}


def pairs(a: Lines, b: Lines) -> "pd.DataFrame":
    """A row for each pair of references of two annotators, and for each that is alone; dialogues of both only.

    Columns: dialogue_id, name, a, b (reference ids), iou (0 where alone), open, ready, close (turns of a minus b's),
    param_f1; missing where alone.
    """
    others = {line.dialogue_id: line for line in b}
    rows = [
        _pair_row(line.dialogue_id, x, y)
        for line in a
        if line.dialogue_id in others
        for x, y in paired(line.references, others[line.dialogue_id].references, _fit_windows)
    ]
    return _table(rows, _pair_row("", None, None))


def _pair_row(dialogue_id: str, x: ReferenceAction | None, y: ReferenceAction | None) -> dict[str, Any]:
    both = x is not None and y is not None
    ours, theirs = _turns(x), _turns(y)
    return {
        "dialogue_id": dialogue_id,
        "name": x.name if x else y and y.name,
        "a": x and x.id,
        "b": y and y.id,
        "iou": iou(x.window, y.window) if both else 0.0,
        **{key: ours[key] - theirs[key] if both else None for key in ours},
        "param_f1": f1(x.values(), y.values(), how=y.params) if both else None,
    }


def _table(rows: list[dict[str, Any]], empty: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    texts = ("dialogue_id", "name", "reference_id", "a", "b")
    table = pd.DataFrame(rows, columns=list(empty))
    return table.astype({c: float for c in table.columns if c not in texts})


def by_action(lines: Lines) -> "pd.DataFrame":
    """One row per action, the most frequent first: references, mean turns from open to ready, from ready to close."""
    import pandas as pd

    rows = [
        {"action": r.name, "to_ready": r.window.ready - r.window.open, "to_close": r.window.close - r.window.ready}
        for line in lines
        for r in line.references
    ]
    table = pd.DataFrame(rows, columns=["action", "to_ready", "to_close"]).groupby("action")
    found = table.agg(references=("to_ready", "size"), to_ready=("to_ready", "mean"), to_close=("to_close", "mean"))
    return found.sort_values(["references", "action"], ascending=[False, True])


def against_triggers(dialogues: Iterable[Dialogue], lines: Lines, bootstrap: int = 2000) -> "pd.DataFrame":
    """How the references fit the logged triggers: columns metric, value, low, high (95%, bootstrap over dialogues).

    found, coverage: shares of the triggers that have a reference, and one whose window holds them; unlogged: share of
    the references without a trigger; lead: mean turns from `ready` to the trigger; param_agreement: mean F1 of the
    pairs.
    """
    t = triggers(dialogues, lines)
    both, logged = t.covered.notna(), t.observed_turn.notna()
    return _ratios(
        t.dialogue_id,
        {
            "found": (both, logged),
            "coverage": (t.covered, logged),
            "unlogged": (~logged, t.reference_id.notna()),
            "lead": (t.lead, both),
            "param_agreement": (t.param_f1, both),
        },
        bootstrap,
    )


def agreement(dialogues: Sequence[Dialogue], a: Lines, b: Lines, bootstrap: int = 2000) -> "pd.DataFrame":
    """How far two annotators agree: columns metric, value, low, high (95%, bootstrap over dialogues).

    paired: pairs over pairs and unpaired references; iou: mean over pairs and the unpaired, these
    being 0; ready_within_one: share of the pairs whose `ready` differ by at most one turn; param_agreement; alpha:
    Krippendorff's.
    """
    import pandas as pd

    a, b = list(a), list(b)
    t = pairs(a, b)
    both = t.ready.notna()
    figures = {
        "paired": (both, both | True),
        "iou": (t.iou, both | True),
        "ready_within_one": (t.ready.abs() <= 1, both),
        "param_agreement": (t.param_f1, both),
    }
    return pd.concat(
        [_ratios(t.dialogue_id, figures, bootstrap), alpha(dialogues, [a, b], bootstrap)], ignore_index=True
    )


def against_truth(lines: Lines, truth: Lines, bootstrap: int = 2000) -> "pd.DataFrame":
    """The error against true windows: columns metric, value, low, high (95%, bootstrap over dialogues).

    found: share of the true references that have a partner; extra: share of the references that have none; then, of
    the pairs: shares whose open, ready, close, and whole window are exactly true, the mean absolute error of `ready`
    in turns, and the parameters' mean F1.
    """
    t = pairs(lines, truth)
    both, exact = t.ready.notna(), t[["open", "ready", "close"]] == 0
    return _ratios(
        t.dialogue_id,
        {
            "found": (both, t.b.notna()),
            "extra": (t.b.isna(), t.a.notna()),
            **{f"{key}_exact": (exact[key], both) for key in exact},
            "window_exact": (exact.all(axis=1), both),
            "ready_error": (t.ready.abs(), both),
            "param_agreement": (t.param_f1, both),
        },
        bootstrap,
    )


def _ratios(dialogue: "pd.Series", figures: Mapping[str, tuple], bootstrap: int) -> "pd.DataFrame":
    """Each figure is a ratio of two sums over dialogues; null where the sum below is 0."""
    import pandas as pd

    columns = {(name, i): pair[i].astype(float) for name, pair in figures.items() for i in (0, 1)}
    sums = pd.DataFrame(columns).groupby(dialogue.to_numpy()).sum().to_numpy()
    return _intervals(list(figures), sums, lambda s: _divide(s[:, 0::2], s[:, 1::2]), bootstrap)


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _intervals(names: list[str], sums: np.ndarray, figures: Callable, bootstrap: int) -> "pd.DataFrame":
    """`figures` maps sums (rows, columns) to figures (rows, names); `sums` has one row per dialogue."""
    from proactor_lib.metrics import statistics
    from proactor_lib.metrics.intervals import with_intervals

    if not len(sums):
        return with_intervals(names, *np.full((3, len(names)), np.nan))
    return with_intervals(names, *statistics.bootstrap(lambda w: figures(w @ sums), len(sums), bootstrap, 0)[:3])


def alpha(dialogues: Sequence[Dialogue], annotators: Sequence[Lines], bootstrap: int = 2000) -> "pd.DataFrame":
    """Krippendorff's alpha (nominal) of two or more annotators: one row of metric, value, low, high.

    A unit is one turn and one action that some annotator lists in the dialogue; the values are none, candidate,
    ready. A dialogue that an annotator lacks (it failed) is missing data. 1: full agreement, 0: chance.
    """
    by_id = [{line.dialogue_id: line.references for line in lines} for lines in annotators]
    sums = [
        _coincidences([levels(given[d.id], names, len(d.turns)) for given in by_id if d.id in given])
        for d in dialogues
        if (names := sorted({r.name for given in by_id for r in given.get(d.id, ())}))
    ]
    return _intervals(["alpha"], np.array(sums).reshape(len(sums), 9), _alpha, bootstrap)


def levels(references: Iterable[ReferenceAction], names: Sequence[str], turns: int) -> np.ndarray:
    """What an annotator says of each action at each turn: 0 none, 1 candidate, 2 ready; shape (names, turns)."""
    said = np.zeros((len(names), turns), dtype=int)
    for r in references:
        row = said[names.index(r.name)]
        row[r.window.open - 1 : r.window.close] = np.maximum(row[r.window.open - 1 : r.window.close], CANDIDATE)
        row[r.window.ready - 1 : r.window.close] = READY
    return said


def _coincidences(said: list[np.ndarray]) -> np.ndarray:
    """The coincidence matrix of the units' values, shape (9,): ordered pairs of annotators, over annotators - 1."""
    total = np.zeros((3, 3))
    for i, x in enumerate(said):
        for j, y in enumerate(said):
            if i != j:
                np.add.at(total, (x.ravel(), y.ravel()), 1 / (len(said) - 1))
    return total.ravel()


def _alpha(sums: np.ndarray) -> np.ndarray:
    """Alpha = 1 - observed / expected disagreement, for rows of coincidence matrices, shape (rows, 1)."""
    o = sums.reshape(-1, 3, 3)
    of_value = o.sum(axis=2)
    n = of_value.sum(axis=1)
    observed = n - np.trace(o, axis1=1, axis2=2)
    expected = n**2 - (of_value**2).sum(axis=1)
    return 1 - _divide(observed * (n - 1), expected)[:, None]
