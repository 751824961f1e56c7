"""How many servers there should be: a pure function of what was seen, with hysteresis.

More are asked for only when a queue has lasted and the load needs them; fewer only when the load, with a margin, has
fitted in fewer all the while. A change begins both waits again, so that a load that swings faster than they last leaves
the number as it is.
"""

from dataclasses import dataclass

from proactor_lib.artf.serving.server import Load


@dataclass(frozen=True)
class ScalingPolicy:
    """Between `least` and `most` servers, each of which runs `seqs` sequences at once."""

    least: int
    most: int
    seqs: int
    up_after: float = 2.0  # seconds that a queue must last
    down_after: float = 60.0  # seconds that servers must be too many: of the order of what starting one takes
    fill: float = 0.8  # how full, of `seqs`, the servers that stay may become


@dataclass(frozen=True)
class ScalingState:
    """What the rule remembers from look to look."""

    queued_since: float | None = None  # seconds, on the clock of `now`
    slack_since: float | None = None
    peak: int = 0  # the most servers that were needed since `slack_since`


def desired_servers(
    policy: ScalingPolicy, state: ScalingState, now: float, count: int, load: Load
) -> tuple[int, ScalingState]:
    """The number of servers wanted, and what to remember. count: those that serve or start; load: the sum over them."""
    demand = load.waiting + load.running
    if load.waiting and (need := _clamp(policy, demand / policy.seqs)) > count:
        since = now if state.queued_since is None else state.queued_since
        return (need, ScalingState()) if now - since >= policy.up_after else (count, ScalingState(queued_since=since))
    if (need := _clamp(policy, demand / (policy.seqs * policy.fill))) < count:
        since = now if state.slack_since is None else state.slack_since
        peak = max(need, state.peak)
        return (
            (peak, ScalingState())
            if now - since >= policy.down_after
            else (count, ScalingState(slack_since=since, peak=peak))
        )
    return _clamp(policy, count), ScalingState()


def _clamp(policy: ScalingPolicy, servers: float) -> int:
    return max(policy.least, min(policy.most, int(-(-servers // 1))))
