"""Short ways to write groups in tests."""

import asyncio

from proactor_lib.agent import parse
from proactor_lib.params import load_params
from proactor_lib.rewards import Group, make_reward
from proactor_lib.schema import Action, Case, Catalog, Dialogue, Parameter, Turn

from support.metric_cases import reference

CATALOG = Catalog(
    domain="trips",
    actions=(
        Action(name="book", params=(Parameter(name="city", required=True), Parameter(name="day", required=True))),
        Action(name="cancel"),
        Action(name="pay"),
    ),
)
DIALOGUE = Dialogue(id="d", domain="trips", turns=tuple(Turn(speaker="user", text=f"turn {i}") for i in range(1, 9)))
BOOK = reference("book", (2, 4, 6), city=("Oslo", 2), day=("friday", 4))

RIGHT = "ready: book | city=Oslo | day=friday"
WAITING = "candidate: book | city=Oslo | day=friday"  # right, but not triggered
PARTIAL = "ready: book | city=Oslo"  # s = 1/2 + 1/2 * 2/3 = 5/6, a match
WRONG = "ready: book | day=monday"  # s = 1/2, no match: at fault
BOTH = f"{RIGHT}\nready: cancel"  # half of it right
SILENCE = "none"
GARBAGE = "I would book it."


def group(
    *texts: str, turn: int = 4, references=(BOOK,), progress: float = 0.0, dialogue: Dialogue = DIALOGUE
) -> Group:
    return Group(Case(dialogue, tuple(references), CATALOG), turn, texts, tuple(map(parse, texts)), progress)


def reward(name: str, **settings):
    return make_reward(load_params(None, {"reward": name, **settings}))


def scores(a_reward, *groups: Group):
    """The scores of each group, all scored at once, then the reward closed."""

    async def work():
        try:
            return await asyncio.gather(*(a_reward.score(g) for g in groups))
        finally:
            await a_reward.close()

    return asyncio.run(work())


def values(name: str, a_group: Group, **settings) -> list[float | None]:
    return [s.value for s in scores(reward(name, **settings), a_group)[0]]
