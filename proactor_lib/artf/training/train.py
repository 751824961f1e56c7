"""One training run, from a folder with references to an adapter: server, warm start, GRPO, records, resume.

Runs in a process of its own (`proactor train`), so that the notebook that follows it can be closed and opened again.
Files in the run's `training/`: sft/ and sft.jsonl, metrics.jsonl and samples.jsonl (one line per step and per group),
checkpoint-N/, adapter/ (written last: its presence says that training is done).
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

from proactor_lib import events, models, progress
from proactor_lib.artf.serving.cluster import Cluster
from proactor_lib.artf.serving.completions import CompletionClient
from proactor_lib.artf.serving.launch import ray_session, serve
from proactor_lib.artf.serving.own import judged
from proactor_lib.artf.serving.placement import core_numbers, core_slots
from proactor_lib.artf.serving.policy_sync import AdapterSync, MergedSync, PolicySync, scratch_folder
from proactor_lib.artf.serving.server import Server
from proactor_lib.artf.training import ranks
from proactor_lib.artf.training.episodes import DialogueSampler, Episode
from proactor_lib.artf.training.rollouts import Crediting, RolloutWorker
from proactor_lib.artf.training.tokens import DialogueTokens, dialogue_tokens, reference_tokens
from proactor_lib.artf.training.training_log import WARM_START, Records, finished, read_steps
from proactor_lib.errors import UserError
from proactor_lib.files import read_text
from proactor_lib.params import Params
from proactor_lib.rewards import Reward, make_reward
from proactor_lib.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a training run works with."""

    run: RunFolder

    @property
    def params(self) -> Params:
        return self.run.params

    @property
    def folder(self) -> Path:
        return self.run.training

    @property
    def sft_adapter(self) -> Path:
        """Where the warm start leaves its adapter."""
        return self.folder / "sft"

    @property
    def equal_time_adapter(self) -> Path:
        """Where SFT for as long leaves its own."""
        return self.folder / "sft_equal_time"

    @property
    def adapter(self) -> Path:
        """Where the trained policy's adapter ends up."""
        return self.folder / "adapter"

    @cached_property
    def base(self) -> str:
        """The base model's folder."""
        return models.resolve(self.params.model)

    @cached_property
    def served(self) -> str:
        """The weights that servers hold: the trainer's 4-bit ones, dequantised unless `serve_weights` is nf4."""
        return models.served_weights(self.base, self.params.quantization, self.params.serve_weights)

    @property
    def server_dtype(self) -> str:
        """The type of numbers that servers compute with."""
        return models.dtype_name(self.params.server_dtype, _on_gpu(self.params))

    @cached_property
    def tokenizer(self):
        return models.load_tokenizer(self.base)

    @cached_property
    def dialogue_tokens(self) -> Callable[[Episode], DialogueTokens]:
        """A visit's prompts as tokens; the same dialogue is tokenised once."""
        made: dict[str, DialogueTokens] = {}

        def of(visit: Episode) -> DialogueTokens:
            if visit.dialogue.id not in made:
                made[visit.dialogue.id] = dialogue_tokens(self.tokenizer, visit, self.params.chat_template_args)
            return made[visit.dialogue.id]

        return of

    def reference_tokens(self, visit: Episode, turn: int) -> list[int]:
        """What the visit's references say at `turn`, as an output's tokens, and no more than an output may have."""
        return reference_tokens(self.tokenizer, visit.references, turn)[: self.params.max_completion_tokens]

    def visits(self, turns_per_dialogue: int | None, split: str = "train") -> DialogueSampler:
        """A split's visits; for `turns_per_dialogue` see there."""
        return DialogueSampler(self.run.split(split), turns_per_dialogue, self.params.seed, self.params.open_share)


def train(run: RunFolder, while_served: Callable[[Server], None] = lambda server: None, **kwargs) -> None:
    """Bring the run's training to its end; what an earlier call finished stays. What is started here is ended here.

    Every rank calls it; rank 0 owns servers, rollouts and files. while_served: gets the run's one server when all is
    trained, before it ends: a start takes as long as asking a policy. `kwargs` go to `reinforce`.
    """
    job = Job(run)
    if finished(run):
        log.info("%s is there already", job.adapter)
        return
    log.info("%s trains", job.base)  # a model that is not there is said before anything large is imported
    with ranks.group(_on_gpu(job.params)):
        if not job.adapter.exists():
            _warm_start_and_reinforce(job, while_served, **kwargs)
        ranks.wait_for_all()
        equal_time(job)


def _warm_start_and_reinforce(job: Job, while_served: Callable[[Server], None], **kwargs) -> None:
    if ranks.number() == 0:
        copy_start_adapter(job)
        _trainer_base(job)  # made by one, used by all
    ranks.wait_for_all()
    warm_start(job)  # before the server starts: the two would fight for the cores
    ranks.wait_for_all()
    if ranks.number() == 0:
        with ray_session(job.params):
            serve_and_reinforce(job, while_served, **kwargs)
    elif job.params.max_steps:
        reinforce(job, None, **kwargs)


def serve_and_reinforce(job: Job, while_served: Callable[[Server], None], **kwargs) -> None:
    """GRPO, if the parameters ask for any, on servers that end with it, the judge's own one among them."""
    if not job.params.max_steps:
        _copy(job.sft_adapter, job.adapter)
        return
    progress.report(job.run.out, "serve", 0, 1, "waiting for the vLLM server")
    weights = job.served  # made before anything is on a GPU
    with judged(job.params, job.folder / "judge") as params:
        kwargs["reward"] = kwargs.get("reward") or make_reward(params)
        server = serve(job.params, weights, job.folder, lora=adapters_served(job.params))
        try:
            server.wait_ready(job.params.start_timeout)
            progress.report(job.run.out, "serve", 1, 1)
            reinforce(job, server, **kwargs)
            if ranks.count() == 1 and isinstance(server, Server):  # other ranks do not wait for long
                equal_time(job)
                while_served(server)
        finally:
            server.stop()


def _on_gpu(params: Params) -> bool:
    from proactor_lib.artf.training.sft import use_cuda

    return use_cuda(params)


def adapters_served(params: Params) -> bool:
    """Whether servers hold policies as adapters; else merged into their weights."""
    return params.policy_sync == "adapter" or (params.policy_sync == "auto" and _on_gpu(params))


def copy_start_adapter(job: Job) -> None:
    """Copy the adapter that `start_from` names to where a warm start would leave one. UserError if it does not fit."""
    given = job.params.start_from
    if given is None or job.sft_adapter.exists():
        return
    if not (given / "adapter_config.json").exists():
        raise UserError(f"start_from: {given} holds no adapter_config.json; a run's training/sft does")
    rank = json.loads(read_text(given / "adapter_config.json"))["r"]
    if rank != job.params.lora_rank:
        raise UserError(f"start_from: the adapter in {given} has rank {rank}, lora_rank is {job.params.lora_rank}")
    job.folder.mkdir(parents=True, exist_ok=True)
    if (losses := given.with_suffix(".jsonl")).exists():
        shutil.copy(losses, job.sft_adapter.with_suffix(".jsonl"))
    _copy(given, job.sft_adapter)


def _copy(given: Path, folder: Path) -> None:
    """An adapter to another folder, whole or absent: its presence says that it is done."""
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
    dev = job.visits(None, "dev")
    return [dev[n] for n in range(len(job.run.split("dev")))]


def equal_time(job: Job) -> None:
    """SFT for as long as warm start and GRPO took together, to compare with, if the parameters ask for it [ours].

    It begins anew, for a learning rate that falls over all of its steps; how many they are follows from the seconds
    that the others' took. It is not stopped early.
    """
    if not job.params.sft_equal_time or job.equal_time_adapter.exists():
        return
    warm, grpo = read_steps(job.run, WARM_START), read_steps(job.run)
    seconds = warm.seconds.sum() + grpo[["rollout_wait_s", "train_s", "sync_s"]].sum().sum()
    unstopped = replace(job, run=replace(job.run, params=job.params.model_copy(update={"sft_check": 0})))
    supervise(unstopped, job.equal_time_adapter, round(seconds / warm.seconds.mean()))


def reinforce(job: Job, server: Server | Cluster | None, trainer_class=None, reward: Reward | None = None) -> None:
    """GRPO from the warm start (or the last checkpoint) to `max_steps`; the adapter is written at the end.

    server: None for a rank other than 0. trainer_class: a DialogueTrainer with rows of its own; reward: another than
    the parameters name.
    """
    from proactor_lib.artf.training.adapter import save_adapter
    from proactor_lib.artf.training.trainer import last_checkpoint

    checkpoint = last_checkpoint(job.folder)
    first_step = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    resume = str(checkpoint) if checkpoint else None
    if first_step >= job.params.max_steps:  # killed between the last checkpoint and the adapter
        if server is not None:
            _copy(checkpoint, job.adapter)
            events.emit(events.TrainingEnded(job.run.out))
    elif server is None:
        _trainer(job, trainer_class, worker=None, sync=None, on_step=None).train(resume_from_checkpoint=resume)
    else:
        if checkpoint:
            log.info("goes on after step %d, from %s", first_step, checkpoint)
        with _rollouts(job, server, reward, first_step) as parts:
            trainer = _trainer(job, trainer_class, **parts)
            trainer.train(resume_from_checkpoint=resume)
            save_adapter(trainer.accelerator.unwrap_model(trainer.model), job.adapter)
            events.emit(events.TrainingEnded(job.run.out))


@contextmanager
def _rollouts(job: Job, server: Server | Cluster, reward: Reward | None, first_step: int) -> Iterator[dict]:
    """What rank 0's trainer alone has: the worker that brings its data, the sync to its servers, and its records."""
    p = job.params
    scratch = job.folder / "policy" if p.ray_address else scratch_folder(job.folder)  # other nodes see the run's folder
    sync = _sync(job, server, scratch)
    sync.on_publish = lambda version: events.emit(events.PolicyPublished(job.run.out, version))
    reward = reward or make_reward(p)
    worker = RolloutWorker(
        job.visits(p.turns_per_dialogue), job.dialogue_tokens, _sampler(p, server), reward, sync.model_name,
        k=p.num_generations, visits_per_step=p.dialogues_per_step, max_steps=p.max_steps,
        max_staleness=p.max_staleness, first_step=first_step, crediting=_crediting(p),
        longest_prompt=min(p.max_context, p.token_budget) - p.max_completion_tokens,
        reference_tokens=job.reference_tokens if p.anchor else None,
    )  # fmt: skip
    try:
        yield {"worker": worker, "sync": sync, "on_step": Records(job.run, reward, first_step)}
    finally:
        worker.stop()
        if isinstance(sync, MergedSync):
            shutil.rmtree(scratch, ignore_errors=True)


def _trainer(job: Job, trainer_class, worker: RolloutWorker | None, **parts):
    """The run's trainer, on its cores."""
    from transformers import PrinterCallback

    from proactor_lib.artf.training.trainer import DialogueTrainer

    p, base = job.params, _trainer_base(job)
    trainer = (trainer_class or DialogueTrainer)(
        model=base.path,
        args=grpo_config(p, job.folder, base),
        processing_class=job.tokenizer,
        peft_config=_lora(p),
        start_from=job.sft_adapter if job.sft_adapter.exists() else None,
        rule=_rule(p),
        worker=worker,
        **parts,
    )
    trainer.remove_callback(PrinterCallback)
    if ranks.number() == 0:
        trainer.add_callback(_checkpoints_told(job))
    if ranks.count() > 1 and p.trainer_cores:
        pin(core_slots(ranks.count(), p.trainer_cores)[ranks.number()].cores)
    elif p.trainer_cores:
        pin(p.trainer_cores)
        trainer.before_row = lambda: pin(_cores(p, worker.idle))
    return trainer


def _checkpoints_told(job: Job):
    """Tells of each checkpoint that is whole (a full disk leaves none)."""
    from transformers import TrainerCallback

    class Told(TrainerCallback):
        def on_save(self, args, state, control, **kwargs) -> None:
            if (job.folder / f"checkpoint-{state.global_step}").exists():
                events.emit(events.Checkpointed(job.run.out, state.global_step))

    return Told()


def _sync(job: Job, server: Server | Cluster, scratch: Path) -> PolicySync:
    """What brings versions to the server, or to all of the cluster's, also to those that join it."""
    fleet = server if isinstance(server, Cluster) else [server]
    if adapters_served(job.params):
        sync = AdapterSync(fleet, job.params.max_staleness)
    else:
        sync = MergedSync(fleet, job.served, scratch, job.server_dtype)
    if isinstance(server, Cluster):
        server.sync = sync
    return sync


def _sampler(params: Params, server: Server | Cluster) -> CompletionClient:
    """Requests of a cluster wait until a dead server is replaced."""
    routed = isinstance(server, Cluster)
    patience = 2 * params.start_timeout if routed else 60.0
    return CompletionClient(
        server.url, params.max_completion_tokens, params.temperature, patience, server.key, routed=routed
    )


def _crediting(params: Params) -> Crediting:
    named = {k: getattr(params, k) for k in ("scale_rewards", "turn_weights", "credit")}
    return Crediting(**named, theta=params.reward_theta, price=params.reward_price)


def _rule(params: Params):
    from proactor_lib.artf.training.losses import Rule

    return Rule(**{f.name: getattr(params, f.name) for f in fields(Rule)})


def _lora(params: Params):
    from proactor_lib.artf.training.sft import lora_config

    return lora_config(params)


def _cores(params: Params, servers_idle: bool) -> str:
    """The trainer's cores, and those of servers that have nothing to do until the next version."""
    lent = params.server_cores if servers_idle and not _on_gpu(params) else None
    return f"{params.trainer_cores},{lent}" if lent else params.trainer_cores


def pin(cores: str) -> None:
    """Keep this process, its threads to come and torch's arithmetic on these cores."""
    import torch

    chosen = set(core_numbers(cores))
    os.sched_setaffinity(0, chosen)
    torch.set_num_threads(len(chosen))


def _trainer_base(job: Job) -> models.TrainerBase:
    from proactor_lib.artf.training.sft import trainer_base

    return trainer_base(job.base, job.params)


def grpo_config(params: Params, folder: Path, base: models.TrainerBase):
    """TRL's configuration for these parameters and this base."""
    from proactor_lib.artf.training.sft import use_cuda
    from proactor_lib.artf.training.trainer import AsyncGRPOConfig

    quantization, dtype = models.quantization_config(base.quantization), str(base.dtype).removeprefix("torch.")
    config = AsyncGRPOConfig(
        output_dir=str(folder),
        model_init_kwargs={"quantization_config": quantization} if quantization else {},
        dtype=dtype,
        bf16=dtype == "bfloat16",
        use_cpu=not use_cuda(params),
        seed=params.seed,
        max_steps=params.max_steps,
        learning_rate=params.learning_rate,
        num_generations=params.num_generations,
        max_completion_length=params.max_completion_tokens,
        temperature=params.temperature,
        max_staleness=params.max_staleness,
        token_budget=params.token_budget,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        gradient_checkpointing=params.gradient_checkpointing,
        save_steps=params.save_steps,
        save_strategy="steps",
        logging_steps=1,
        disable_tqdm=True,
        report_to=[],
        ddp_find_unused_parameters=False,
    )
    config._n_gpu = min(config.n_gpu, 1)  # the other visible GPUs are the servers': no DataParallel
    return config
