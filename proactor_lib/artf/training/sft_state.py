"""Where supervised fine-tuning stands, on disk, so that one that was ended goes on [ours].

What a step does follows from its number and from what is kept here: weights, optimiser, rate and early stopping.
"""

import logging
from pathlib import Path

import torch

from proactor_lib.artf.training.early_stopping import EarlyStopping
from proactor_lib.files import atomic, disk_failed, read_text

log = logging.getLogger(__name__)


class SftState:
    """The state of one training; `path` is there from its first `save` until `forget`."""

    def __init__(self, path: Path, weights: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer,
                 schedule: torch.optim.lr_scheduler.LRScheduler, stopping: EarlyStopping | None):  # fmt: skip
        self.path, self._weights = path, weights
        self._parts = {"optimizer": optimizer, "schedule": schedule, "stopping": stopping}

    def save(self, done: int) -> None:
        """Write the state after step `done` (from 1), whole. A disk that is full leaves the last one, and is logged."""
        state = {name: part.state_dict() for name, part in self._parts.items() if part}
        state |= {"done": done, "weights": [w.detach() for w in self._weights]}
        try:
            with atomic(self.path, "wb") as file:
                torch.save(state, file)
        except Exception as error:
            if not disk_failed(error):
                raise
            log.error("the state after step %d was not written (%s); the last one stays", done, error)

    def restore(self) -> int:
        """Take the state that was saved last; the steps that it has done, 0 without one."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        for weight, saved in zip(self._weights, state["weights"], strict=True):
            weight.data.copy_(saved)
        for name, part in self._parts.items():
            if part:
                part.load_state_dict(state[name])
        log.info("goes on after step %d, from %s", state["done"], self.path)
        return state["done"]

    def forget(self) -> None:
        """The training is done, and its adapter written."""
        self.path.unlink(missing_ok=True)


def keep_lines(path: Path, done: int) -> None:
    """Of a training's lines, keep those of its first `done` steps: what came after them comes again."""
    lines = read_text(path).splitlines()[:done] if done else []
    with atomic(path) as file:
        file.writelines(f"{line}\n" for line in lines)
