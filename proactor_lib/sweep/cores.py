"""Cores of a node, lent to one cell at a time: cells on one node pin what they start to different ones.

`server_cores` and `trainer_cores` count the cores that a process may use, so that "0-1" are a cell's own first two.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def lent(count: float) -> Iterator[None]:
    """Keep this thread, and what it starts, on `count` cores that no other cell of this user has.

    On all that it may use where fewer are free, where it has a share of a core, and where a system cannot pin.
    """
    if not hasattr(os, "sched_setaffinity") or count < 1 or count % 1:
        yield
        return
    before = os.sched_getaffinity(0)
    with ExitStack() as held:
        mine = []
        for core in sorted(before):
            if len(mine) < count and _taken(core, held):
                mine.append(core)
        if len(mine) == count:
            held.callback(os.sched_setaffinity, 0, before)
            os.sched_setaffinity(0, mine)
        yield


def _taken(core: int, held: ExitStack) -> bool:
    """Whether the core was free; it is this cell's until `held` closes, or the process ends."""
    folder = Path(tempfile.gettempdir(), f"proactor-cores-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / f"{core}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    held.callback(lock.release)
    return True
