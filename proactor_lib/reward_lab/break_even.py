"""Break-even: from which share of right parameters on does a reward pay a trigger more than a candidate? [ours]

Below it a model is taught not to trigger, so a schedule may have none above a fifth.
"""

from proactor_lib.agent import parse
from proactor_lib.params import Params
from proactor_lib.reward_lab.scoring import score
from proactor_lib.rewards import REWARDS, Group
from proactor_lib.rewards.adaptive_ruler import AdaptiveRuler
from proactor_lib.rewards.ruler import Ruler
from proactor_lib.schema import (
    Action,
    Case,
    Catalog,
    Dialogue,
    Parameter,
    ReferenceAction,
    ReferenceParam,
    Turn,
    Window,
)

LIMIT = 0.2
NEVER = "never"  # no share is enough: a trigger pays no more than a candidate even where all parameters are right
CATALOG = Catalog(domain="probe", actions=(Action(name="act", params=(Parameter(name="x", required=True),)),))
DIALOGUE = Dialogue(id="break-even", domain="probe", turns=(Turn(speaker="user", text="1"),))
REFERENCE = ReferenceAction(
    id="r", name="act", params={"x": ReferenceParam(value="1", turn=1)}, window=Window(open=1, ready=1, close=1)
)
TEXTS = ("ready: act | x=1", "ready: act | x=2", "candidate: act | x=1", "candidate: act | x=2")


def break_even(params: Params, progress: float) -> float | str | None:
    """The share in [0, 1] by the reward that `params` names, at that training progress; NEVER; or None.

    At a turn at which one reference is due, with the same parameters under both statuses, wrong ones meaning s = 0.5.
    None where a language model judges: it would have to be asked about a dialogue that is none.
    """
    if params.judge != "rubric" and issubclass(REWARDS[params.reward], Ruler | AdaptiveRuler):
        return None
    group = Group(Case(DIALOGUE, (REFERENCE,), CATALOG), 1, TEXTS, tuple(map(parse, TEXTS)), progress)
    ready_right, ready_wrong, candidate_right, candidate_wrong = score(params, [group]).values[0]
    return share_needed(ready_right - candidate_right, candidate_wrong - ready_wrong)


def share_needed(gain: float, loss: float) -> float | str:
    """The p at which p * gain = (1 - p) * loss; 0 where nothing is lost, NEVER where nothing is gained."""
    if gain <= 1e-12:
        return NEVER
    return max(0.0, loss / (gain + loss)) if loss > 0 else 0.0
