"""What is supervised in a training run: the start of GRPO, given or trained, and SFT for as long, to compare with."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from proactor_lib import progress
from proactor_lib.artf.training import ranks
from proactor_lib.artf.training.episodes import Episode
from proactor_lib.artf.training.job import Job
from proactor_lib.artf.training.training_log import WARM_START, read_steps
from proactor_lib.errors import UserError
from proactor_lib.files import read_text


def copy_start_adapter(job: Job) -> None:
    """Copy the adapter that `start_from` names to where a warm start would leave one. UserError if it does not fit."""
    given = job.params.start_from
    if given is None or job.sft_adapter.exists():
        return
    if not (given / "adapter_config.json").exists():
        raise UserError(f"start_from: {given} holds no adapter_config.json; a run's training/sft does")
    config, losses = json.loads(read_text(given / "adapter_config.json")), given.with_suffix(".jsonl")
    for key, name in {"r": "lora_rank", "lora_alpha": "lora_alpha"}.items():
        if config[key] != (wanted := getattr(job.params, name)):
            raise UserError(f"start_from: the adapter in {given} has {name} {config[key]}, this run has {wanted}")
    if job.params.sft_equal_time and not losses.exists():
        raise UserError(f"sft_equal_time: how long the SFT of start_from took should stand in {losses}")
    job.folder.mkdir(parents=True, exist_ok=True)
    if losses.exists():
        shutil.copy(losses, job.sft_adapter.with_suffix(".jsonl"))
    copy_whole(given, job.sft_adapter)


def copy_whole(given: Path, folder: Path) -> None:
    """Copy an adapter to another folder, whole or not at all: its presence says that it is done."""
    from proactor_lib.artf.training.adapter import copy_adapter

    copy_adapter(given, folder)


def warm_start(job: Job) -> None:
    """SFT on the references, if the parameters ask for it and it is not done yet."""
    if job.params.sft_steps == 0 or job.sft_adapter.exists():
        return
    supervise(job, job.sft_adapter, job.params.sft_steps)


def supervise(job: Job, adapter: Path, steps: int) -> None:
    """So many steps of SFT; the adapter goes to `adapter`."""
    from proactor_lib.artf.training.sft import Lessons, fine_tune

    def on_step(step: int, loss: float) -> None:
        progress.report(job.run.out, adapter.name, step, steps, f"loss {loss:.3f}")

    if ranks.number() == 0:
        progress.report(job.run.out, adapter.name, 0, steps)
    lessons = Lessons(job.visits(None), _dev_visits(job), job.dialogue_tokens, job.tokenizer)
    fine_tune(job.params, job.base, lessons, adapter, steps, on_step)


def _dev_visits(job: Job) -> list[Episode]:
    """A visit to each dialogue of dev, where early stopping looks; none without it."""
    if not job.params.sft_check:
        return []
    if not (count := len(job.run.split("dev"))):
        raise UserError("sft_check: dev has no dialogue to look at")
    dev = job.visits(None, "dev")
    return [dev[n] for n in range(count)]


def equal_time(job: Job) -> None:
    """SFT for as long as warm start and GRPO took together, to compare with, if the parameters ask for it [ours].

    It begins anew, for a learning rate that falls over all of its steps; how many they are follows from the seconds
    that the others' took, looks at dev included. It is not stopped early.
    """
    if not job.params.sft_equal_time or job.equal_time_adapter.exists():
        return
    warm, grpo = read_steps(job.run, WARM_START), read_steps(job.run)
    looks = warm.dev_seconds.sum() if "dev_seconds" in warm else 0.0
    seconds = warm.seconds.sum() + looks + grpo[["rollout_wait_s", "train_s", "sync_s"]].sum().sum()
    unstopped = replace(job, run=replace(job.run, params=job.params.model_copy(update={"sft_check": 0})))
    supervise(unstopped, job.equal_time_adapter, round(seconds / warm.seconds.mean()))
