"""Adaptive RULER: (1 - lambda_u) R_metric + lambda_u R_RULER, lambda_u rising from 0 to lambda_max [paper]."""

from collections.abc import Sequence

from proactor_lib.rewards.adaptive_metric import AdaptiveMetric
from proactor_lib.rewards.base import Group, Judge, Reward, Score
from proactor_lib.rewards.custom_ruler import CustomRuler
from proactor_lib.rewards.max_rac import MaxRac
from proactor_lib.rewards.params import RewardParams
from proactor_lib.rewards.rac import Rac
from proactor_lib.rewards.schedule import eased

BASES = {base.name: base for base in (Rac, MaxRac, AdaptiveMetric)}


class AdaptiveRuler(Reward):
    """Custom RULER's judges mixed into the metric reward that `ruler_base` names."""

    name = "adaptive_ruler"
    staged = judged = True

    def __init__(self, params: RewardParams, judges: Sequence[Judge] | None = None):
        super().__init__(params)
        self.base = BASES[params.ruler_base](params)
        self.ruler = CustomRuler(params, judges)

    def weight(self, progress: float) -> float:
        """lambda_u at `progress`: 0 at 0, `ruler_lambda_max` at 1."""
        return self.params.ruler_lambda_max * eased(progress, self.params.reward_schedule)

    async def score(self, group: Group) -> list[Score]:
        """K scores; None where the judges' part stayed missing. While lambda is 0 no judge is asked."""
        share = self.weight(group.progress)
        metric = await self.base.score(group)
        if share == 0:
            return [_mixed(m, Score(0.0), 0.0) for m in metric]
        return [_mixed(m, r, share) for m, r in zip(metric, await self.ruler.score(group), strict=True)]

    @property
    def judges(self) -> Sequence[Judge]:
        """Custom RULER's."""
        return self.ruler.judges

    @property
    def counters(self) -> dict[str, float]:
        """Custom RULER's."""
        return self.ruler.counters

    async def close(self) -> None:
        """Let go of the judges' connections."""
        await self.ruler.close()


def _mixed(metric: Score, ruler: Score, share: float) -> Score:
    steady = metric.value if metric.steady is None else metric.steady
    kept = {"lambda": share, "metric": metric.value} | metric.components
    if ruler.value is None:
        return Score(None, kept, steady)
    kept |= ({"ruler": ruler.value} if share else {}) | ruler.components
    return Score((1 - share) * metric.value + share * ruler.value, kept, steady)
