"""Made-up dialogues, references and predictions of any size: they mean nothing, they measure and test the metrics."""

import random

from proactor_lib.agent import reference_output
from proactor_lib.schema import (
    Dialogue,
    DialogueReferences,
    PredictedAction,
    ReferenceAction,
    ReferenceParam,
    Turn,
    TurnPrediction,
    Window,
)

ACTIONS = {f"action_{i}": tuple(f"param_{j}" for j in range(i % 4)) for i in range(12)}
VALUES = ("March 8th", "half past 11 in the morning", "$1,200", "San Jose", "six and a half percent", "2")


def made_up_dialogues(count: int, turns: int, seed: int = 0) -> tuple[list[Dialogue], list[DialogueReferences]]:
    """`count` dialogues of `turns` turns, with a reference for every three turns or so."""
    rng = random.Random(seed)
    dialogues, references = [], []
    for i in range(count):
        said = [Turn(speaker="user" if t % 2 else "agent", text="...") for t in range(turns)]
        dialogues.append(Dialogue(id=f"d{i:05}", domain=f"domain {i % 3}", turns=said))
        needs = [_reference(rng, f"r{j}", turns) for j in range(max(1, turns // 3))]
        references.append(DialogueReferences(dialogue_id=f"d{i:05}", references=needs))
    return dialogues, references


def _reference(rng: random.Random, id_: str, turns: int) -> ReferenceAction:
    name = rng.choice(list(ACTIONS))
    first, ready, close = sorted(min(turns, rng.randint(1, turns) + d) for d in (0, 2, 5))
    params = {k: ReferenceParam(value=rng.choice(VALUES), turn=rng.randint(first, ready)) for k in ACTIONS[name]}
    return ReferenceAction(
        id=id_,
        name=name,
        params=params,
        window=Window(open=first, ready=ready, close=close),
        observed_turn=rng.choice([None, close]),
    )


def made_up_predictions(references: list[DialogueReferences], turns: int, seed: int = 0) -> list[TurnPrediction]:
    """An agent of some skill: it says three in four of what is open, some of it wrong, and makes up the odd action."""
    rng = random.Random(seed)
    return [
        TurnPrediction(dialogue_id=line.dialogue_id, turn=t, actions=_output(rng, line, t))
        for line in references
        for t in range(1, turns + 1)
    ]


def _output(rng: random.Random, line: DialogueReferences, turn: int) -> list[PredictedAction]:
    said = [_blurred(rng, a) for a in reference_output(line.references, turn) if rng.random() < 0.75]
    if rng.random() < 0.3:
        said.append(_blurred(rng, PredictedAction(name=rng.choice(list(ACTIONS)), status="ready")))
    return said


def _blurred(rng: random.Random, action: PredictedAction) -> PredictedAction:
    params = {k: rng.choice(VALUES) if rng.random() < 0.2 else v for k, v in action.params.items()}
    status = rng.choice(["candidate", "ready"]) if rng.random() < 0.2 else action.status
    return PredictedAction(name=action.name, params=params, status=status)
