"""Predictions of whole dialogues -> what happened at each turn, to each reference, and in each dialogue.

Four tables of one agent, each a plain frame that Parquet can hold:
- cells: one row per (dialogue, turn, action) with a prediction or an open reference; every turn-level metric is a sum
  or a maximum over a turn's cells, since predictions align only with references of their own name;
- references: one row per reference, with the turn that first triggered it;
- executions: one row per execution, right or false (metrics.executions); none where turns were sampled;
- dialogues (`DialogueTable`): one row per dialogue, from which every metric is a ratio of two column sums.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from proactor_lib.errors import UserError
from proactor_lib.metrics.alignment import Values, alignment, as_set, matches, prediction_key
from proactor_lib.metrics.executions import PRICE, Executor
from proactor_lib.metrics.timing import Matcher, claim, outcome, timing_score
from proactor_lib.schema import Dialogue, DialogueReferences, ReferenceAction, TurnPrediction

DialogueTable = pd.DataFrame
CELL = ["dialogue_id", "turn", "action"]
_SUMS = ["predictions", "ready", "faults", "aligned", "matched", "named", "exact", "open"]
EXECUTION = ["dialogue_id", "turn", "action", "reference", "timing"]
_COUNTS = ["predictions", "ready", "faults", "named", "exact", "needed", "unmet", "unneeded"]
SECONDS = ("lead_seconds", "wait_seconds")  # of references whose turns have time stamps
MEASURED = {"lead": "led", "lead_seconds": "led_in_seconds", "wait_seconds": "waited"}  # a sum and its count
_OUTCOMES = ["missed", "late", "premature"]


@dataclass(frozen=True)
class Scores:
    """One agent's scores on a set of dialogues.

    `cells`: dialogue_id, turn, action, predictions, ready, faults (counts), aligned (sum of best alignments), best
    (their maximum), matched (sum over ready matches), named, exact (ready predictions whose action is open, and of
    these the ones with every parameter right), open (references open). `references`: dialogue_id, id, action, open,
    ready, close, observed (turn or NaN), triggered (turn or NaN), timing (score), outcome, lead (turns or NaN),
    lead_seconds and wait_seconds (by the turns' time stamps, or NaN; `Clock`).
    `executions`: dialogue_id, turn, action, reference (its id; None of a false execution), timing (score); empty where
    turns were sampled. `about`: dialogue_id, domain, turns, evaluated_turns (how many) of every dialogue, by id.
    """

    cells: pd.DataFrame
    references: pd.DataFrame
    executions: pd.DataFrame
    about: pd.DataFrame
    theta: float
    values: Values
    price: float  # of a false execution, in missed opportunities

    @property
    def sampled(self) -> bool:
        """Whether the agent was asked at some turns only: then nothing is known of what it would have executed."""
        return bool((self.about.evaluated_turns < self.about.turns).any())

    @property
    def dialogues(self) -> DialogueTable:
        """One row per dialogue: what metrics, intervals and comparisons are computed from."""
        executions = None if self.sampled else self.executions
        return dialogue_table(self.cells, self.references, executions, self.about, self.price)


def evaluate_predictions(
    dialogues: Iterable[Dialogue],
    references: Iterable[DialogueReferences],
    predictions: Iterable[TurnPrediction],
    theta: float = 0.75,
    values: Values = "normalised",
    evaluated_turns: Mapping[str, Collection[int]] | None = None,
    price: float = PRICE,
) -> DialogueTable:
    """One agent's per-dialogue table; see `dialogue_table` for its columns, `score_predictions` for what it raises."""
    return score_predictions(dialogues, references, predictions, theta, values, evaluated_turns, price).dialogues


def score_predictions(
    dialogues: Iterable[Dialogue],
    references: Iterable[DialogueReferences],
    predictions: Iterable[TurnPrediction],
    theta: float = 0.75,
    values: Values = "normalised",
    evaluated_turns: Mapping[str, Collection[int]] | None = None,
    price: float = PRICE,
) -> Scores:
    """Score one agent. A turn or a dialogue without a prediction is silence; one without references needs nothing.

    `evaluated_turns`: the turns at which the agent was asked, by dialogue id, where that was not all of them. Then
    only those turns are scored, there are no executions, and a reference counts only if [ready, close] holds one of
    them; its timing score is 1 up to the first of these [ours]. `price`: of a false execution, in missed opportunities.
    Raises UserError for what `Checked` refuses: unknown dialogues, turns beyond the end, anything given twice.
    """
    checked = Checked(dialogues)
    references_of = {r.dialogue_id: r.references for r in map(checked.reference, references)}
    outputs = defaultdict(list)
    evaluated_turns = _sampled(evaluated_turns, checked.lengths)
    for prediction in map(checked.prediction, predictions):
        if evaluated_turns is None or prediction.turn in evaluated_turns.get(prediction.dialogue_id, ()):
            outputs[prediction.dialogue_id].append(prediction)
    predicted, triggered, executed = [], [], []
    for dialogue_id in sorted(checked.lengths):
        known, lines = references_of.get(dialogue_id, ()), sorted(outputs[dialogue_id], key=lambda o: o.turn)
        rows, first = _score_dialogue(known, lines, theta, values)
        predicted += rows
        clock = checked.clocks[dialogue_id]
        triggered += [_reference_row(dialogue_id, r, first.get(i), evaluated_turns, clock) for i, r in enumerate(known)]
        executed += _execution_rows(dialogue_id, known, lines, theta, values) if evaluated_turns is None else []
    references_ = _reference_frame(triggered)
    cells = _cells(_prediction_frame(predicted, theta), references_)
    about = checked.about()
    if evaluated_turns is not None:
        cells, about = (
            _only(evaluated_turns, cells),
            about.assign(evaluated_turns=[len(evaluated_turns.get(i, ())) for i in about.dialogue_id]),
        )
        references_ = references_[references_.due.notna()]
    executions = pd.DataFrame(executed, columns=EXECUTION).astype({"turn": int, "timing": float})
    return Scores(cells, references_.drop(columns="due"), executions, about, theta, values, price)


def _sampled(
    evaluated_turns: Mapping[str, Collection[int]] | None, lengths: Mapping[str, int]
) -> dict[str, set[int]] | None:
    """The turns asked; None where that is all turns of all dialogues."""
    if evaluated_turns is None or all(
        set(evaluated_turns.get(i, ())) >= set(range(1, n + 1)) for i, n in lengths.items()
    ):
        return None
    return {i: set(turns) for i, turns in evaluated_turns.items()}


def _only(evaluated_turns: Mapping[str, set[int]], cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of the turns asked."""
    kept = [turn in evaluated_turns.get(i, ()) for i, turn in zip(cells.dialogue_id, cells.turn, strict=True)]
    return cells[np.array(kept, bool)]


class Clock(NamedTuple):
    """The moment of each turn of a dialogue, in seconds into it; None where it has no time stamp [ours]."""

    moments: Sequence[float | None]

    def lead(self, triggered: int | None, r: ReferenceAction) -> float:
        """Seconds from the first trigger to the logged one; NaN where either has none."""
        logged = r.observed_time if r.observed_time is not None else self._at(r.observed_turn)
        return _difference(self._at(triggered), logged)

    def wait(self, triggered: int | None, r: ReferenceAction) -> float:
        """Seconds from `ready` to the first trigger: how late it is, 0 where it came before; NaN without one."""
        return _difference(self._at(r.window.ready), self._at(triggered and max(triggered, r.window.ready)))

    def _at(self, turn: int | None) -> float | None:
        return None if turn is None else self.moments[turn - 1]


def _difference(first: float | None, second: float | None) -> float:
    return np.nan if first is None or second is None else round(second - first, 3)


class Checked:
    """Dialogues by id, and records that fit them: a method returns its record or raises UserError with the reason."""

    def __init__(self, dialogues: Iterable[Dialogue]):
        self.lengths: dict[str, int] = {}
        self.clocks: dict[str, Clock] = {}
        self._domains: dict[str, str] = {}
        self._seen = set()
        for dialogue in dialogues:
            self.dialogue(dialogue)

    def dialogue(self, dialogue: Dialogue) -> Dialogue:
        """A dialogue whose id is new."""
        if dialogue.id in self.lengths:
            raise UserError(f"dialogue {dialogue.id!r} is there twice; ids must be unique")
        self.lengths[dialogue.id] = len(dialogue.turns)
        self.clocks[dialogue.id] = Clock([t.moment for t in dialogue.turns])
        self._domains[dialogue.id] = dialogue.domain
        return dialogue

    def reference(self, line: DialogueReferences) -> DialogueReferences:
        """References of a known dialogue, the first for it, with windows inside it and ids of their own."""
        self._known(line.dialogue_id, ("references",), "the references")
        ids = set()
        for r in line.references:
            self._inside(line.dialogue_id, r.window.close, f"the window of reference {r.id!r} closes")
            if r.id in ids:
                raise UserError(
                    f"dialogue {line.dialogue_id!r} has two references with the id {r.id!r}; ids must be unique"
                )
            ids.add(r.id)
        return line

    def prediction(self, line: TurnPrediction) -> TurnPrediction:
        """The first prediction for a turn of a known dialogue."""
        self._known(line.dialogue_id, ("turn", line.turn), f"turn {line.turn}")
        self._inside(line.dialogue_id, line.turn, "a prediction stands")
        return line

    def about(self) -> pd.DataFrame:
        """dialogue_id, domain, turns, evaluated_turns (all): one row per dialogue, in order of id."""
        ids = sorted(self.lengths)
        return pd.DataFrame(
            {"dialogue_id": ids, "domain": [self._domains[i] for i in ids], "turns": [self.lengths[i] for i in ids]}
        ).assign(evaluated_turns=lambda about: about.turns)

    def _known(self, dialogue_id: str, key: tuple, what: str) -> None:
        if dialogue_id not in self.lengths:
            raise UserError(
                f"unknown dialogue {dialogue_id!r}; accepted: the ids of the {len(self.lengths)} dialogues given"
            )
        if (dialogue_id, *key) in self._seen:
            raise UserError(f"dialogue {dialogue_id!r} has {what} twice; accepted: once")
        self._seen.add((dialogue_id, *key))

    def _inside(self, dialogue_id: str, turn: int, what: str) -> None:
        if turn > self.lengths[dialogue_id]:
            end = self.lengths[dialogue_id]
            raise UserError(
                f"dialogue {dialogue_id!r}: {what} at turn {turn}; accepted: 1 to {end}, the dialogue's turns"
            )


def _score_dialogue(
    references: Sequence[ReferenceAction], outputs: list[TurnPrediction], theta: float, values: Values
) -> tuple[list[tuple], dict[int, int]]:
    """Rows (dialogue, turn, action, ready, best alignment) of the predictions; first trigger by reference index.

    `outputs` in order of turn.
    """
    named = defaultdict(list)
    for index, reference in enumerate(references):
        named[reference.name].append((index, reference))
    rows, matcher = [], Matcher()
    for output in outputs:
        claims = []
        for p in as_set(output.actions, values):
            best, ready = 0.0, p.status == "ready"
            for index, r in named.get(p.name, ()):
                covers = r.window.covers(output.turn)
                s = alignment(p, r, output.turn, values) if covers or ready else 0.0
                best = max(best, s) if covers else best
                if ready and matches(s, theta):
                    claims.append(claim(output.turn, prediction_key(p, values), s, index, r))
            rows.append((output.dialogue_id, output.turn, p.name, ready, best))
        matcher.turn(output.turn, claims)
    return rows, matcher.triggered


def _execution_rows(
    dialogue_id: str, references: Sequence[ReferenceAction], outputs: list[TurnPrediction], theta: float, values: Values
) -> list[tuple]:
    """Rows of EXECUTION; `outputs` in order of turn."""
    executor = Executor(references, theta, values)
    return [
        (dialogue_id, o.turn, e.prediction.name, None if e.reference is None else references[e.reference].id, e.timing)
        for o in outputs
        for e in executor.turn(o.turn, o.actions)
    ]


def _reference_row(
    dialogue_id: str,
    r: ReferenceAction,
    triggered: int | None,
    evaluated_turns: Mapping[str, set[int]] | None,
    clock: Clock,
) -> tuple:
    """`due`, the last value: the turn up to which a trigger scores 1; None where the reference does not count."""
    w = r.window
    turns = {w.ready} if evaluated_turns is None else evaluated_turns.get(dialogue_id, set())
    due = min((t for t in turns if w.ready <= t <= w.close), default=None)
    seconds = clock.lead(triggered, r), clock.wait(triggered, r)
    return dialogue_id, r.id, r.name, w.open, w.ready, w.close, r.observed_turn, triggered, *seconds, due


def _prediction_frame(rows: list[tuple], theta: float) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*CELL, "ready", "aligned"])
    frame = frame.astype({"turn": int, "ready": int, "aligned": float})
    match = matches(frame.aligned, theta)
    return frame.assign(
        predictions=1,
        faults=frame.ready.where(~match, 0),
        matched=frame.aligned.where(match & (frame.ready == 1), 0.0),
        best=frame.aligned,
        named=((frame.aligned > 0) & (frame.ready == 1)).astype(int),
        exact=(matches(frame.aligned, 1.0) & (frame.ready == 1)).astype(int),
        open=0,
    )


def _reference_frame(rows: list[tuple]) -> pd.DataFrame:
    places = ("open", "ready", "close")
    measured = ("observed", "triggered", *SECONDS, "due")
    r = pd.DataFrame(rows, columns=["dialogue_id", "id", "action", *places, *measured])
    r = r.astype(dict.fromkeys(places, int) | dict.fromkeys(measured, float))
    return r.assign(
        timing=timing_score(r.triggered, r.open, r.due, r.close),
        outcome=outcome(r.triggered, r.open, r.close),
        lead=r.observed - r.triggered,
    )


def _cells(predictions: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """Predictions and open references added up by (dialogue, turn, action)."""
    spans = (references.close - references.open + 1).to_numpy()
    opened = references.loc[references.index.repeat(spans), ["dialogue_id", "action", "open"]]
    steps = np.arange(spans.sum()) - np.repeat(spans.cumsum() - spans, spans)
    opened = opened.assign(turn=opened.open + steps, open=1, **dict.fromkeys([*_SUMS[:-1], "best"], 0))
    both = pd.concat([predictions, opened], ignore_index=True)
    return both.groupby(CELL, as_index=False).agg(dict.fromkeys(_SUMS, "sum") | {"best": "max"})


def turn_table(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per scored turn: dialogue_id, turn, predictions, ready, faults, named, exact, open, ac, max_ac, pt."""
    turns = cells.groupby(CELL[:2], as_index=False).agg(dict.fromkeys(_SUMS, "sum") | {"best": "max"})
    share = 1 / turns.predictions.clip(lower=1)
    scored = turns.assign(ac=turns.aligned * share, max_ac=turns.best, pt=turns.matched * share)
    return scored.drop(columns=["aligned", "matched", "best"])


def dialogue_table(
    cells: pd.DataFrame,
    references: pd.DataFrame,
    executions: pd.DataFrame | None,
    about: pd.DataFrame,
    price: float = PRICE,
) -> DialogueTable:
    """One row per dialogue of `about`, in its order: dialogue_id, domain, turns, evaluated_turns;

    ac, max_ac, pt (means over its scored turns, NaN if none is scored) and scored_turns; predictions, ready, faults,
    named, exact; needed, unmet (turns with an open reference, and of these the silent ones), idle, unneeded (turns
    without one, and of these the ones with a prediction); references, timing (sum of timing scores), missed, late,
    premature (counts), lead (sum, turns) and led (references that were triggered and have an observed trigger),
    lead_seconds and wait_seconds (sums) with led_in_seconds and waited (the references that have them); right,
    wrong, executed (executions), earned (sum of their timing scores), utility (earned - price x wrong) and executable
    (references that an execution could take), all 0 where turns were sampled.
    """
    turns = turn_table(cells)
    turns = turns.assign(
        needed=(turns.open > 0).astype(int),
        unmet=((turns.open > 0) & (turns.predictions == 0)).astype(int),
        unneeded=((turns.open == 0) & (turns.predictions > 0)).astype(int),
    ).groupby("dialogue_id")
    means = turns[["ac", "max_ac", "pt"]].mean()
    counts = turns[_COUNTS].sum().assign(scored_turns=turns.size())
    fates = {o: (references.outcome == o).astype(int) for o in _OUTCOMES}
    fates |= {"references": 1}
    for measure, counted in MEASURED.items():
        fates |= {counted: references[measure].notna().astype(int), measure: references[measure].fillna(0.0)}
    fates = references[["dialogue_id", "timing"]].assign(**fates).groupby("dialogue_id").sum()
    done = _executed(executions)
    table = about.set_index("dialogue_id").join([means, counts, fates, done])
    table = table.fillna(dict.fromkeys([*counts.columns, *fates.columns, *done.columns], 0)).reset_index()
    return table.assign(
        idle=(table.evaluated_turns - table.needed).clip(lower=0),
        executed=table.right + table.wrong,
        executable=0 if executions is None else table.references,
        utility=table.earned - price * table.wrong,
    )


def _executed(executions: pd.DataFrame | None) -> pd.DataFrame:
    """right, wrong, earned by dialogue."""
    e = pd.DataFrame(columns=EXECUTION) if executions is None else executions
    right = e.reference.notna().astype(int)
    counted = pd.DataFrame({"right": right, "wrong": 1 - right, "earned": e.timing.astype(float)})
    return counted.groupby(e.dialogue_id).sum()
