"""The scripts for a batch system. Stand-ins for srun, scancel, scontrol, ray and proactor write down who called.

What they cannot show was run by hand with Ray itself: LOG.md.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from proactor_lib import processes
from proactor_lib.artf.serving.process import free_port

from support.waiting import wait_until

SCRIPTS = Path(__file__).parents[1] / "params" / "slurm"

# Each call: a line with its arguments and what matters of its environment. ray and proactor stay until told to end.
STAND_IN = """#!{python}
import json, os, signal, subprocess, sys, time
from pathlib import Path
name, arguments, here = Path(sys.argv[0]).name, sys.argv[1:], Path({folder!r})
seen = {{"call": [name, *arguments], "node": os.environ.get("NODE"), "token": os.environ.get("RAY_AUTH_TOKEN")}}
with open(here / "calls.jsonl", "a") as out:
    out.write(json.dumps(seen) + "\\n")
if name == "scontrol":
    print(*os.environ["NODES"].split(), sep="\\n")
elif name == "srun":
    options = [a for a in arguments if a.startswith("--")]
    options = options[: next(i for i, a in enumerate(arguments) if not a.startswith("--"))]
    command = arguments[len(options):]
    nodes = os.environ["NODES"].split()
    for option in options:
        key, _, value = option.partition("=")
        nodes = [n for n in nodes if key not in ("--nodelist", "--exclude") or (n == value) == (key == "--nodelist")]
    children = [subprocess.Popen(command, env=os.environ | {{"NODE": node}}) for node in nodes]
    signal.signal(signal.SIGTERM, lambda *_: [child.terminate() for child in children])
    (here / "step").write_text(str(os.getpid()))
    sys.exit(max(child.wait() for child in children))
elif name == "scancel":
    os.kill(int((here / "step").read_text()), signal.SIGTERM)
elif name == "hostname":
    print("127.0.0.1 10.0.0.9")
else:
    def end(*_):
        with open(here / "calls.jsonl", "a") as out:
            out.write(json.dumps({{"call": [name, "ended"], "node": os.environ.get("NODE")}}) + "\\n")
        sys.exit(143)
    signal.signal(signal.SIGTERM, end)
    if "--head" in arguments and not (here / "ray-ends").exists():
        print("Ray runtime started.", flush=True)
    verdict = here / f"{{name}}-ends"
    while not verdict.exists():
        time.sleep(0.05)
    sys.exit(int(verdict.read_text()))
"""


class Job:
    """A script under the stand-ins, as `sbatch` would start it."""

    def __init__(self, folder, script, *arguments, nodes="n1"):
        self.folder = folder
        tools = folder / ".venv" / "bin"
        tools.mkdir(parents=True)
        for name in ("srun", "scancel", "scontrol", "ray", "proactor", "hostname"):
            (tools / name).write_text(STAND_IN.format(python=sys.executable, folder=str(folder)))
            (tools / name).chmod(0o755)
        slurm = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "n[1-9]", "SLURM_CPUS_ON_NODE": "16", "NODES": nodes,
                 "SLURM_JOB_NUM_NODES": str(len(nodes.split())), "RAY_PORT": str(free_port())}  # fmt: skip
        self.process = subprocess.Popen([SCRIPTS / script, *arguments], cwd=folder, env=os.environ | slurm)

    def calls(self, name):
        """What a stand-in was called with, and where."""
        path = self.folder / "calls.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["call"][0] == name]

    def started(self, name, count):
        wait_until(lambda: len(self.calls(name)) >= count, process=self.process)
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def say(self, name, status):
        """Have the stand-in end with that status."""
        (self.folder / f"{name}-ends").write_text(str(status))


@pytest.mark.parametrize("status", [0, 1])
def test_a_sweep_has_a_head_workers_a_token_and_a_clean_end(tmp_path, status):
    job = Job(tmp_path, "sweep.sh", "sweep.yaml", "outputs/s", nodes="n1 n2 n3")
    family = job.started("proactor", 1)
    wait_until(lambda: len(job.calls("ray")) == 3, process=job.process)
    job.say("proactor", status)
    assert job.process.wait(60) == status
    assert not any(map(processes.alive, family))
    by_node = {call["node"]: call["call"][1:] for call in job.calls("ray") if "ended" not in call["call"]}
    address = job.calls("proactor")[0]["call"][-1]
    head = ["start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={address.partition(':')[2]}"]
    assert by_node["n1"] == [*head, "--num-cpus=16", "--include-dashboard=false"]
    assert by_node["n2"] == by_node["n3"] == ["start", "--block", f"--address={address}", "--num-cpus=16"]
    assert job.calls("proactor")[0]["call"][1:-1] == ["sweep", "run", "sweep.yaml", "--out", "outputs/s", "--address"]
    tokens = {call["token"] for call in job.calls("ray") + job.calls("proactor") if "token" in call}
    assert len(tokens) == 1 and len(tokens.pop()) == 64
    assert sorted(call["node"] for call in job.calls("ray") if "ended" in call["call"]) == ["n1", "n2", "n3"]
    assert job.calls("srun")[-1]["call"][-3:] == ["rm", "-rf", "/tmp/ray-77"]


def test_a_sweep_whose_time_is_up_ends_everything(tmp_path):
    job = Job(tmp_path, "sweep.sh", "sweep.yaml", "outputs/s", nodes="n1 n2")
    family = job.started("proactor", 1)
    wait_until(lambda: len(job.calls("ray")) == 2, process=job.process)
    job.process.send_signal(signal.SIGTERM)
    assert job.process.wait(60) == 143
    assert not any(map(processes.alive, family))
    assert ["proactor", "ended"] in [call["call"] for call in job.calls("proactor")]


def test_a_head_that_does_not_come_up_is_said(tmp_path):
    (tmp_path / "ray-ends").write_text("3")
    job = Job(tmp_path, "sweep.sh", "sweep.yaml", "outputs/s")
    assert job.process.wait(60) == 1 and not job.calls("proactor")


@pytest.mark.parametrize(("send", "status"), [(None, 0), (None, 2), (signal.SIGTERM, 143)])
def test_a_run_is_one_step_that_is_told_when_its_time_is_up(tmp_path, send, status):
    job = Job(tmp_path, "run.sh", "p.yaml", "outputs/r", "--set", "seed=1")
    job.started("proactor", 1)
    if send:
        job.process.send_signal(send)
    else:
        job.say("proactor", status)
    assert job.process.wait(60) == status
    called = job.calls("proactor")
    assert called[0]["call"] == ["proactor", "run", "--params", "p.yaml", "--out", "outputs/r", "--set", "seed=1"]
    assert (len(called) == 2) == bool(send)
    assert [c["call"][1:] for c in job.calls("scancel")] == ([["--signal=TERM", "77.0"]] if send else [])


@pytest.mark.parametrize("script", ["run.sh", "sweep.sh"])
def test_an_argument_that_is_missing_is_said(tmp_path, script):
    done = subprocess.run([SCRIPTS / script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "name a" in done.stderr
