"""A family of processes: what it weighs, and how to end all of it; what Linux alone can do is left out elsewhere."""

import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from proactor_lib.errors import UserError

# What a launcher of several training processes leaves in the environment of each: nobody else is to take part.
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PDEATHSIG, _SUBREAPER = 1, 36  # prctl


def follow_parent(number: int = signal.SIGTERM) -> None:
    """Ask the kernel to send this process a signal when its parent dies, whatever it dies of.

    Strictly, when the thread ends that started it: start children from one that lives as long as they should.
    """
    _prctl(_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def adopt_orphans() -> None:
    """Make this process the new parent of descendants whose own parent dies, so that none is lost from sight."""
    _prctl(_SUBREAPER, 1)


def last_line(text: str) -> str:
    """The last line of what a process said; empty where it said nothing."""
    return text.strip().rpartition("\n")[2]


def cores() -> int:
    """How many cores this process may use."""
    return len(own_cores())


def own_cores() -> list[int]:
    """The numbers of the machine's cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def family(pid: int | None = None, itself: bool = True) -> list[psutil.Process]:
    """The living descendants of process `pid` (this one if None), youngest first, and the process itself at the end."""
    try:
        root = psutil.Process(pid)
        members = [*reversed(root.children(recursive=True)), *([root] if itself else [])]
    except psutil.NoSuchProcess:
        return []
    return [p for p in members if alive(p)]


def alive(process: psutil.Process) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end(pid: int | None = None, itself: bool = True, grace: float = 5.0) -> None:
    """End the family of `pid`: SIGTERM, and after `grace` seconds SIGKILL to what is left. Returns when all are gone.

    Whoever was once seen as a member is ended, even if its own parent dies first and it changes families.
    """
    seen, deadline = set(family(pid, itself)), time.monotonic() + grace
    for process in seen:
        _send(process, psutil.Process.terminate)
    while left := [p for p in seen if alive(p)]:
        if time.monotonic() > deadline:
            for process in left:
                _send(process, psutil.Process.kill)
        time.sleep(0.05)
        seen.update(family(pid, itself))


def _send(process: psutil.Process, signal_of: Callable[[psutil.Process], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        signal_of(process)


def pss_bytes(processes: list[psutil.Process]) -> int:
    """Sum of the processes' proportional set sizes: shared pages are counted once in all. A gone process counts 0.

    Where the system does not know them (it is not Linux), pages that are not shared.
    """
    total = 0
    for process in processes:
        try:
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.uss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """While open, these variables stand in the environment of this process and of what it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


class PeakMemory:
    """While open, samples the PSS of a process family in a thread; `gb` is the highest sum so far (1e9 bytes).

    every: seconds between two samples; share: of a core that sampling may take, which makes them rarer where processes
    are large (a sum over 9 GB took 0.12 s).
    """

    def __init__(self, pid: int | None = None, every: float = 2.0, share: float = 0.02):
        self._pid, self._every, self._share, self._closed = pid, every, share, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.gb = 0.0

    def _sample(self) -> None:
        while True:
            began = time.thread_time()
            self.gb = max(self.gb, pss_bytes(family(self._pid)) / 1e9)
            if self._closed.wait(max(self._every, (time.thread_time() - began) / self._share)):
                return

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()
        self._thread.join()


MARK = "PROACTOR_GUARDED"  # in the environment of what a guard ends


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While open, no other process has this open for the folder, which is made.

    UserError where one has, with its number, and where nothing can be written there.
    """
    from filelock import FileLock, Timeout

    held, number = FileLock(folder / ".lock", timeout=0), folder / ".lock.pid"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        other = number.read_text(encoding="utf-8") if number.exists() else "another"
        raise UserError(f"{folder} is being run by process {other}: wait for it, or end it") from None
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from None
    try:
        number.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        held.release()


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """End whatever is started inside and still runs at the end of the block, also when this process is killed (-9).

    A process of its own waits for the end of the block, or of this process. It knows members by a mark in their
    environment (daemons leave a family) and by having seen them in the family (some overwrite their environment).
    """
    mark = secrets.token_hex(16)
    before = [str(p.pid) for p in family(itself=False)]
    command = [sys.executable, "-m", "proactor_lib.processes", mark, str(os.getpid()), *before]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        with environment({MARK: mark}):
            yield
    finally:
        guard.stdin.close()
        guard.wait()


def _guard(mark: str, pid: int, spared: set[int]) -> None:
    """Watch the family of `pid` until standard input ends, then end what is left of it."""
    seen: set[psutil.Process] = set()
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.wait(0.5):
        seen.update(p for p in family(pid, itself=False) if p.pid not in spared)
    while left := [p for p in psutil.process_iter() if (p in seen or _has_mark(p, mark)) and alive(p)]:
        for process in left:
            _send(process, psutil.Process.kill)
        time.sleep(0.1)


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except psutil.Error:
        return False


if __name__ == "__main__":
    _guard(sys.argv[1], int(sys.argv[2]), {os.getpid(), *map(int, sys.argv[3:])})


def short_temp_folder() -> str:
    """The folder for temporary files; where its path is so long that sockets in it get no name (107 bytes), /tmp."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= 30 or not os.path.isdir("/tmp") else "/tmp"
