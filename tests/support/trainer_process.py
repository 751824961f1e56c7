"""A trainer in a process of its own, to kill, and to train on a full disk."""

import logging
import multiprocessing
import os
import resource
import signal
from pathlib import Path

from proactor_lib.params import load_params
from proactor_lib.run import Run

_FORK = multiprocessing.get_context("forkserver")  # each trainer is a fork of a process that has imported what it needs
_FORK.set_forkserver_preload(
    ["proactor_lib.artf.training.train", "proactor_lib.artf.training.trainer", "proactor_lib.artf.training.sft"]
)


def trainer(out: Path, port: int, die: str = "", fsize: int = 0) -> int:
    """Train the run in `out` against the server at `port`, in a process of its own; its exit code (-9: killed).

    die: the place at which it kills itself with SIGKILL (a key of PLACES). fsize: after step 2 no file may grow beyond
    so many bytes, as on a full disk.
    """
    process = begin(out, port, die, fsize)
    process.join(240)
    assert process.exitcode is not None, "the trainer hangs"
    return process.exitcode


def begin(out: Path, port: int, die: str = "", fsize: int = 0) -> multiprocessing.Process:
    """`trainer`, without waiting for its end."""
    process = _FORK.Process(target=_train, args=(str(out), port, die, fsize))
    process.start()
    return process


def _kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def _die_in_training():
    """In the fifth step."""
    loss = _trainer().DialogueTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        return _kill() if self.state.global_step >= 4 else loss(self, *args, **kwargs)

    _trainer().DialogueTrainer.compute_loss = compute_loss


def _die_between_lines():
    """The step's groups are written, and half of its line."""
    from proactor_lib.artf.training import training_log

    append = training_log._append

    def half(path, lines):
        if path.name == "samples.jsonl":
            return append(path, lines)
        path.open("a").write('{"step": 1, "version')
        return _kill()

    training_log._append = half


def _die_after_lines():
    _trainer().DialogueTrainer._save_checkpoint = _kill


def _die_in_checkpoint():
    """Model and optimiser are written, the rest is not."""
    _trainer().DialogueTrainer._save_rng_state = _kill


def _die_before_adapter():
    from proactor_lib.artf.training import adapter

    save = adapter.save_adapter
    adapter.save_adapter = lambda model, folder: _kill() if folder.name == "adapter" else save(model, folder)


PLACES = {
    "in training": _die_in_training,
    "between lines": _die_between_lines,
    "after lines": _die_after_lines,
    "in a checkpoint": _die_in_checkpoint,
    "before the adapter": _die_before_adapter,
}


def _trainer():
    from proactor_lib.artf.training import trainer

    return trainer


def _limit(size: int) -> None:
    take = _trainer().DialogueTrainer.take_step

    def take_step(self):
        if self.state.global_step >= 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return take(self)

    _trainer().DialogueTrainer.take_step = take_step


def _train(out: str, port: int, die: str, fsize: int) -> None:
    import torch
    from proactor_lib.artf.serving.server import Server
    from proactor_lib.artf.training.job import Job
    from proactor_lib.artf.training.train import reinforce

    torch.set_num_threads(1)
    run = Run(load_params(Path(out) / "params.json"), Path(out))
    run.training.mkdir(parents=True, exist_ok=True)
    os.dup2(os.open(run.training / "train.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    logging.basicConfig(level=logging.INFO, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if die:
        PLACES[die]()
    if fsize:
        _limit(fsize)
    server = Server(model="", log_path=run.training / "server.log", port=port)
    reinforce(Job(run), server)
