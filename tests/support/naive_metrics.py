"""The metrics as SPEC.md, section 4, states them: slow, plain, in exact fractions, without a table.

An independent reading by which the library is checked. Of the library it takes what is said, when two values are one
(`same_value`), and an order among predictions (`prediction_key`). Where SPEC.md is silent it follows the library's
documentation: what a repeat is for opportunity timing (metrics/timing.py), which of two predictions that fit equally
goes first (`alignment.tie_break`), what needs and arguments are (metrics/glossary.py). What is undefined is None.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from proactor_lib.metrics.alignment import prediction_key
from proactor_lib.schema import Dialogue, DialogueReferences, PredictedAction, ReferenceAction, TurnPrediction
from proactor_lib.values import same_value

NONE, HALF, WHOLE = Fraction(0), Fraction(1, 2), Fraction(1)
Outputs = dict[int, list[PredictedAction]]  # by turn, in order


class TurnFigures(NamedTuple):
    """One turn at which the agent was asked."""

    kind: str
    predictions: int
    ready: int
    faults: int
    open: int  # references that cover it
    named: int  # ready predictions whose action is open
    exact: int  # of these the ones with every parameter right
    ac: Fraction | None
    max_ac: Fraction | None
    pt: Fraction | None


class Trigger(NamedTuple):
    """What became of one reference that counts. turn: of its first match."""

    turn: int | None
    timing: Fraction
    reference: ReferenceAction


class Execution(NamedTuple):
    """One prediction that was executed. reference: its place in the dialogue's list; None: a false execution."""

    turn: int
    prediction: PredictedAction
    reference: int | None
    timing: Fraction


class DialogueFigures(NamedTuple):
    """All of one dialogue. executions: None where it was asked at some turns only."""

    turns: dict[int, TurnFigures]
    triggers: dict[str, Trigger]
    executions: list[Execution] | None


# predictions and references


def present(params: Mapping[str, str]) -> dict[str, str]:
    """An empty value is absent."""
    return {name: value for name, value in params.items() if value.strip()}


def equal(a: PredictedAction, b: PredictedAction) -> bool:
    """Whether two predictions are one, whatever their status."""
    x, y = present(a.params), present(b.params)
    return a.name == b.name and x.keys() == y.keys() and all(same_value(x[k], y[k]) for k in x)


def extends(a: PredictedAction, b: PredictedAction) -> bool:
    """Whether `a` has all parameters of `b`, and perhaps more."""
    x, y = present(a.params), present(b.params)
    return a.name == b.name and all(k in x and same_value(x[k], y[k]) for k in y)


def as_set(actions: Iterable[PredictedAction]) -> list[PredictedAction]:
    """An output without what it says twice; of a candidate and a ready one the ready one is left."""
    kept: list[PredictedAction] = []
    for action in actions:
        place = next((i for i, other in enumerate(kept) if equal(action, other)), None)
        if place is None:
            kept.append(action)
        elif action.status == "ready":
            kept[place] = action
    return kept


def ready(output: Iterable[PredictedAction]) -> list[PredictedAction]:
    return [p for p in output if p.status == "ready"]


def order(prediction: PredictedAction) -> tuple:
    """Of predictions that fit equally the one with fewer parameters goes first, then by what it is."""
    return len(present(prediction.params)), prediction_key(prediction)


def f1(predicted: Mapping[str, str], expected: Mapping[str, str]) -> Fraction:
    if not predicted and not expected:
        return WHOLE
    right = sum(k in expected and same_value(value, expected[k]) for k, value in predicted.items())
    if not right:
        return NONE
    precision, recall = Fraction(right, len(predicted)), Fraction(right, len(expected))
    return 2 * precision * recall / (precision + recall)


def fit(prediction: PredictedAction, reference: ReferenceAction, turn: int) -> Fraction:
    """s(p, r); a candidate is compared with what is known by `turn`."""
    if prediction.name != reference.name:
        return NONE
    early = prediction.status == "candidate"
    known = {name: p.value for name, p in reference.params.items() if not early or p.turn <= turn}
    return HALF + HALF * f1(present(prediction.params), present(known))


def covers(reference: ReferenceAction, turn: int) -> bool:
    return reference.window.open <= turn <= reference.window.close


# turns


def turn_kind(references: Iterable[ReferenceAction], turn: int) -> str:
    open_ = [r for r in references if covers(r, turn)]
    if any(turn >= r.window.ready for r in open_):
        return "due"
    return "early" if open_ else "silent"


def turn_figures(output: list[PredictedAction], references, turn: int, theta: Fraction) -> TurnFigures:
    open_ = [r for r in references if covers(r, turn)]
    fits = [max((fit(p, r, turn) for r in open_), default=NONE) for p in output]
    triggers = [(p, best) for p, best in zip(output, fits, strict=True) if p.status == "ready"]
    matched = [best for _, best in triggers if open_ and best >= theta]
    named = [best for p, best in triggers if any(r.name == p.name for r in open_)]
    ac = max_ac = pt = None
    if output:
        ac, max_ac, pt = sum(fits) / len(output), max(fits), sum(matched, NONE) / len(output)
    elif open_:
        ac = max_ac = pt = NONE
    return TurnFigures(turn_kind(references, turn), len(output), len(triggers), len(triggers) - len(matched),
                       len(open_), len(named), named.count(WHOLE), ac, max_ac, pt)  # fmt: skip


# whole dialogues


def timing_score(turn: int | None, open_: int, ready: int, close: int) -> Fraction:
    if turn is None or not open_ <= turn <= close:
        return NONE
    return WHOLE if turn <= ready else Fraction(close + 1 - turn, close + 1 - ready)


def opportunity_documented(references: Sequence[ReferenceAction], outputs: Outputs, theta: Fraction) -> dict[int, int]:
    """The turn of the first match, by the place of each reference that has one.

    A ready prediction is a repeat, which matches nothing, when the reference that it ranks first was matched at an
    earlier turn, or when an equal one was matched before, to a better fit.
    """
    first: dict[int, int] = {}
    matched: list[tuple[PredictedAction, Fraction]] = []
    for turn, output in outputs.items():
        waiting = dict(enumerate(ready(output)))
        while pairs := [
            (not covers(r, turn), -s, r.window.close, r.window.open, r.window.ready, r.id, order(p), i, j)
            for i, p in waiting.items()
            for j, r in enumerate(references)
            if (s := fit(p, r, turn)) >= theta and first.get(j) != turn
        ]:
            _, minus_s, *_, i, j = min(pairs)
            prediction = waiting.pop(i)
            if j not in first and not any(equal(prediction, p) and s > -minus_s for p, s in matched):
                first[j] = turn
                matched.append((prediction, -minus_s))
    return first


def executions(references: Sequence[ReferenceAction], outputs: Outputs, theta: Fraction) -> list[Execution]:
    """What an executor would have done, turn after turn."""
    done: list[Execution] = []
    for turn, output in outputs.items():
        triggers, before = ready(output), [e.prediction for e in done]
        pairs = right_pairs(triggers, before, references, {e.reference for e in done}, turn, theta)
        for i, j in pairs.items():
            w = references[j].window
            done.append(Execution(turn, triggers[i], j, timing_score(turn, w.open, w.ready, w.close)))
        right = [e.prediction for e in done if e.reference is not None]
        for i, p in enumerate(triggers):
            if i not in pairs and not any(equal(p, q) for q in before) and not any(extends(p, q) for q in right):
                done.append(Execution(turn, p, None, NONE))
    return done


def right_pairs(triggers, before, references, taken: set[int | None], turn: int, theta: Fraction) -> dict[int, int]:
    """The reference that each trigger takes, by their places; before: the predictions executed at earlier turns."""
    offers = []
    for i, p in enumerate(triggers):
        least = WHOLE if any(equal(p, q) for q in before) else theta
        for j, r in enumerate(references):
            if j not in taken and covers(r, turn) and (s := fit(p, r, turn)) >= least:
                offers.append((-s, r.window.close, r.window.open, r.id, order(p), i, j))
    pairs: dict[int, int] = {}
    for *_, i, j in sorted(offers):
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return pairs


def dialogue_figures(references: Sequence[ReferenceAction], outputs: Outputs, theta, sampled: bool) -> DialogueFigures:
    """outputs: of the turns at which the agent was asked, the silent ones too."""
    first, triggers = opportunity_documented(references, outputs, theta), {}
    for place, r in enumerate(references):
        due = [turn for turn in outputs if r.window.ready <= turn <= r.window.close]
        if due:  # else the reference does not count
            score = timing_score(first.get(place), r.window.open, due[0], r.window.close)
            triggers[r.id] = Trigger(first.get(place), score, r)
    turns = {turn: turn_figures(output, references, turn, theta) for turn, output in outputs.items()}
    return DialogueFigures(turns, triggers, None if sampled else executions(references, outputs, theta))


def figures(
    dialogues: Iterable[Dialogue],
    lines: Iterable[DialogueReferences],
    predictions: Iterable[TurnPrediction],
    theta: Fraction,
    asked: Mapping[str, Iterable[int]] | None = None,
) -> dict[str, DialogueFigures]:
    """By dialogue id. asked: the turns at which the agent was asked, where that was not all of them."""
    references = {line.dialogue_id: line.references for line in lines}
    said = {(p.dialogue_id, p.turn): as_set(p.actions) for p in predictions}
    every = {d.id: range(1, len(d.turns) + 1) for d in dialogues}
    turns = every if asked is None else {id: sorted(asked.get(id, ())) for id in every}
    sampled = any(len(turns[id]) < len(every[id]) for id in every)
    return {
        id: dialogue_figures(references.get(id, ()), {t: said.get((id, t), []) for t in turns[id]}, theta, sampled)
        for id in every
    }


# metrics


def share(above, below) -> Fraction | None:
    return Fraction(above) / below if below else None


def mean(values: Iterable[Fraction | int | None]) -> Fraction | None:
    """Of those that are defined."""
    defined = [v for v in values if v is not None]
    return share(sum(defined), len(defined))


def metrics(found: Mapping[str, DialogueFigures], price: Fraction) -> dict[str, Fraction | None]:
    """The metrics of all dialogues; price: of a false execution."""
    turns = [t for d in found.values() for t in d.turns.values()]
    triggers = [t for d in found.values() for t in d.triggers.values()]
    averages = {name: mean(mean(getattr(t, name) for t in d.turns.values()) for d in found.values())
                for name in ("ac", "max_ac", "pt")}  # fmt: skip
    difference = (averages["max_ac"] - averages["ac"]) / averages["ac"] if averages["ac"] else None
    rates = {"ftr": share(sum(t.faults for t in turns), sum(t.ready for t in turns)),
             "rar": share(sum(t.ready for t in turns), sum(t.predictions for t in turns))}  # fmt: skip
    return {"difference": difference, **averages, **rates, **of_turns(turns), **of_triggers(triggers),
            **of_executions(found, price)}  # fmt: skip


def of_turns(turns: list[TurnFigures]) -> dict[str, Fraction | None]:
    needed, idle = [t for t in turns if t.open], [t for t in turns if not t.open]
    missed_needs = share(sum(not t.predictions for t in needed), len(needed))
    false_needs = share(sum(t.predictions > 0 for t in idle), len(idle))
    both = missed_needs is not None and false_needs is not None
    return {"missed_needs": missed_needs, "false_needs": false_needs,
            "balanced_accuracy": ((1 - missed_needs) + (1 - false_needs)) / 2 if both else None,
            "argument_accuracy": share(sum(t.exact for t in turns), sum(t.named for t in turns))}  # fmt: skip


def of_triggers(triggers: list[Trigger]) -> dict[str, Fraction | None]:
    timed = [(t.turn, t.reference) for t in triggers if t.turn is not None]
    fates = {"missed": len(triggers) - len(timed), "late": sum(turn > r.window.close for turn, r in timed),
             "premature": sum(turn < r.window.open for turn, r in timed)}  # fmt: skip
    leads = [r.observed_turn - turn for turn, r in timed if r.observed_turn is not None]
    return {"opportunity_timing": mean(t.timing for t in triggers), "lead": mean(leads),
            **{name: share(count, len(triggers)) for name, count in fates.items()}}  # fmt: skip


def of_executions(found: Mapping[str, DialogueFigures], price: Fraction) -> dict[str, Fraction | None]:
    if any(d.executions is None for d in found.values()):
        return dict.fromkeys(["utility", "execution_precision", "execution_recall", "execution_f1", "false_executions"])
    done, needed = [e for d in found.values() for e in d.executions], sum(len(d.triggers) for d in found.values())
    false = sum(e.reference is None for e in done)
    right = len(done) - false
    return {"utility": share(sum(e.timing for e in done) - price * false, needed),
            "execution_precision": share(right, len(done)), "execution_recall": share(right, needed),
            "execution_f1": share(2 * right, len(done) + needed), "false_executions": share(false, needed)}  # fmt: skip
