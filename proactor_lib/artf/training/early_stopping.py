"""When supervised fine-tuning has learnt what it can: the loss on dev, and the weights at its lowest [ours]."""

from collections.abc import Callable
from typing import Any

import torch


class EarlyStopping:
    """Looks at the loss on dev every `every` steps and after the last, and keeps the weights of the best look.

    loss: measures it, in nats per token; patience: looks in a row without improvement that end the training; last: the
    step after which training ends by itself.
    """

    def __init__(self, loss: Callable[[], float], weights: list[torch.nn.Parameter], every: int, patience: int,
                 last: int):  # fmt: skip
        self._loss, self._weights = loss, weights
        self._every, self._patience, self._last = every, patience, last
        self._best, self._kept, self._worse = float("inf"), [], 0

    def look(self, step: int) -> float | None:
        """The loss on dev after `step` (from 1), where one is due."""
        if step % self._every and step != self._last:
            return None
        loss = self._loss()
        if loss < self._best:
            self._best, self._worse = loss, 0
            self._kept = [w.detach().clone() for w in self._weights]
        else:
            self._worse += 1
        return loss

    @property
    def over(self) -> bool:
        """Whether patience is at its end."""
        return self._worse >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """What the looks so far found, for a training that goes on later."""
        return {"best": self._best, "worse": self._worse, "kept": self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._best, self._worse, self._kept = state["best"], state["worse"], state["kept"]

    def restore(self) -> None:
        """Give the weights the values of the best look, if there was any."""
        for weight, kept in zip(self._weights, self._kept, strict=bool(self._kept)):
            weight.data.copy_(kept)
