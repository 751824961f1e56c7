"""Training processes: the ranks of one run on this machine, started together and ended together.

Not `torchrun` or `accelerate launch`: their rendezvous listens on every interface. Here the ranks meet in a file, and
talk over loopback (gloo on a CPU) or between GPUs (NCCL).
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from proactor_lib import processes
from proactor_lib.errors import ProcessError, UserError

MEETING = "PROACTOR_RANKS"  # the file in which ranks meet; only a rank has it in its environment
GRACE = 3.0  # seconds that rank 0 has to stop its servers


def is_rank() -> bool:
    """Whether this process is a rank that `launch` started."""
    return MEETING in os.environ


def forget() -> None:
    """Take what a job's own launcher left out of the environment: this process trains alone."""
    for name in processes.LAUNCHER:
        os.environ.pop(name, None)


def launch(count: int, command: list[str], folder: Path, given: Mapping[str, str] = os.environ) -> None:
    """Run `command` as ranks 0 to count - 1, in the environment `given` and more; returns when all have ended well.

    Rank 0 writes to this process's output, each other one to rank-N.log in `folder`. When one ends otherwise, all are
    ended, with all that they started. Raises SystemExit where rank 0 has said why itself; UserError with another rank's
    own sentence, or ProcessError, which says how that rank ended and what it said last.
    """
    processes.adopt_orphans()  # a rank that is killed leaves its servers to this process
    with tempfile.TemporaryDirectory(prefix="ranks-") as meeting:
        try:
            ranks = [_start(n, count, command, folder, Path(meeting) / "store", given) for n in range(count)]
            while None in (codes := [rank.poll() for rank in ranks]) and not any(codes):
                time.sleep(0.1)
        finally:
            processes.end(itself=False, grace=GRACE)
    _raise_first(ranks, folder)


def _start(rank: int, count: int, command: list[str], folder: Path, store: Path, given: Mapping[str, str]):
    environment = {
        MEETING: str(store), "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    # Rank 0 has servers to stop; the others own nothing, and may hang in a collective.
    orphaned = partial(processes.follow_parent, signal.SIGTERM if rank == 0 else signal.SIGKILL)
    output = None if rank == 0 else open(log_path(folder, rank), "ab")  # noqa: SIM115
    try:
        return subprocess.Popen(
            command, env={**given, **environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, preexec_fn=orphaned,
        )  # fmt: skip
    finally:
        if output:
            output.close()


def log_path(folder: Path, rank: int) -> Path:
    """What a rank other than 0 says."""
    return folder / f"rank-{rank}.log"


def _raise_first(ranks: list[subprocess.Popen], folder: Path) -> None:
    """Raise what ended first: a kill, else a sentence, else an error; the others only lost their peers."""
    failed = [(n, rank.returncode) for n, rank in enumerate(ranks) if rank.returncode]
    ended = -signal.SIGTERM, 128 + signal.SIGTERM  # by us, when another one had failed
    if not failed:
        return
    rank, code = min(failed, key=lambda f: (f[1] in ended, f[1] > 0, f[1] != 2, f[0]))
    if rank == 0 and code > 0:
        sys.exit(code)
    words = processes.last_line(log_path(folder, rank).read_text(encoding="utf-8", errors="replace")) if rank else ""
    if code == 2 and words.startswith("proactor: "):
        raise UserError(words.removeprefix("proactor: "))
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    where = f"; last in {log_path(folder, rank)}: {words}" if words else ""
    raise ProcessError(
        f"training process {rank} of {len(ranks)} {how}, so all were ended; the next start goes on{where}"
    )


@contextmanager
def group(gpu: bool) -> Iterator[None]:
    """While open, this rank is in touch with the others, on the GPU of its number if `gpu`. Alone: nothing.

    UserError if there are fewer GPUs than ranks.
    """
    if not is_rank():
        yield
        return
    import torch
    from torch import distributed

    if gpu:
        if (there := torch.cuda.device_count()) < count():
            raise UserError(f"trainers: {count()} processes need a GPU each, and there are {there}")
        torch.cuda.set_device(number())
    torch.set_num_threads(max(1, processes.cores() // count()))
    store = distributed.FileStore(os.environ[MEETING], count())
    forever = timedelta(days=7)  # ranks wait for rollouts; one that dies is seen by whoever launched it
    distributed.init_process_group(
        "nccl" if gpu else "gloo", store=store, rank=number(), world_size=count(), timeout=forever
    )
    try:
        yield
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def number() -> int:
    """This process's rank; 0 for one that trains alone."""
    return int(os.environ["RANK"]) if is_rank() else 0


def count() -> int:
    """How many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if is_rank() else 1


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if count() > 1:
        from torch import distributed

        distributed.barrier()


def sum_over_all(tensors: list) -> None:
    """Replace each tensor by its sum over the ranks."""
    if count() > 1:
        import torch
        from torch import distributed

        flat = torch.cat([t.reshape(-1) for t in tensors])
        distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))
