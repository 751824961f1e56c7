"""The parameters of rewards: the part of a run's parameters that rewards are made from."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel

from proactor_lib.schema import Count, Form, Headers, LocalPath, Natural, NonNegative, Positive, Sampling, Share

SERVE = "serve"  # in the place of an endpoint's address: a server of the kit's own, for as long as it is asked


def _weighing(weights: dict[str, float]) -> dict[str, float]:
    if not any(weights.values()):
        raise ValueError("all weights are 0; accepted: one or more above it")
    return weights


Weights = Annotated[dict[Literal["rac", "pt", "rar", "ftr"], NonNegative], AfterValidator(_weighing)]
Marks = Annotated[
    dict[Literal["timing", "alignment", "restraint", "completeness"], NonNegative], AfterValidator(_weighing)
]


class RewardParams(BaseModel):
    """What is rewarded."""

    reward: str = "adaptive_metric"  # a name in the registry, proactor_lib.rewards.REWARDS
    reward_theta: Share = 0.75  # a prediction matches a reference from this alignment on
    reward_weights: Weights = {"rac": 0.4, "pt": 0.3, "rar": 0.1, "ftr": 0.2}  # Weighted Metric's; Adaptive's halfway
    explore_weights: Weights = {"rac": 0.25, "pt": 0.5, "rar": 0.1, "ftr": 0.15}  # Adaptive Metric's at first: timing
    conserve_weights: Weights = {"rac": 0.45, "pt": 0.2, "rar": 0.14, "ftr": 0.21}  # and at last: alignment, restraint
    reward_price: NonNegative = 0.25  # Utility's price of a false trigger, in missed opportunities
    reward_schedule: Literal["linear", "cosine", "step"] = "linear"  # how stage-aware weights move with progress
    ruler_base: Literal["rac", "max_rac", "adaptive_metric"] = "rac"  # adaptive RULER's R_metric
    ruler_lambda_max: Share = 0.3  # [paper]
    ruler_weights: Marks = {"timing": 0.4, "alignment": 0.3, "restraint": 0.2, "completeness": 0.1}
    rubric: LocalPath | None = None  # a rubric file of the user's own; none: the package's
    judge: str = "rubric"  # `rubric` (programmatic stand-in), or the model names at judge_url, comma separated
    # OpenAI-compatible, ending in /v1; one for all judges, or one each, comma separated; `serve`: a server of our own
    judge_url: str | None = None
    judge_concurrency: Count = 16  # calls in flight
    judge_timeout: Positive = 60.0  # seconds a call
    judge_retries: Natural = 2  # times a call is sent again after an error of transport
    judge_temperature: NonNegative | None = 0.0  # none: the endpoint's own
    judge_sampling: Sampling = {}  # further fields of a judge's requests
    judge_form: Form = "schema"
    judge_headers: Headers = {}
    judge_key_variable: str = "OPENAI_API_KEY"  # with the key; one for all judges, or one each, comma separated
    judge_cache: LocalPath | None = None  # a folder that keeps answers, so that a resumed run repeats no paid call
    judge_prices: tuple[NonNegative, NonNegative] = (0.0, 0.0)  # per million prompt and output tokens
