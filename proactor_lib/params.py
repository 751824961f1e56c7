"""A run's parameters: one flat pydantic model, files that layer, unknown names refused. Imports no torch.

A params file is YAML: `extends: other.yaml` (a path beside it) loads that file first. A notebook's or a sweep's
overrides come last. A value's unit stands in its line.
"""

import difflib
import re
from collections.abc import Container
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from proactor_lib import datasets, models
from proactor_lib.agent import PROMPTS
from proactor_lib.errors import UserError
from proactor_lib.files import first_error, shipped
from proactor_lib.policies import FIXED_POLICIES, TUNED
from proactor_lib.rewards import REWARDS
from proactor_lib.rewards.params import SERVE, RewardParams
from proactor_lib.schema import Count, Form, Headers, LocalPath, Natural, NonNegative, Positive, Sampling, Share, Value
from proactor_lib.yaml_text import read_yaml

Annotator = Literal["evidence", "oracle", "evidence+oracle"]  # the last: the log, and an oracle for `open` alone
Tracker = Literal["trackio", "tensorboard", "wandb"]
Threshold = Literal["coverage", "param_agreement", "lead", "logged", "iou"]


def _readable(name: str) -> str:
    if name not in datasets.DATASETS:
        raise ValueError(f"there is no such dataset; accepted: {', '.join(datasets.DATASETS)}")
    return name


def _free(name: str) -> str:
    if name in (*PROMPTS, *FIXED_POLICIES) or name.endswith(TUNED):
        raise ValueError("another policy has this name; accepted: any other")
    if not re.fullmatch(r"[^\s/\\._][^\s/\\]*", name):  # matplotlib leaves out of legends what begins with _
        raise ValueError("files are named by it; accepted: a name without white space, / and \\, and no . or _ first")
    return name


def _no_path(name: str) -> str:
    if not re.fullmatch(r"[^\s/\\.][^/\\]*", name):
        raise ValueError("files are named by it; accepted: a name without / and \\, and no . or white space before it")
    return name


DatasetName = Annotated[str, AfterValidator(_readable)]  # a name in proactor_lib.datasets
AdapterName = Annotated[str, AfterValidator(_free)]  # not a prompted, fixed or tuned policy's, and fit for a file
RunName = Annotated[str, AfterValidator(_no_path)]


class DataParams(BaseModel):
    """Which conversations."""

    dataset: DatasetName = "homeloan"
    data_dir: LocalPath | None = None  # a corpus's folder; none for the simulator
    train_split: str = "train"
    dev_split: str = "dev"
    test_split: str = "test"
    train_dialogues: Count = 100  # dialogues
    dev_dialogues: Count = 20
    test_dialogues: Count = 20
    split_by: Literal["dialogue", "service"] = "dialogue"  # service: test has only services that train and dev lack
    catalog_scope: datasets.Scope = "distractors"  # what a dialogue is shown: its services, and which others
    distractor_services: Natural = 3  # those others, drawn by seed and dialogue; fewer where max_context is full
    schema_variant: datasets.Variant | None = None  # the test split's catalog in SGD-X's words; none: SGD's own
    transcript: datasets.Transcript = "human"  # of Harper Valley's calls: the transcribers' words, or the recogniser's
    max_turns: Count = 50  # dialogues with more turns are left out [paper: 50]
    homeloan_log: bool = True  # whether the simulator logs the human agent's triggers [paper: its corpus has none]


class AnnotationParams(BaseModel):
    """How windows are found."""

    annotator: Annotator = "evidence"
    second_annotator: Annotator | None = None  # a second opinion to compare with; a second oracle asks the same again
    oracle_protocol: Literal["dialogue", "turn"] = "dialogue"  # asked about: all of it at once, or each turn [paper]
    oracle_model: str | None = None  # the model's name at the endpoint
    oracle_url: str | None = None  # an OpenAI-compatible base URL, ending in /v1; `serve`: a server of our own
    oracle_sampling: Sampling = {"temperature": 0.0, "max_tokens": 4096}
    oracle_form: Form = "schema"
    oracle_headers: Headers = {}
    oracle_key_variable: str = "OPENAI_API_KEY"  # the environment variable with the endpoint's key
    oracle_actions: Natural = 0  # actions that one answer is about at most; 0: as many as its schema may hold
    overlay: LocalPath | None = None  # hand corrections that every later stage honours
    quality_filter: dict[Threshold, NonNegative] = {}  # what must hold (annotate/filter.py, Thresholds)


class ModelParams(BaseModel):
    """The base model and its adapter."""

    model: str = "smollm2-135m"  # the embedded model, `tiny` (random weights), a folder, or a hub id
    quantization: Literal["nf4", "none"] = "nf4"
    lora_rank: Annotated[Count, Field(le=models.SERVED_RANKS[-1])] = 8  # [paper]
    lora_alpha: Count = 16  # [paper]
    lora_dropout: Share = 0.0  # of supervised fine-tuning; GRPO has none [paper: 0]
    chat_template_args: dict[str, Any] = {}  # of the model's chat template, such as {"enable_thinking": false}
    max_context: Count = 9216  # tokens, prompt and output [paper]
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trainer_dtype: Literal["auto", "bfloat16", "float32"] = "auto"  # auto: float32 only on a CPU without bfloat16


class TrainingParams(BaseModel):
    """SFT warm start, then turn-level GRPO [paper]."""

    trainers: Count = 1  # processes that train together, a GPU each (on a CPU they share the cores)
    sft_steps: Natural = 0  # optimiser steps on the references before GRPO; 0: none
    sft_learning_rate: Positive = 2e-4
    sft_dialogues_per_step: Count = 2
    sft_check: Natural = 0  # steps between looks at the loss on dev, whose lowest is kept; 0: the last step is
    sft_patience: Count = 2  # looks in a row without a lower one, after which SFT ends
    sft_equal_time: bool = False  # SFT as long as it and GRPO take together, to compare with: policy sft_equal_time
    start_from: LocalPath | None = None  # an adapter's folder, such as another run's training/sft, in place of SFT
    max_steps: Natural = 100  # GRPO optimiser steps; 0: none
    learning_rate: Positive = 1e-5
    num_generations: Annotated[int, Field(ge=2)] = 8  # K outputs a turn
    # a first output at least this probable stands for all K; 1: K are sampled whatever it is
    sure_output: Annotated[float, Field(gt=0, le=1)] = 1.0
    dialogues_per_step: Count = 2
    turns_per_dialogue: Natural = 0  # turns sampled of each dialogue; 0: all
    open_share: Share = 0.5  # of such a sample: turns with something to do
    max_completion_tokens: Count = 120  # an output's limit
    temperature: Positive = 1.0
    # reward at the turn, along the k-th outputs of all turns, or what the output adds to the dialogue
    credit: Literal["turn", "trajectory", "counterfactual"] = "turn"
    scale_rewards: Literal["group", "batch", "none"] = "group"  # advantages by the standard deviation of that
    turn_weights: Literal["natural", "none"] = "none"  # natural: each kind of turn weighs as in its dialogue
    loss: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"] = "dapo"  # dapo: GRPO's, averaged over a step's tokens
    epsilon: Share = 0.2  # clipping of the ratio: not below 1 - epsilon
    epsilon_high: Positive | None = None  # nor above 1 + epsilon_high; none: epsilon
    # of trainer against server, beyond the cap; but for none the ratio is 1, and epsilon bounds nothing
    importance_sampling: Literal["none", "truncate", "mask"] = "none"
    importance_cap: Annotated[float, Field(ge=1)] = 2.0  # ratio; masked below 1 / importance_cap too
    kl_beta: NonNegative = 0.0  # weight of the KL to the policy that training started from, over trained tokens
    anchor: NonNegative = 0.0  # weight of a supervised loss on the references at the sampled turns
    max_staleness: Natural = 1  # policy versions that a sample may lag behind
    token_budget: Count = 16384  # packed tokens forwarded at once: a longer dialogue is cut, but for its longest prompt
    gradient_checkpointing: bool = False
    save_steps: Count = 10  # optimiser steps between checkpoints, of SFT too


class ServingParams(BaseModel):
    """vLLM servers and the cores or GPUs of everything."""

    servers: Count = 1  # vLLM servers that run all the time
    max_servers: Count = 1  # and up to this many while requests queue; if both are 1: one server, no router
    scale_up_after: NonNegative = 5.0  # seconds that a queue lasts before servers are added
    scale_down_after: Positive = 60.0  # seconds that servers are too many before some sleep or end
    judge_servers: Count = 1  # of the judge's own, a GPU each, where judge_url is `serve`
    ray_address: str | None = None  # host:port of a Ray cluster on whose nodes the servers go; none: this machine
    server_cpus: Count = 1  # cores that Ray gives a server there
    # Cores to be pinned to, such as "0-1", counted from 0 among those that the process may use; none: not pinned.
    server_cores: Value | None = None
    trainer_cores: Value | None = None
    gpu_memory_utilization: Share = 0.9  # share of a GPU's memory that a server takes
    kv_cache_gb: Positive = 2.0  # a CPU server's KV cache
    max_num_seqs: Count = 64  # sequences that a server decodes at once
    # What servers hold where the trainer's base is in 4 bits, the same numbers either way: `matched`, dequantised to
    # bfloat16, or `nf4`, the 4 bits themselves: for GPUs on which the first do not fit.
    serve_weights: Literal["matched", "nf4"] = "matched"
    server_dtype: Literal["auto", "bfloat16", "float32"] = "auto"  # as trainer_dtype
    policy_sync: Literal["auto", "adapter", "merged"] = "auto"  # auto: adapters on GPUs, merged weights on a CPU
    start_timeout: Positive = 300.0  # seconds until a server must be ready


class EvaluationParams(BaseModel):
    """Who is compared, and how."""

    policies: tuple[str, ...] = ("base", "sft", "trained")  # or a fixed, a prompted one, or a key of `adapters`
    adapters: dict[AdapterName, LocalPath] = {}  # further policies: a name and its adapter's folder
    policy_url: str | None = None  # prompted policies' endpoint, ending in /v1; none: the base model, served here
    policy_model: str | None = None  # the model's name there
    policy_headers: Headers = {}
    policy_key_variable: str = "OPENAI_API_KEY"  # the environment variable with the endpoint's key
    reasoning_tokens: Count = 512  # an output's limit where a policy thinks first
    theta: Share = 0.75  # a match in the metrics
    execution_price: NonNegative = 0.25  # of a false execution, in missed opportunities: the c of U_c
    bootstrap: Count = 2000  # resamples of dialogues for the 95% intervals
    evaluation_turns: Natural = 0  # evenly spaced turns of each held-out dialogue; 0: all


class Params(DataParams, AnnotationParams, ModelParams, RewardParams, TrainingParams, ServingParams, EvaluationParams):
    """Everything that makes a run what it is, but for its folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: RunName = "run"
    question: str = ""  # what the run is to answer: the report opens with it
    seed: Natural = 0
    trackers: tuple[Tracker, ...] = ()  # who is told of steps, results and the report; extra `trackers`

    @field_validator("reward")
    @classmethod
    def _registered(cls, name: str) -> str:
        if name not in REWARDS:
            raise ValueError(f"there is no such reward; accepted: {', '.join(REWARDS)}")
        return name

    @model_validator(mode="after")
    def _possible(self):
        if self.dataset != "homeloan" and self.data_dir is None:
            raise ValueError(f"dataset {self.dataset!r} needs data_dir, the folder that holds it")
        if self.schema_variant and self.dataset != "sgd":
            raise ValueError(f"schema_variant: SGD-X rewords dataset 'sgd' alone, not {self.dataset!r}")
        for annotator in (self.annotator, self.second_annotator):
            if annotator and "oracle" in annotator and not (self.oracle_model and self.oracle_url):
                raise ValueError(f"annotator {annotator!r} needs oracle_model and oracle_url")
        if self.annotator == self.second_annotator == "evidence":
            raise ValueError("second_annotator: the evidence annotator always says the same; name an oracle for one")
        if "iou" in self.quality_filter and self.second_annotator is None:
            raise ValueError("quality_filter: 'iou' needs a second_annotator")
        if self.judge != "rubric" and self.judge_url is None:
            raise ValueError(f"judge {self.judge!r} needs judge_url")
        if self.sft_equal_time and not (self.max_steps and (self.sft_steps or self.start_from)):
            raise ValueError("sft_equal_time needs a warm start and GRPO, whose time it takes")
        if self.serve_weights == "nf4" and (self.quantization != "nf4" or self.device == "cpu"):
            raise ValueError("serve_weights 'nf4' needs quantization 'nf4' and a GPU")
        if self.serve_weights == "nf4" and self.policy_sync == "merged":
            raise ValueError("serve_weights 'nf4' needs policy_sync 'adapter': nothing can be merged into 4 bits")
        if self.judge_url == SERVE and "," in self.judge:
            raise ValueError(f"judge_url 'serve' serves one judge, not {self.judge!r}")
        if self.judge_url != SERVE and SERVE in (self.judge_url or "").split(","):
            raise ValueError(f"judge_url {self.judge_url!r}: 'serve' stands alone")
        if self.credit != "turn" and (self.reward != "utility" or self.turns_per_dialogue):
            raise ValueError(f"credit {self.credit!r} needs reward 'utility' and turns_per_dialogue 0, all turns")
        if (self.policy_url is None) != (self.policy_model is None):
            raise ValueError("policy_url and policy_model need each other")
        return self


FILLED = ("judge_cache",)  # folders that a run fills itself: what stands in them makes no other run of it
# Parameters that say where a run's work is done, not what it is: a run that has begun may go on with others.
WHERE = ("trainers", "trackers", *FILLED)
HIDDEN = "(hidden)"
OVERRIDES = "the overrides"  # a notebook's, a sweep's, a command's: where a mistake in them is


def hide_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Parameters by name, fit to be shown and sent on.

    Hidden are headers' values, but for those that name an environment variable ($NAME), and what stands in addresses
    before `@` and in their queries, but for Azure's `api-version`.
    """
    return {name: _without_keys(name, value) for name, value in values.items()}


def _without_keys(name: str, value: Any) -> Any:
    if name.endswith("_headers") and isinstance(value, dict):
        return {header: v if str(v).startswith("$") else HIDDEN for header, v in value.items()}
    if name.endswith("_url") and isinstance(value, str):
        anonymous = re.sub(r"//[^/?,@]*@", f"//{HIDDEN}@", value)
        return re.sub(r"([?&](?!api-version=)[^=&,]*=)[^&,]*", rf"\1{HIDDEN}", anonymous)
    return value


def read_layers(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's values over those of the files that it extends, unvalidated. `above`: the files that extend it.

    UserError if a file is not YAML, or extends anything but one other file.
    """
    path = Path(path).expanduser()
    above = (*above, path.resolve())
    if above[-1] in above[:-1]:
        raise UserError(f"{path} extends itself: {' extends '.join(p.name for p in above)}")
    values = read_yaml(path) or {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold `name: value` lines, got a {type(values).__name__}")
    below = values.pop("extends", None)
    if not isinstance(below, str | None):
        raise UserError(f"{path}: extends: {below!r} is not the path of one file")
    return {**(read_layers(path.parent / Path(below).expanduser(), above) if below else {}), **values}


def load_params(
    path: Path | str | None = None, overrides: dict[str, Any] | None = None, below: dict[str, Any] | None = None
) -> Params:
    """The run's parameters: defaults, then the file (with what it extends), then the overrides.

    path: a file, or the name of one that came with the package, such as `cpu-demo`. below: a command's own defaults,
    under the file. Raises UserError, naming the file, the key, the value and what is accepted.
    """
    if not isinstance(overrides, dict | None):
        raise UserError(
            f"the overrides must be `name: value` pairs, got the {type(overrides).__name__} {overrides!r}; "
            "papermill's -p hands over text, -y takes YAML: -y 'overrides: {name: value}'"
        )
    values = {**(below or {}), **(read_layers(shipped(path)) if path else {}), **(overrides or {})}
    return validate(values, str(path or OVERRIDES), overrides or ())


def validate(values: dict[str, Any], source: str, overrides: Container[str] = ()) -> Params:
    """`values` as Params; UserError says what is wrong in `source`, with the nearest known name for an unknown one.

    overrides: the names whose values are not the source's, but were set over it.
    """

    def place(name: str) -> str:
        return OVERRIDES if name in overrides else source

    if unknown := sorted(set(values) - set(Params.model_fields)):
        near = difflib.get_close_matches(unknown[0], Params.model_fields, n=1)
        accepted = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(sorted(Params.model_fields))}"
        raise UserError(f"{place(unknown[0])}: unknown parameter {unknown[0]!r}; {accepted}")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        at = error.errors()[0]["loc"]
        raise UserError(f"{place(at[0]) if at else source}: {first_error(error)}") from None
