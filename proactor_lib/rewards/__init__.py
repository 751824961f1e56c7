"""The rewards by name. To add one: a file with a class, and its line here."""

from proactor_lib.rewards.adaptive_metric import AdaptiveMetric
from proactor_lib.rewards.adaptive_ruler import AdaptiveRuler
from proactor_lib.rewards.base import Group, Reward, Score
from proactor_lib.rewards.custom_ruler import CustomRuler
from proactor_lib.rewards.general_ruler import GeneralRuler
from proactor_lib.rewards.max_rac import MaxRac
from proactor_lib.rewards.params import RewardParams
from proactor_lib.rewards.rac import Rac
from proactor_lib.rewards.utility import Utility
from proactor_lib.rewards.weighted_metric import WeightedMetric

REWARDS: dict[str, type[Reward]] = {
    "rac": Rac,
    "max_rac": MaxRac,
    "general_ruler": GeneralRuler,
    "custom_ruler": CustomRuler,
    "weighted_metric": WeightedMetric,
    "adaptive_metric": AdaptiveMetric,
    "adaptive_ruler": AdaptiveRuler,
    "utility": Utility,
}


def make_reward(params: RewardParams) -> Reward:
    """The reward that `params.reward` names; UserError where it needs a file or a key that is not there."""
    return REWARDS[params.reward](params)


__all__ = ["REWARDS", "Group", "Reward", "Score", "make_reward"]
