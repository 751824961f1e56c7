"""What a judge is: it marks the outputs of a turn relative to each other."""

from collections.abc import Sequence
from typing import Protocol

from proactor_lib.agent import Parsed
from proactor_lib.rewards.base import Group

Marks = dict[str, float]  # criterion -> mark in [0, 1]


class Judge(Protocol):
    """Marks the distinct outputs of a group relative to each other."""

    name: str
    repeat: int  # another one asks anew what a cache knows

    async def mark(self, group: Group, outputs: Sequence[Parsed], criteria: Sequence[str]) -> list[Marks | None]:
        """A mark for each criterion, for each of `outputs`, in their order; None where it could not be obtained."""

    @property
    def counters(self) -> dict[str, float]:
        """Counts so far."""

    async def close(self) -> None:
        """Let go of connections."""
