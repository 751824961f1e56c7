"""One training run, from a folder with references to an adapter: server, warm start, GRPO, records, resume.

Runs in a process of its own (`proactor train`), so that the notebook that follows it can be closed and opened again.
Files in the run's `training/`: sft/ and sft.jsonl, metrics.jsonl and samples.jsonl (one line per step and per group),
checkpoint-N/, adapter/ (its presence says that the policy is trained), and sft_equal_time/ where it is asked for;
made.json says what they were made from.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from proactor_lib import allocator, events, models, progress
from proactor_lib.artf.serving.cluster import Cluster
from proactor_lib.artf.serving.completions import CompletionClient
from proactor_lib.artf.serving.launch import ray_session, serve
from proactor_lib.artf.serving.own import judged
from proactor_lib.artf.serving.placement import core_numbers, core_slots, machine_cores, on_gpu
from proactor_lib.artf.serving.policy_sync import AdapterSync, MergedSync, PolicySync, clear_scratch, scratch_folder
from proactor_lib.artf.serving.server import Server
from proactor_lib.artf.training import inputs, ranks
from proactor_lib.artf.training.job import Job, adapters_served
from proactor_lib.artf.training.rollouts import Crediting, RolloutWorker
from proactor_lib.artf.training.training_log import Records, finished
from proactor_lib.artf.training.warm_start import copy_start_adapter, copy_whole, equal_time, warm_start
from proactor_lib.errors import UserError
from proactor_lib.params import Params
from proactor_lib.rewards import Reward, make_reward
from proactor_lib.run_folder import RunFolder

log = logging.getLogger(__name__)


def train(run: RunFolder, while_served: Callable[[Server], None] = lambda server: None, **kwargs) -> None:
    """Bring the run's training to its end; what an earlier call finished stays. What is started here is ended here.

    Every rank calls it; rank 0 owns servers, rollouts and files. while_served: gets the run's one server when all is
    trained, before it ends: a start takes as long as asking a policy. `kwargs` go to `reinforce`. UserError where an
    earlier call's was made from other data than the run has now.
    """
    inputs.refuse_changed(run)
    job = Job(run)
    if finished(run):
        log.info("%s is there already", job.adapter)
        return
    log.info("%s trains", job.base)  # a model that is not there is said before anything large is imported
    with ranks.group(on_gpu(job.params.device)):
        if not job.adapter.exists():
            _warm_start_and_reinforce(job, while_served, **kwargs)
        ranks.wait_for_all()
        equal_time(job)


def _warm_start_and_reinforce(job: Job, while_served: Callable[[Server], None], **kwargs) -> None:
    if ranks.number() == 0:
        inputs.note(job.run)
        _warn_of_cuts(job)
        copy_start_adapter(job)
        job.trainer_base()  # made by one, used by all
    ranks.wait_for_all()
    warm_start(job)  # before the server starts: the two would fight for the cores
    allocator.release()  # the server is to have it
    ranks.wait_for_all()
    if ranks.number() == 0:
        with ray_session(job.params):
            serve_and_reinforce(job, while_served, **kwargs)
    elif job.params.max_steps:
        reinforce(job, None, **kwargs)


def _warn_of_cuts(job: Job) -> None:
    share, longest = job.cut_references()
    if share > 0:
        limit = job.params.max_completion_tokens
        log.warning("the right output has up to %d tokens, and max_completion_tokens is %d: it is cut at %.1f%% of the "
                    "turns with a reference", longest, limit, 100 * share)  # fmt: skip


def serve_and_reinforce(job: Job, while_served: Callable[[Server], None], **kwargs) -> None:
    """GRPO, if the parameters ask for any, on servers that end with it, the judge's own one among them."""
    if not job.params.max_steps:
        if not job.sft_adapter.exists():
            raise UserError("nothing to train: sft_steps and max_steps are 0, and start_from names no adapter")
        copy_whole(job.sft_adapter, job.adapter)
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
                allocator.release()  # the server is to have it
                while_served(server)
        finally:
            server.stop()


def reinforce(job: Job, server: Server | Cluster | None, trainer_class=None, reward: Reward | None = None,
              crediting: Callable[..., Crediting] = Crediting) -> None:  # fmt: skip
    """GRPO from the warm start (or the last checkpoint) to `max_steps`; the adapter is written at the end.

    server: None for a rank other than 0. trainer_class: a DialogueTrainer with rows of its own; reward: another than
    the parameters name; crediting: makes advantages of rewards by another rule.
    """
    from proactor_lib.artf.training.adapter import save_adapter
    from proactor_lib.artf.training.trainer import last_checkpoint

    checkpoint = last_checkpoint(job.folder)
    first_step = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    resume = str(checkpoint) if checkpoint else None
    if first_step >= job.params.max_steps:  # killed between the last checkpoint and the adapter
        if server is not None:
            copy_whole(checkpoint, job.adapter)
            events.emit(events.TrainingEnded(job.run.out))
    elif server is None:
        _trainer(job, trainer_class, worker=None, sync=None, on_step=None).train(resume_from_checkpoint=resume)
    else:
        if checkpoint:
            log.info("goes on after step %d, from %s", first_step, checkpoint)
        with _rollouts(job, server, reward, first_step, crediting) as parts:
            trainer = _trainer(job, trainer_class, **parts)
            trainer.train(resume_from_checkpoint=resume)
            save_adapter(trainer.accelerator.unwrap_model(trainer.model), job.adapter)
            events.emit(events.TrainingEnded(job.run.out))


@contextmanager
def _rollouts(job: Job, server: Server | Cluster, reward: Reward | None, first_step: int,
              crediting: Callable[..., Crediting]) -> Iterator[dict]:  # fmt: skip
    """What rank 0's trainer alone has: the worker that brings its data, the sync to its servers, and its records."""
    p = job.params
    scratch = scratch_folder(job.folder, job.served, elsewhere=bool(p.ray_address))
    sync = _sync(job, server, scratch)
    sync.on_publish = lambda version: events.emit(events.PolicyPublished(job.run.out, version))
    reward = reward or make_reward(p)
    visits = job.visits(p.turns_per_dialogue, first=p.sft_steps * p.sft_dialogues_per_step)  # SFT made those before
    worker = RolloutWorker(
        visits, job.dialogue_tokens, _sampler(p, server), reward, sync.model_name,
        k=p.num_generations, visits_per_step=p.dialogues_per_step, max_steps=p.max_steps,
        max_staleness=p.max_staleness, first_step=first_step, crediting=_crediting(p, crediting),
        longest_prompt=longest_prompt(p),
        reference_tokens=job.reference_tokens if p.anchor else None, sure_output=p.sure_output,
    )  # fmt: skip
    try:
        yield {"worker": worker, "sync": sync, "on_step": Records(job.run, reward, first_step)}
    finally:
        worker.stop()
        if isinstance(sync, MergedSync):
            clear_scratch(job.folder)


def longest_prompt(params: Params) -> int:
    """Tokens of a prompt that an output fits behind: in the context and, where rows are cut, in a row.

    UserError where none does.
    """
    cut = ranks.count() > 1 or params.kl_beta > 0  # DialogueTrainer.rows
    room = min(params.max_context, params.token_budget) if cut else params.max_context
    if room <= params.max_completion_tokens:
        raise UserError(f"no prompt fits: max_completion_tokens is {params.max_completion_tokens} of {room} tokens")
    return room - params.max_completion_tokens


def _trainer(job: Job, trainer_class, worker: RolloutWorker | None, **parts):
    """The run's trainer, on its cores."""
    from transformers import PrinterCallback

    from proactor_lib.artf.training.losses import Rule
    from proactor_lib.artf.training.sft import lora_config
    from proactor_lib.artf.training.trainer import DialogueTrainer

    p, base = job.params, job.trainer_base()
    trainer = (trainer_class or DialogueTrainer)(
        model=base.path,
        args=grpo_config(p, job.folder, base),
        processing_class=job.tokenizer,
        peft_config=lora_config(p),  # without dropout: it is compared with what servers sampled from
        start_from=job.sft_adapter if job.sft_adapter.exists() else None,
        rule=Rule(**{f.name: getattr(p, f.name) for f in fields(Rule)}),
        worker=worker,
        **parts,
    )
    trainer.remove_callback(PrinterCallback)
    if ranks.number() == 0:
        trainer.add_callback(_checkpoints_told(job))
    if ranks.count() > 1 and p.trainer_cores:
        pin(core_slots(ranks.count(), p.trainer_cores)[ranks.number()].cores)
    elif p.trainer_cores:
        pin(machine_cores(p.trainer_cores))
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


def _crediting(params: Params, made: Callable[..., Crediting]) -> Crediting:
    named = {k: getattr(params, k) for k in ("scale_rewards", "turn_weights", "credit")}
    return made(**named, theta=params.reward_theta, price=params.reward_price)


def _cores(params: Params, servers_idle: bool) -> str:
    """The trainer's cores, and those of servers that have nothing to do until the next version."""
    lent = params.server_cores if servers_idle and not on_gpu(params.device) else None
    return machine_cores(f"{params.trainer_cores},{lent}" if lent else params.trainer_cores)


def pin(cores: str) -> None:
    """Keep this process, its threads to come and torch's arithmetic on these cores of the machine."""
    import torch

    chosen = set(core_numbers(cores))
    os.sched_setaffinity(0, chosen)
    torch.set_num_threads(len(chosen))


def grpo_config(params: Params, folder: Path, base: models.TrainerBase):
    """TRL's configuration for these parameters and this base."""
    from proactor_lib.artf.training.trainer import AsyncGRPOConfig

    quantization, dtype = models.quantization_config(base.quantization), str(base.dtype).removeprefix("torch.")
    config = AsyncGRPOConfig(
        output_dir=str(folder),
        model_init_kwargs={"quantization_config": quantization} if quantization else {},
        dtype=dtype,
        bf16=dtype == "bfloat16",
        use_cpu=not on_gpu(params.device),
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
