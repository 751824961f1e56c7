"""What a dialogue gains by one output: its utility with it less its utility with silence in its place [ours].

Outputs of different turns do not see one another, so that any choice of one sampled output per turn is a trajectory of
the policy. Backgrounds are drawn from the sample, and each output is put into each of them: their mean difference is an
estimate of what the output adds to the policy's expected utility, without the chance of a single trajectory (difference
rewards: Wolpert and Tumer, 2001; counterfactual baselines: arXiv 1705.08926). A trigger that takes the place of a
better one later is charged for it, a repeat is worth nothing, and equal outputs of a turn get equal rewards.
"""

import random
from collections.abc import Iterable, Sequence
from statistics import fmean

from proactor_lib.agent import Parsed
from proactor_lib.metrics.executions import Executor
from proactor_lib.rewards import Score
from proactor_lib.schema import PredictedAction, ReferenceAction

BACKGROUNDS = 8
Actions = tuple[PredictedAction, ...]
Outputs = Sequence[tuple[int, Sequence[Parsed]]]  # a turn and its K outputs, in order of turns
Visit = tuple[Sequence[ReferenceAction], Outputs]


def counterfactual_scores(
    references: Sequence[ReferenceAction],
    outputs: Outputs,
    theta: float,
    price: float,
    seed: str,
    backgrounds: int = BACKGROUNDS,
) -> list[list[Score]]:
    """For each turn of `outputs` K scores.

    An output's reward: the timing scores of right executions that it adds to the dialogue, less `price` for each false
    one that it adds, and less `price` for being unreadable; the mean over `backgrounds`, drawn by `seed`.
    """
    dice, turns = random.Random(seed), [turn for turn, _ in outputs]
    said = [[() if o.unreadable else o.actions for o in parsed] for _, parsed in outputs]
    drawn = [[dice.choice(options) for options in said] for _ in range(backgrounds)]

    def gain(place: int, actions: Actions) -> tuple[float, float]:
        """Right timing and false executions that the actions add at their place."""
        pairs = [(_with(b, place, actions), _with(b, place, ())) for b in drawn] if actions else []
        both = [(_walk(references, turns, a, theta), _walk(references, turns, b, theta)) for a, b in pairs]
        return tuple(fmean(a[i] - b[i] for a, b in both) if both else 0.0 for i in (0, 1))

    scores = []
    for place, (_, parsed) in enumerate(outputs):
        firsts = [said[place].index(actions) for actions in said[place]]  # equal outputs are looked at once
        gains = {k: gain(place, said[place][k]) for k in set(firsts)}
        scores.append([_score(*gains[k], o.unreadable, price) for k, o in zip(firsts, parsed, strict=True)])
    return scores


def sampled_utility(visits: Iterable[Visit], theta: float, price: float) -> float | None:
    """U at `price` of what was sampled of whole dialogues: the k-th outputs of a visit's turns are one trajectory.

    The policy's as it samples (where nearly certain outputs stand for K, without their rare neighbours), in the unit of
    the primary endpoint. None where nothing was needed.
    """
    earned = needed = 0.0
    for references, outputs in visits:
        turns = [turn for turn, _ in outputs]
        for parsed in zip(*(parsed for _, parsed in outputs), strict=True):
            right, false = _walk(references, turns, [o.actions for o in parsed], theta)  # as evaluation executes them
            earned, needed = earned + right - price * false, needed + len(references)
    return earned / needed if needed else None


def _with(background: list[Actions], place: int, actions: Actions) -> list[Actions]:
    return [*background[:place], actions, *background[place + 1 :]]


def _walk(
    references: Sequence[ReferenceAction], turns: list[int], trajectory: list[Actions], theta: float
) -> tuple[float, int]:
    """The sum of timing scores of right executions, and the false executions, of a trajectory."""
    executor = Executor(references, theta)
    walked = [executor.turn(turn, actions) for turn, actions in zip(turns, trajectory, strict=True) if actions]
    done = [e for executions in walked for e in executions]
    return sum(e.timing for e in done), sum(e.reference is None for e in done)


def _score(right: float, false: float, unreadable: bool, price: float) -> Score:
    parts = {"right": float(right), "false": float(false)} | ({"unreadable": 1.0} if unreadable else {})
    return Score(right - price * (false + unreadable), parts)
