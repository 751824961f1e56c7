"""Asynchronous work, from scripts and from notebooks alike."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns, from a script or from a notebook's cell (whose thread has a running loop already).

    Ctrl-C, or what a signal's handler raises here, cancels `work`, waits for its clean-up, and is raised.
    """
    running: list[asyncio.Task] = []
    ended = threading.Event()

    async def main() -> T:
        running.append(asyncio.current_task())
        if ended.is_set():  # before there was a task to cancel
            work.close()
            raise asyncio.CancelledError
        return await work

    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(asyncio.run, main()).result()
        except BaseException:
            ended.set()
            for task in running:
                with contextlib.suppress(RuntimeError):  # it has ended, and its loop is closed
                    task.get_loop().call_soon_threadsafe(task.cancel)
            raise
