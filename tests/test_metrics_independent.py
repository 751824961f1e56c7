"""The metrics of random dialogues against an independent reading of SPEC.md by which the library is checked.

`support.naive_metrics` is that reading; its figures are exact, and the library's must be theirs but for rounding.
"""

import random
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

import pytest
from proactor_lib.metrics import TURN_KINDS, score_predictions, turn_kind, turn_scores
from proactor_lib.metrics.intervals import METRICS, estimate
from proactor_lib.metrics.utility import PRICES, utility_at
from proactor_lib.schema import (
    Dialogue,
    DialogueReferences,
    PredictedAction,
    ReferenceAction,
    ReferenceParam,
    TurnPrediction,
    Window,
)

from support import naive_metrics as naive
from support.metric_cases import dialogue

SEEDS = range(12)
SETS = (1, 24)  # dialogues that are scored together: of a single one some metrics are undefined
IN_SECONDS = {"lead_seconds", "wait_seconds"}  # metrics that the naive reading has not
SPELLINGS = (("1", "one", "1.0"), ("2", "Two"), ("red", " RED", "Red!"), ("3 pm", "15:00"), (" ",))
WEIGHTS = (6, 6, 6, 6, 1)
MODES = {
    "all turns": ["0.75"],
    "sampled turns": ["0.6", "0.75", "1"],
    "thetas": ["0.5", "0.5", "0.6", "0.8", "0.9", "1"],
}


class RandomSet(NamedTuple):
    """Some dialogues, what they need, what an agent said, and how that is scored."""

    dialogues: list[Dialogue]
    lines: list[DialogueReferences]
    predictions: list[TurnPrediction]
    theta: Fraction
    price: Fraction
    asked: dict[str, list[int]] | None


def random_sets(seed: int, mode: str) -> list[RandomSet]:
    dice = random.Random(f"{mode} {seed}")
    return [random_set(dice, count, mode) for count in SETS]


def random_set(dice: random.Random, count: int, mode: str) -> RandomSet:
    names = "ABC"[: dice.randint(1, 3)]
    dialogues = [dialogue(f"d{i}", turns=dice.randint(1, 8)) for i in range(count)]
    lines, predictions, asked = [], [], {}
    for d in dialogues:
        turns = range(1, len(d.turns) + 1)
        references = random_references(dice, len(turns), names)
        if references or dice.random() < 0.5:
            lines.append(DialogueReferences(dialogue_id=d.id, references=references))
        predictions += random_predictions(dice, d, references, names)
        asked[d.id] = sorted(dice.sample(turns, dice.randint(0, len(turns))))
    theta, price = Fraction(dice.choice(MODES[mode])), Fraction(dice.choice(["0", "0.05", "0.25", "0.5", "1"]))
    return RandomSet(dialogues, lines, predictions, theta, price, asked if mode == "sampled turns" else None)


def random_references(dice: random.Random, turns: int, names: str) -> list[ReferenceAction]:
    """Often one like another: the same values, one less, or one more."""
    references = []
    for number in range(dice.choice([0, 0, 1, 1, 2, 2, 3, 4, 5])):
        like = dice.choice(references) if references and dice.random() < 0.4 else None
        if like is None:
            name, count = dice.choice(names), dice.choice([0, 1, 1, 2, 2, 3, 4])
            params = {k: random_param(dice, turns) for k in dice.sample("xyzw", count)}
        else:
            name, params = like.name, dict(like.params)
            if params and dice.random() < 0.4:
                params.pop(dice.choice(list(params)))
            if dice.random() < 0.3:
                params[dice.choice("xyzw")] = random_param(dice, turns)
        first, due, last = sorted(dice.randint(1, turns) for _ in range(3))
        references.append(ReferenceAction(id=f"r{number}", name=name, params=params,
                                          window=Window(open=first, ready=due, close=last),
                                          observed_turn=dice.choice([None, dice.randint(1, turns)])))  # fmt: skip
    dice.shuffle(references)
    return references


def random_param(dice: random.Random, turns: int) -> ReferenceParam:
    return ReferenceParam(value=random_value(dice), turn=dice.randint(1, turns))


def random_value(dice: random.Random) -> str:
    return dice.choice(dice.choices(SPELLINGS, WEIGHTS)[0])


def random_predictions(dice: random.Random, d: Dialogue, references, names: str) -> list[TurnPrediction]:
    """Turns that are left out, empty or unreadable among them, in any order."""
    predictions, before = [], []
    silence = dice.choice([0.15, 0.15, 0.15, 1])
    for turn in range(1, len(d.turns) + 1):
        silent = dice.random() < silence
        if silent and dice.random() < 0.5:
            continue
        count = 0 if silent else dice.choice([0, 1, 1, 2, 3, 4])
        for _ in range(count):
            before.append(random_action(dice, references, before, names))
        actions = before[len(before) - count :]
        unreadable = dice.random() < 0.1
        predictions.append(TurnPrediction(dialogue_id=d.id, turn=turn, actions=actions, unreadable=unreadable))
    if dice.random() < 0.2:
        dice.shuffle(predictions)
    return predictions


def random_action(dice: random.Random, references, before: list[PredictedAction], names: str) -> PredictedAction:
    """What is needed with a value left out or changed, what was said before, perhaps with a value more, or anything."""
    choice = dice.random()
    if references and choice < 0.6:
        wanted = dice.choice(references)
        name = wanted.name
        params = {k: dice.choice(spellings(v)) for k, v in wanted.values().items() if dice.random() < 0.85}
        changed = dice.random() < 0.2
    elif before and choice < 0.85:
        said = dice.choice(before)
        name, params, changed = said.name, dict(said.params), dice.random() < 0.3
    else:
        name, params, changed = dice.choice(names), {}, dice.random() < 0.6
    if changed:
        params[dice.choice("xyzw")] = random_value(dice)
    return PredictedAction(name=name, params=params, status="ready" if dice.random() < 0.65 else "candidate")


def spellings(value: str) -> tuple[str, ...]:
    return next(group for group in SPELLINGS if value in group)


def exactly(value: Fraction | int | None):
    """The value, but for rounding."""
    return None if value is None else pytest.approx(float(value), abs=1e-9)


def defined(value):
    """NaN is None."""
    return None if value != value else value


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", MODES)
def test_the_library_agrees_with_an_independent_reading(mode, seed):
    for given in random_sets(seed, mode):
        theta, price = float(given.theta), float(given.price)
        found = score_predictions(*given[:3], theta=theta, price=price, evaluated_turns=given.asked)
        expected = naive.figures(*given[:3], given.theta, given.asked)
        check_metrics(found, expected, given)
        check_turns(expected, given)
        check_triggers(found, expected)
        check_executions(found, expected, given)


def check_metrics(found, expected, given):
    table = found.dialogues
    values = dict(zip(METRICS, map(defined, estimate(table)), strict=True))
    wanted = naive.metrics(expected, given.price)
    assert set(values) == set(wanted) | IN_SECONDS
    assert {name: values[name] for name in wanted} == {name: exactly(v) for name, v in wanted.items()}
    curve = [naive.of_executions(expected, Fraction(str(price)))["utility"] for price in PRICES]
    assert list(map(defined, utility_at(table, PRICES)[0])) == list(map(exactly, curve))


def check_turns(expected, given):
    references = {line.dialogue_id: line.references for line in given.lines}
    said = {(p.dialogue_id, p.turn): p.actions for p in given.predictions}
    counts, averages = ("predictions", "ready", "faults", "open"), ("ac", "max_ac", "pt")
    for id, dialogue_figures in expected.items():
        needs = references.get(id, ())
        for turn, wanted in dialogue_figures.turns.items():
            scores = turn_scores(said.get((id, turn), ()), needs, turn, float(given.theta))
            assert turn_kind(needs, turn) == wanted.kind
            assert [getattr(scores, name) for name in counts] == [getattr(wanted, name) for name in counts]
            assert [getattr(scores, name) for name in averages] == [exactly(getattr(wanted, n)) for n in averages]


def check_triggers(found, expected):
    """References that do not count are in neither."""
    rows = {(r.dialogue_id, r.id): (defined(r.triggered), r.timing) for r in found.references.itertuples()}
    assert rows == {
        (id, name): (t.turn, exactly(t.timing)) for id, d in expected.items() for name, t in d.triggers.items()
    }


def check_executions(found, expected, given):
    references = {line.dialogue_id: line.references for line in given.lines}
    rows = [
        (e.dialogue_id, e.turn, e.action, defined(e.reference), round(e.timing, 9))
        for e in found.executions.itertuples()
    ]
    wanted = [
        (id, e.turn, e.prediction.name, None if e.reference is None else references[id][e.reference].id,
         round(float(e.timing), 9))
        for id, d in expected.items() for e in d.executions or ()
    ]  # fmt: skip
    assert Counter(rows) == Counter(wanted)


def test_the_random_dialogues_have_what_is_hard():
    """Each kind of turn and fate of a reference, false executions, repeats; each metric is undefined somewhere."""
    undefined, kinds, seen = set(), set(), Counter()
    for given in (given for seed in SEEDS for given in random_sets(seed, "all turns")):
        found = naive.figures(*given[:3], given.theta, given.asked)
        values = naive.metrics(found, given.price)
        undefined |= {name for name, value in values.items() if value is None}
        seen.update(name for name in ("missed", "late", "premature", "false_executions") if values[name])
        turns = [t for d in found.values() for t in d.turns.values()]
        kinds |= {t.kind for t in turns}
        seen["ignored"] += sum(t.ready for t in turns) - sum(len(d.executions) for d in found.values())
    assert undefined == set(METRICS) - IN_SECONDS and kinds == set(TURN_KINDS)
    assert min(seen.values()) >= 10 and seen["ignored"] >= 100
