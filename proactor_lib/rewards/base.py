"""What every reward is, an object that scores the K outputs of one turn together, and what a judge is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeVar

from proactor_lib.agent import Parsed, render
from proactor_lib.metrics import as_set
from proactor_lib.rewards.params import RewardParams
from proactor_lib.schema import Case, ReferenceAction

T = TypeVar("T")
Marks = dict[str, float]  # criterion -> mark in [0, 1]


@dataclass(frozen=True)
class Group:
    """The K outputs of one turn, and what they are judged by."""

    case: Case
    turn: int
    texts: tuple[str, ...]  # raw outputs, K of them
    outputs: tuple[Parsed, ...]  # `agent.parse` of each
    progress: float = 0.0  # training progress u in [0, 1]
    shared: dict = field(default_factory=dict, repr=False, compare=False)  # see `once`

    @property
    def open(self) -> tuple[ReferenceAction, ...]:
        """The references whose coverage [open, close] holds this turn."""
        return self.once(("open",), lambda: tuple(r for r in self.case.references if r.window.covers(self.turn)))

    @property
    def sets(self) -> tuple[Parsed, ...]:
        """The outputs as sets: of equal actions one is left."""
        return self.once(("sets",), lambda: tuple(Parsed(tuple(as_set(o.actions)), o.unreadable) for o in self.outputs))

    @property
    def said(self) -> tuple[str | None, ...]:
        """What each output says in the output format, as a set, spelled one way; None for an unreadable one."""
        make = lambda: tuple(None if o.unreadable else render(o.actions) for o in self.sets)  # noqa: E731
        return self.once(("said",), make)

    def once(self, key: tuple, make: Callable[[], T]) -> T:
        """What `make` gives, worked out once for all rewards that ask by the same key, at whatever progress."""
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]


@dataclass(frozen=True)
class Score:
    """A reward and what it is made of. `value` None: it could not be obtained; never 0 instead.

    In [0, 1], but for Utility. steady: where a reward moves with progress, what its metric part is under the weights of
    the middle of training: gains are measured by it, or a policy that never changes would gain by the schedule alone.
    """

    value: float | None
    components: dict[str, float] = field(default_factory=dict)
    steady: float | None = None


class Judge(Protocol):
    """Marks the distinct outputs of a group relative to each other."""

    name: str
    repeat: int  # another one asks again what a cache knows

    async def mark(self, group: Group, outputs: Sequence[Parsed], criteria: Sequence[str]) -> list[Marks | None]:
        """A mark for each criterion, for each of `outputs`, in their order; None where it could not be obtained."""

    @property
    def counters(self) -> dict[str, float]:
        """Counts so far."""

    async def close(self) -> None:
        """Let go of connections."""


class Reward(ABC):
    """A reward by `name`.

    `timed`: it claims to reward timing, so the lab holds it to the policies' right order. `staged`: it moves with
    training progress. `judged`: it asks judges.
    """

    name: ClassVar[str]
    timed: ClassVar[bool] = True
    staged: ClassVar[bool] = False
    judged: ClassVar[bool] = False

    def __init__(self, params: RewardParams):
        self.params = params

    @abstractmethod
    async def score(self, group: Group) -> list[Score]:
        """K scores, in the order of `group.outputs`. Never raises for what an output or a judge says."""

    @property
    def counters(self) -> dict[str, float]:
        """Counts so far (judge calls, failures by kind, cost); a trainer logs them at each step."""
        return {}

    @property
    def judges(self) -> Sequence[Judge]:
        """The judges that it asks; none for a metric reward."""
        return ()

    async def close(self) -> None:
        """Let go of connections."""
        return
