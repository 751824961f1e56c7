"""What every reward is: an object that scores the K outputs of one turn together [SPEC 5]."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeVar

from proactor_lib.agent import Parsed, render
from proactor_lib.params import Params
from proactor_lib.schema import Case, ReferenceAction

if TYPE_CHECKING:
    from proactor_lib.rewards.judge import Judge

T = TypeVar("T")


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
    def said(self) -> tuple[str | None, ...]:
        """What each output says in the output format, spelled one way; None for an unreadable one."""
        make = lambda: tuple(None if o.unreadable else render(o.actions) for o in self.outputs)  # noqa: E731
        return self.once(("said",), make)

    def once(self, key: tuple, make: Callable[[], T]) -> T:
        """What `make` gives, worked out once for all rewards that ask by the same key, at whatever progress."""
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]


@dataclass(frozen=True)
class Score:
    """A reward in [0, 1] and what it is made of. `value` None: it could not be obtained; never 0 instead."""

    value: float | None
    components: dict[str, float] = field(default_factory=dict)


class Reward(ABC):
    """A reward by `name`.

    `timed`: it claims to reward timing, so the lab holds it to the policies' right order. `staged`: it moves with
    training progress.
    """

    name: ClassVar[str]
    timed: ClassVar[bool] = True
    staged: ClassVar[bool] = False

    def __init__(self, params: Params):
        self.params = params

    @abstractmethod
    async def score(self, group: Group) -> list[Score]:
        """K scores, in the order of `group.outputs`. Never raises for what an output or a judge says."""

    @property
    def counters(self) -> dict[str, float]:
        """Counts so far (judge calls, failures by kind, cost); a trainer logs them at each step."""
        return {}

    @property
    def judges(self) -> Sequence["Judge"]:
        """The judges that it asks; none for a metric reward."""
        return ()

    async def close(self) -> None:
        """Let go of connections."""
        return
