"""Short ways to write dialogues, references and predictions in tests."""

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


def dialogue(id="d", turns=10, domain="made up"):
    return Dialogue(id=id, domain=domain, turns=[Turn(speaker="user", text="...")] * turns)


def reference(name="book", window=(2, 4, 6), observed=None, id=None, **params):
    """A reference; a parameter is `value` (evidence at `open`) or `(value, turn)`."""
    pairs = {k: v if isinstance(v, tuple) else (v, window[0]) for k, v in params.items()}
    return ReferenceAction(
        id=id or f"{name}-{window[0]}",
        name=name,
        params={k: ReferenceParam(value=v, turn=t) for k, (v, t) in pairs.items()},
        window=Window(open=window[0], ready=window[1], close=window[2]),
        observed_turn=observed,
    )


def needs(*references, id="d"):
    return DialogueReferences(dialogue_id=id, references=references)


def ready(name="book", **params):
    return PredictedAction(name=name, params=params, status="ready")


def candidate(name="book", **params):
    return PredictedAction(name=name, params=params, status="candidate")


def says(outputs, id="d"):
    """Turn predictions from {turn: action or list of actions}."""
    return [
        TurnPrediction(dialogue_id=id, turn=t, actions=a if isinstance(a, list) else [a]) for t, a in outputs.items()
    ]
