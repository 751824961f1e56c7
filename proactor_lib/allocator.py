"""What processes that compute allocate memory with, and how they give it back.

Large pages for all: a training step passes over gigabytes, which as small pages are slow to take and slow to look up.
A trainer on a CPU that a notebook or a run starts has jemalloc, too, of which Ray brings a library: told to keep what
is freed, and to give it back now and then, it takes less of a step than glibc's malloc, which took up to a fifth
(likely since each dialogue's tensors have other sizes). What Linux or glibc alone has is left out elsewhere.
"""

import ctypes
import gc
import importlib.util
import os
from pathlib import Path

LARGE_PAGES = "glibc.malloc.hugetlb=1"  # asks Linux for pages of 2 MB, where it grants them to those who ask (madvise)
# Large pages, one arena, and what is freed is kept: where it went back after 30 s, clearing it took 12% of a training.
KEEPS = "thp:always,metadata_thp:always,oversize_threshold:0,dirty_decay_ms:-1,muzzy_decay_ms:0,narenas:1"
EVERY = 5  # steps after which a trainer gives back what it keeps: else it grew from 3 to 10 GB within 70
_GPU_DRIVER = Path("/proc/driver/nvidia")
_ALL_ARENAS = b"arena.4096.purge"  # jemalloc's MALLCTL_ARENAS_ALL


def environment() -> dict[str, str]:
    """This process's environment, for a child that computes: glibc takes large pages for what it allocates.

    A user's own GLIBC_TUNABLES stays as it is; other C libraries do not know the variable.
    """
    return {"GLIBC_TUNABLES": LARGE_PAGES, **os.environ}


def trainer_environment(device: str) -> dict[str, str]:
    """`environment` for a child that trains on `device` (a run's parameter): with jemalloc, where that is a CPU.

    `auto` is one where no driver of a GPU is seen: torch, which knows, takes seconds to import. A user's own
    LD_PRELOAD, an empty one too, and MALLOC_CONF stay as they are.
    """
    library = _jemalloc()
    if library is None or "LD_PRELOAD" in os.environ or device == "cuda" or (device == "auto" and _GPU_DRIVER.exists()):
        return environment()
    return {"MALLOC_CONF": KEEPS, **environment(), "LD_PRELOAD": str(library)}


def hide_from_children() -> None:
    """Take a trainer's jemalloc out of the environment of what it starts: nothing there would give back what it keeps.

    (Ray loads this library into some processes of its own: they would take its settings from the environment.)
    """
    if "LD_PRELOAD" in os.environ and os.environ["LD_PRELOAD"] == str(_jemalloc()):
        del os.environ["LD_PRELOAD"]
        if os.environ.get("MALLOC_CONF") == KEEPS:
            del os.environ["MALLOC_CONF"]


def after_step(step: int) -> None:
    """To be called after each step of a training: each fifth gives back what jemalloc keeps, where it is there."""
    if step % EVERY == 0:
        _purge()


def release() -> None:
    """Give back to the system what this process has freed: glibc and jemalloc keep it otherwise."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    _purge()


def _purge() -> None:
    if control := getattr(ctypes.CDLL(None), "mallctl", None):
        control(_ALL_ARENAS, None, None, None, ctypes.c_size_t(0))


def _jemalloc() -> Path | None:
    """Ray's library, where it has one that can be preloaded here: of pages of 4 KB, and without a space in its path."""
    ray = importlib.util.find_spec("ray")  # not imported
    if ray is None or not ray.origin:
        return None
    library = Path(ray.origin).parent / "core" / "libjemalloc.so"
    usable = library.exists() and os.sysconf("SC_PAGE_SIZE") == 4096 and not set(" :") & set(str(library))
    return library if usable else None
