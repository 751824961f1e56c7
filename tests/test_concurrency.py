"""Asynchronous work: inside a running loop, and ended by signals."""

import _thread
import asyncio
import signal
import subprocess
import sys
import threading

import pytest
from proactor_lib.concurrency import run_async


def test_a_loop_of_its_own_works_inside_a_running_one():
    async def work():
        return 7

    async def cell():
        return run_async(work())

    assert run_async(work()) == asyncio.run(cell()) == 7


def test_a_signal_before_the_work_has_begun_leaves_it_undone(monkeypatch):
    began, run, told = [], asyncio.run, []

    class Told(threading.Event):
        def __init__(self):
            super().__init__()
            told.append(self)

    def late(main):
        _thread.interrupt_main()
        assert told[0].wait(60)
        return run(main)

    async def work():
        began.append(True)

    monkeypatch.setattr(asyncio, "run", late)
    monkeypatch.setattr(threading, "Event", Told)
    with pytest.raises(KeyboardInterrupt):
        run_async(work())
    assert not began


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_asynchronous_work_with_its_clean_up(sent):
    """As `proactor train` takes a SIGTERM while it asks a policy: it had waited for the last answer."""
    script = """if True:
        import asyncio, signal, sys
        from proactor_lib.concurrency import run_async
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        async def work():
            try:
                print("begun", flush=True)
                await asyncio.sleep(3600)
            finally:
                print("cleaned up", flush=True)
        run_async(work())
    """
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"begun\n"
        child.send_signal(sent)
        assert child.communicate(timeout=60)[0] == b"cleaned up\n"
    assert child.returncode == (143 if sent == signal.SIGTERM else -signal.SIGINT)
