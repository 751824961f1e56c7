"""TRL's GRPOTrainer on the turns that the other sides train: it generates with transformers and pads."""

import time

from proactor_lib import models
from proactor_lib.agent import Parsed, parse
from proactor_lib.artf.serving.placement import machine_cores
from proactor_lib.artf.training import trl_async  # noqa: F401 (before TRL itself: it keeps TRL from importing vLLM)
from proactor_lib.artf.training.adapter import load_adapter
from proactor_lib.artf.training.episodes import Episode
from proactor_lib.artf.training.job import Job
from proactor_lib.artf.training.sft import lora_config, trainer_base
from proactor_lib.artf.training.train import pin
from proactor_lib.rewards import Group, Reward


def train_with_trl(job: Job, reward: Reward) -> dict:
    """`max_steps` optimiser steps: seconds, steps, prompts, outputs, output_tokens.

    A step's prompts are as many in every step: what is left over after an even division is not trained.
    """
    from trl import GRPOTrainer

    visits = [job.visits(job.params.turns_per_dialogue)[n] for n in range(_count(job))]
    asked = [(visit, turn) for visit in visits for turn in visit.turns]
    counted, base = {"outputs": 0, "output_tokens": 0}, trainer_base(job.base, job.params)
    trainer = GRPOTrainer(
        model=base.path,
        reward_funcs=_scorer(job, visits, reward, counted),
        args=_config(
            job, base, len(asked) // job.params.max_steps, max(len(job.dialogue_tokens(v).prompt(t)) for v, t in asked)
        ),
        train_dataset=_dataset(job, asked),
        processing_class=job.tokenizer,
        quantization_config=models.quantization_config(base.quantization),
        peft_config=lora_config(job.params),
    )
    if job.sft_adapter.exists():
        load_adapter(trainer.model, job.sft_adapter)
    if job.params.trainer_cores:
        pin(machine_cores(job.params.trainer_cores))
    began = time.monotonic()
    trainer.train()
    seconds = round(time.monotonic() - began, 2)
    prompts = len(asked) // job.params.max_steps * job.params.max_steps
    return {"seconds": seconds, "steps": trainer.state.global_step, "prompts": prompts, **counted}


def _count(job: Job) -> int:
    return job.params.dialogues_per_step * job.params.max_steps


def _dataset(job: Job, asked: list[tuple[Episode, int]]):
    from datasets import Dataset

    text = [job.tokenizer.decode(job.dialogue_tokens(visit).prompt(turn)) for visit, turn in asked]
    return Dataset.from_dict({"prompt": text, "visit": [v.number for v, _ in asked], "turn": [t for _, t in asked]})


def _config(job: Job, base: models.TrainerBase, prompts_per_step: int, longest: int):
    """As `train.grpo_config`; as many samples at once as `token_budget` padded tokens hold."""
    from trl import GRPOConfig

    p, dtype = job.params, str(base.dtype).removeprefix("torch.")
    fitting = max(1, p.token_budget // (longest + p.max_completion_tokens))
    side_by_side = max(n for n in range(1, p.num_generations + 1) if p.num_generations % n == 0 and n <= fitting)
    return GRPOConfig(
        output_dir=str(job.folder),
        model_init_kwargs={"dtype": dtype},
        bf16=dtype == "bfloat16",
        use_cpu=True,
        seed=p.seed,
        max_steps=p.max_steps,
        learning_rate=p.learning_rate,
        num_generations=p.num_generations,
        max_completion_length=p.max_completion_tokens,
        temperature=p.temperature,
        epsilon=p.epsilon,
        per_device_train_batch_size=side_by_side,
        steps_per_generation=p.num_generations // side_by_side,
        gradient_accumulation_steps=prompts_per_step * p.num_generations // side_by_side,
        gradient_checkpointing=p.gradient_checkpointing,
        shuffle_dataset=False,
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        report_to=[],
    )


def _scorer(job: Job, visits: list[Episode], reward: Reward, counted: dict[str, int]):
    """The reward as TRL asks for it: all outputs of a call, K in a row from each prompt."""
    k, end = job.params.num_generations, job.tokenizer.eos_token_id

    async def score(completions, completion_ids, visit, turn, **_) -> list[float | None]:
        counted["outputs"] += len(completions)
        counted["output_tokens"] += sum(map(len, completion_ids))
        values = []
        for first in range(0, len(completions), k):
            texts, ids = completions[first : first + k], completion_ids[first : first + k]
            ended = [tokens[-1:] == [end] for tokens in ids]
            parsed = [parse(t) if e else Parsed((), unreadable=True) for t, e in zip(texts, ended, strict=True)]
            group = Group(visits[visit[first]], turn[first], tuple(texts), tuple(parsed))
            values += [s.value for s in await reward.score(group)]
        return values

    return score
