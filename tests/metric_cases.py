"""Short ways to write references and predictions in tests."""

from proactor_lib.schema import PredictedAction, ReferenceAction, ReferenceParam, Window


def reference(name="book", window=(2, 4, 6), observed=None, **params):
    """A reference; a parameter is `value` (evidence at `open`) or `(value, turn)`."""
    pairs = {k: v if isinstance(v, tuple) else (v, window[0]) for k, v in params.items()}
    return ReferenceAction(
        id=f"{name}-{window[0]}",
        name=name,
        params={k: ReferenceParam(value=v, turn=t) for k, (v, t) in pairs.items()},
        window=Window(open=window[0], ready=window[1], close=window[2]),
        observed_turn=observed,
    )


def ready(name="book", **params):
    return PredictedAction(name=name, params=params, status="ready")


def candidate(name="book", **params):
    return PredictedAction(name=name, params=params, status="candidate")
