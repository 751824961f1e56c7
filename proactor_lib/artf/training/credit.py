"""Which output is credited with what: advantages, what a turn weighs, and rewards along trajectories."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from proactor_lib.agent import Parsed
from proactor_lib.metrics import turn_kind
from proactor_lib.metrics.executions import Executor
from proactor_lib.rewards import Score
from proactor_lib.schema import ReferenceAction

FLAT = 1e-6  # rewards of a smaller standard deviation have no variance
Advantages = list[float | None]  # of the K outputs of a turn; None: not scored, not trained


def advantages(groups: Sequence[Sequence[Score]], scale: str = "group") -> list[Advantages]:
    """(reward - the group's mean) / scale, for the groups of one step; all 0 in a group without variance.

    scale: the `group`'s standard deviation [paper], the `batch`'s (over all rewards of the step), or 1, `none` [ours].
    By the group's own scale a price has no meaning: rewards (1, 1, 0) and (1, 1, 0.9) give the same advantages.
    """
    whole = _deviation(s.value for group in groups for s in group) if scale == "batch" else 1.0
    return [_advantages(group, _deviation(s.value for s in group) if scale == "group" else whole) for group in groups]


def _advantages(scores: Sequence[Score], scale: float) -> Advantages:
    values = [s.value for s in scores if s.value is not None]
    if not varies(scores):
        return [None if s.value is None else 0.0 for s in scores]
    mean = statistics.fmean(values)
    return [None if s.value is None else (s.value - mean) / scale for s in scores]


def varies(scores: Iterable[Score]) -> bool:
    """Whether the rewards of a group differ: without that there is nothing to learn from it."""
    return _deviation(s.value for s in scores) >= FLAT


def _deviation(values: Iterable[float | None]) -> float:
    there = [v for v in values if v is not None]
    return statistics.pstdev(there) if len(there) > 1 else 0.0


def natural_weights(references: Sequence[ReferenceAction], length: int, turns: Sequence[int]) -> dict[int, float]:
    """What each of the sampled `turns` weighs, so that its kind weighs as in the dialogue of `length` turns [ours].

    The kind's share of the dialogue over its share of the sample; a kind that was not sampled stays out.
    """
    kinds = {t: turn_kind(references, t) for t in range(1, length + 1)}
    natural, sampled = Counter(kinds.values()), Counter(kinds[t] for t in turns)
    return {t: (natural[kinds[t]] / length) / (sampled[kinds[t]] / len(turns)) for t in turns}


def trajectory_scores(
    references: Sequence[ReferenceAction], outputs: Sequence[tuple[int, Sequence[Parsed]]], theta: float, price: float
) -> list[list[Score]]:
    """Rewards along the K trajectories of a dialogue, the k-th outputs of all its turns; for each turn K scores [ours].

    outputs: turn and K outputs, in order of turns. An executor walks each trajectory. An output's reward is what it
    executes at its turn (the timing scores of its right executions, less `price` for each false one and for being
    unreadable), plus the timing scores that its trajectory still gets later from references that are open at its turn.
    """
    trajectories = zip(*(parsed for _, parsed in outputs), strict=True)
    turns = [turn for turn, _ in outputs]
    columns = [_walk(references, list(zip(turns, parsed, strict=True)), theta, price) for parsed in trajectories]
    return [list(scores) for scores in zip(*columns, strict=True)]


def _walk(
    references: Sequence[ReferenceAction], outputs: Sequence[tuple[int, Parsed]], theta: float, price: float
) -> list[Score]:
    """The score of each output of one trajectory."""
    executor = Executor(references, theta)
    done = [executor.turn(turn, () if o.unreadable else o.actions) for turn, o in outputs]
    scores = []
    for n, (turn, output) in enumerate(outputs):
        now = sum(e.timing for e in done[n])
        false = sum(e.reference is None for e in done[n])
        ahead = (e for executions in done[n + 1 :] for e in executions if e.reference is not None)
        later = sum(e.timing for e in ahead if references[e.reference].window.covers(turn))
        parts = {"right": float(now), "false": float(false), "later": float(later)}
        parts |= {"unreadable": 1.0} if output.unreadable else {}
        scores.append(Score(now + later - price * (false + output.unreadable), parts))
    return scores
