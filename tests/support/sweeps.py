"""Sweep files over a small notebook."""

import random

import yaml

from support.notebooks import write_notebook

CELL = "params_file = None\nout = None\noverrides = {}\nscale = 1.0\nlabel = 'a'\nflag = False"


def write_sweep(folder, **values):
    """A sweep file over a notebook that does nothing."""
    if not (folder / "n.ipynb").exists():
        write_notebook(folder / "n.ipynb", "1", parameters=CELL)
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "notebook": "n.ipynb", **values}, sort_keys=False))
    return path


SCORES = "params_file = None\nout = None\noverrides = {}\nseed = 0\nmode = 'good'\nhold = ''"
# What a cell does in a real kernel, and in `score_cell` without one: draws by its seed, or behaves as badly as it says.
SCORE = """import json, os, random, resource, signal, time
from pathlib import Path
from proactor_lib import progress
if mode == 'dies': os.kill(os.getpid(), signal.SIGKILL)
if mode == 'unwritable': resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (3000, 3000))
progress.report(out, 'draws', 1, 2)
while hold and seed and not os.path.exists(hold): time.sleep(0.05)
dice = random.Random(seed)
Path(out, 'summary.json').write_text(json.dumps({'score': [dice.random(), 0, 1], 'draws': [dice.random(), 0, 1]}))"""
FAILURES = {
    "raises": ("failed", "cell 3 raised ZeroDivisionError: division by zero"),
    "mistaken": ("refused", "catalog.json: no action fly"),
    "slow": ("timeout", "ran out of its 8 s"),
    "flaky": ("failed", "the network was away"),
}


def draws(seed):
    """The two numbers that a cell of that seed draws."""
    dice = random.Random(seed)
    return dice.random(), dice.random()


def score_cell(source, target, given, timeout=None):
    """In the place of notebook.execute: writes the files that SCORE would write, without a kernel."""
    import errno
    import json
    import os
    import time
    from pathlib import Path

    from proactor_lib import notebook, progress

    values = {**notebook.parameters(source), **given}
    out, mode = Path(values["out"]), values["mode"]
    node = json.loads(source.read_text())
    if mode == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if mode == "lost":
        os._exit(1)  # its worker, as one that the system kills for memory
    if mode == "breaks":
        raise RuntimeError("no such thing")
    state, problem = FAILURES.get(mode, ("done", None))
    again = out.with_name(f"{out.name}-again")
    if mode == "flaky" and again.exists():
        state, problem = "done", None
    again.touch() if mode == "flaky" else None
    if state != "done":
        error = {"output_type": "error", "ename": "Error", "evalue": problem, "traceback": [problem]}
        node["cells"][-1]["outputs"].append(error)
    target.with_name(f".{target.stem}.running.ipynb").unlink(missing_ok=True)  # of an execution that was killed
    target.write_text(json.dumps(node))
    if state == "done":
        progress.report(out, "draws", 1, 2)
        (out / "worker").write_text(str(os.getpid()))
        while values["hold"] and values["seed"] and not Path(values["hold"]).exists():
            time.sleep(0.05)
        score, other = draws(values["seed"])
        (out / "summary.json").write_text(json.dumps({"score": [score, 0, 1], "draws": [other, 0, 1]}))
    return notebook.Outcome(state, 1.0, 0.1, problem)


def score_some_in_kernels(source, target, given, timeout=None):
    """`score_cell`, but what no function can do as a kernel does runs in a real one."""
    from proactor_lib import notebook

    real = given.get("mode") in ("good", "dies", "unwritable")
    return (notebook.execute if real else score_cell)(source, target, given, timeout=timeout)
