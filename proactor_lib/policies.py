"""Fixed policies: agents without a model, most of which look at the references. They show what a reward or metric pays.

Each is a function `(case, seed) -> list[TurnPrediction]`: one prediction per turn, in order.
"""

import random
from collections.abc import Callable, Sequence

from proactor_lib.agent import reference_output
from proactor_lib.errors import UserError
from proactor_lib.schema import Action, Case, PredictedAction, ReferenceAction, Status, TurnPrediction

References = Sequence[ReferenceAction]
Policy = Callable[[Case, int], list[TurnPrediction]]


def oracle(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """Candidate on [open, ready), ready on [ready, close], with the parameters known by then."""
    return _shifted(case, 0)


def oracle_late(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """The oracle's outputs, each one turn later."""
    return _shifted(case, 1)


def oracle_early(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """The oracle's outputs, each one turn earlier: it foresees a turn."""
    return _shifted(case, -1)


def silent(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """Nothing, ever."""
    return _each_turn(case, lambda turn: ())


def everything_ready(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """Every action that the dialogue is shown, ready, at every turn, with what is known of its parameters by then."""
    shown = case.catalog.actions
    return _each_turn(
        case,
        lambda turn: tuple(PredictedAction(name=a.name, params=_known(a.name, case.references, turn)) for a in shown),
    )


def first_action(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """The first action that the dialogue is shown, ready, at every turn, with what is known of its parameters."""
    name = case.catalog.actions[0].name
    return _each_turn(case, lambda turn: (PredictedAction(name=name, params=_known(name, case.references, turn)),))


def wrong_parameter(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """The oracle with the first parameter of each action wrong."""
    return _each_turn(case, lambda turn: tuple(_spoilt(a) for a in reference_output(case.references, turn)))


def random_action(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """At half of the turns one action by chance, its status too; parameters from allowed values or the turn's words.

    The same for the same seed and dialogue.
    """
    dice = random.Random(f"{seed} {case.dialogue.id}")
    shown = case.catalog.actions
    return _each_turn(case, lambda turn: _by_chance(shown, case.dialogue.turns[turn - 1].text.split(), dice))


def never_ready(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """The oracle that never triggers: candidates only."""
    return _all(case, "candidate")


def always_ready(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """The oracle that triggers from `open` on, with what is known by then."""
    return _all(case, "ready")


POLICIES: dict[str, Policy] = {
    "oracle": oracle,
    "oracle_late": oracle_late,
    "oracle_early": oracle_early,
    "silent": silent,
    "everything_ready": everything_ready,
    "first_action": first_action,
    "wrong_parameter": wrong_parameter,
    "random": random_action,
}


# What does a reward pay for the status alone? The oracle's actions, all with one status.
STATUS_POLICIES: dict[str, Policy] = {"never_ready": never_ready, "always_ready": always_ready}


def hedger(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """The oracle, but beside each trigger stands a candidate of the same action, with one parameter less (or more)."""
    return _each_turn(case, lambda turn: tuple(h for a in reference_output(case.references, turn) for h in _hedged(a)))


def repeater(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """The oracle, but it says each trigger nine times, and a trigger that nobody needs beside them."""
    said = lambda turn: reference_output(case.references, turn)  # noqa: E731
    return _each_turn(case, lambda turn: tuple(r for a in said(turn) for r in _repeated(a)))


def one_of_two(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """The oracle, but where several actions are due it triggers the first alone."""

    def say(turn: int) -> tuple[PredictedAction, ...]:
        actions = reference_output(case.references, turn)
        late = [place for place, a in enumerate(actions) if a.status == "ready"][1:]
        return tuple(a for place, a in enumerate(actions) if place not in late)

    return _each_turn(case, say)


def logged(case: Case, seed: int = 0) -> list[TurnPrediction]:
    """What the log says was triggered, at the turn at which it was: the people or the agent in it, as a policy.

    Raises UserError for a dialogue without a log.
    """
    observed = case.dialogue.observed
    if observed is None:
        raise UserError(f"dialogue {case.dialogue.id!r} has no log of triggers: policy 'logged' needs one")
    return _each_turn(
        case, lambda turn: tuple(PredictedAction(name=o.name, params=o.params) for o in observed if o.turn == turn)
    )


# Who can be evaluated without a model.
FIXED_POLICIES: dict[str, Policy] = {**POLICIES, "logged": logged}

TUNED = "_tuned"  # ends the name of a policy that is another with its threshold tuned on dev


def untuned(policy: str) -> str | None:
    """The policy that a tuned one is made of; None for one that is not."""
    return policy.removesuffix(TUNED) if policy.endswith(TUNED) else None


# What does a reward pay for an output that looks for its openings? The oracle's triggers, spoilt.
GAMING_POLICIES: dict[str, Policy] = {"hedger": hedger, "repeater": repeater, "one_of_two": one_of_two}


def _hedged(action: PredictedAction) -> tuple[PredictedAction, ...]:
    if action.status == "candidate":
        return (action,)
    params = dict(list(action.params.items())[:-1]) or {"hedge": "yes"}
    return action, PredictedAction(name=action.name, params=params, status="candidate")


def _repeated(action: PredictedAction) -> tuple[PredictedAction, ...]:
    if action.status == "candidate":
        return (action,)
    return *(action,) * 9, PredictedAction(name=f"not_{action.name}", status="ready")


def _each_turn(case: Case, say: Callable[[int], tuple[PredictedAction, ...]]) -> list[TurnPrediction]:
    turns = range(1, len(case.dialogue.turns) + 1)
    return [TurnPrediction(dialogue_id=case.dialogue.id, turn=t, actions=say(t)) for t in turns]


def _shifted(case: Case, late: int) -> list[TurnPrediction]:
    return _each_turn(case, lambda turn: reference_output(case.references, turn - late))


def _all(case: Case, status: Status) -> list[TurnPrediction]:
    said = {"status": status}
    return _each_turn(
        case, lambda turn: tuple(a.model_copy(update=said) for a in reference_output(case.references, turn))
    )


def _known(name: str, references: References, turn: int) -> dict[str, str]:
    """What is known at `turn` of the reference of that name which is open, or else opens next; nothing without one."""
    later = [r for r in references if r.name == name and r.window.close >= turn]
    nearest = min(later, key=lambda r: (r.window.open > turn, r.window.open), default=None)
    return nearest.values(known_by=turn) if nearest else {}


def _spoilt(action: PredictedAction) -> PredictedAction:
    params = dict(action.params)
    for first in list(params)[:1]:
        params[first] = f"not {params[first][::-1]}"  # unlike it, too, where the value is free text
    return action.model_copy(update={"params": params})


def _by_chance(shown: Sequence[Action], words: Sequence[str], dice: random.Random) -> tuple[PredictedAction, ...]:
    if dice.random() < 0.5:
        return ()
    action = dice.choice(shown)
    params = {p.name: dice.choice(p.values or words or ["?"]) for p in action.params if p.required}
    return (PredictedAction(name=action.name, params=params, status=dice.choice(("candidate", "ready"))),)
