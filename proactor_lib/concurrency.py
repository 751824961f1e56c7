"""Asynchronous work, from scripts and from notebooks alike."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns, from a script or from a notebook's cell (whose thread has a running loop already).

    Ctrl-C, or what a signal's handler raises here, cancels `work`, waits for its clean-up, and is raised.
    """
    running: list[asyncio.Task] = []

    async def main() -> T:
        running.append(asyncio.current_task())
        return await work

    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(asyncio.run, main())
        try:
            return outcome.result()
        except BaseException:
            if not outcome.done():  # else it is what `work` raised
                for task in running:
                    task.get_loop().call_soon_threadsafe(task.cancel)
            raise
