"""How many servers there should be: a pure function of what was seen, with hysteresis.

More are asked for only when a queue has lasted and the load needs them; fewer only when the load, with a margin, has
fitted in fewer all the while. A change begins both waits anew, so that a load that swings faster than they last leaves
the number as it is.
"""

from dataclasses import dataclass

from proactor_lib.artf.server import Load


@dataclass(frozen=True)
class Rule:
    """Between `least` and `most` servers, each of which runs `seqs` sequences at once."""

    least: int
    most: int
    seqs: int
    up_after: float = 2.0  # seconds that a queue must last
    down_after: float = 60.0  # seconds that servers must be too many: of the order of what starting one takes
    fill: float = 0.8  # how full, of `seqs`, the servers that stay may become


@dataclass(frozen=True)
class Trend:
    """What the rule remembers from look to look."""

    queued_since: float | None = None  # seconds, on the clock of `now`
    slack_since: float | None = None
    peak: int = 0  # the most servers that were needed since `slack_since`


def decide(rule: Rule, trend: Trend, now: float, count: int, load: Load) -> tuple[int, Trend]:
    """The number of servers wanted, and what to remember. count: those that serve or start; load: the sum over them."""
    demand = load.waiting + load.running
    if load.waiting and (need := _clamp(rule, demand / rule.seqs)) > count:
        since = now if trend.queued_since is None else trend.queued_since
        return (need, Trend()) if now - since >= rule.up_after else (count, Trend(queued_since=since))
    if (need := _clamp(rule, demand / (rule.seqs * rule.fill))) < count:
        since = now if trend.slack_since is None else trend.slack_since
        peak = max(need, trend.peak)
        return (peak, Trend()) if now - since >= rule.down_after else (count, Trend(slack_since=since, peak=peak))
    return _clamp(rule, count), Trend()


def _clamp(rule: Rule, servers: float) -> int:
    return max(rule.least, min(rule.most, int(-(-servers // 1))))
