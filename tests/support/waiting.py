"""One way to wait for what a program tells."""

import time
from collections.abc import Callable
from subprocess import Popen


def wait_until(holds: Callable[[], object], seconds: float = 200.0, process: Popen | None = None) -> None:
    """Return when it holds. AssertionError when `process` ends before that, or after `seconds`: a bound, no measure."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert process is None or process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
