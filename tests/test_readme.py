"""Every command of the README, run as it stands there, on a working copy with small parameter files.

Three commands are not run whole here: `make test` is what runs this test; of `proactor run` only stage 01 is
run, tests/test_whole_run.py runs all four; `uv pip install` says what it would install.
Of `make demo` the commands that its recipe holds are run.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import yaml
from proactor_lib import Run
from proactor_lib.params import Params, load_params

from support.notebooks import write_notebook
from support.readme_map import files, readme_map
from support.reward_cases import BOTH, RIGHT, SILENCE, group, scores
from support.shared import SHARED, needs_shared

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
SHIMS = """
set -euo pipefail
make() {{ command make -n -s -C {root} "$@" > recipe.txt; python {extract} recipe.txt > recipe.sh; source recipe.sh; }}
uv() {{ if [ "$1" = pip ]; then command uv "$@" --dry-run; else command uv "$@"; fi; }}
ray() {{ command ray "$@" $(python {ray_options} "$@"); }}
proactor() {{ if [ "$1" = run ]; then command proactor "$@" --stage 01; else command proactor "$@"; fi; }}
"""
EXTRACT = r"""
import re, sys
recipe = open(sys.argv[1]).read().replace("\\\n", " ")
commands = [line.strip() for line in recipe.splitlines() if re.match(r"\.venv/bin/(proactor|python -m pytest)", line)]
assert commands, "the recipe runs nothing of ours"
ours = ["true" if c.startswith(".venv/bin/python -m pytest") else c.removeprefix(".venv/bin/") for c in commands]
print("\n".join(ours))
"""

# Ray gives a node's helpers 15 s to choose their ports, which a busy machine may not keep.
RAY_OPTIONS = """
import sys
from proactor_lib.artf.serving.process import free_port
ports = ("metrics-export", "dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent")
dashboard = ["--include-dashboard=false"] if "--head" in sys.argv else []
print("--num-cpus=1", *dashboard, *(f"--{name}-port={free_port()}" for name in ports))
"""
SWEPT = """import json, os
os.mkdir(os.path.join(out, "rewards"))
names = "punctual", "restraint", "triggering", "patience"
margins = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in names}
with open(os.path.join(out, "rewards", "summary.json"), "w") as f:
    json.dump({"margin": margins, "tau": 0.9}, f)"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The clone as a reader stands in it, with small parameter files and `../shared` beside it."""
    here = tmp_path_factory.mktemp("readme") / "clone"
    (here / "outputs").mkdir(parents=True)
    (here.parent / "shared").symlink_to(SHARED)
    for name in ("notebooks", "requirements", "proactor_lib", "pyproject.toml", "README.md"):
        (here / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "params", here / "params")
    small = "extends: smoke.yaml\nname: cpu-demo\n"
    (here / "params" / "cpu-demo.yaml").write_text(small)
    sweep = here / "params" / "sweeps" / "smoke.yaml"
    values = yaml.safe_load(sweep.read_text())
    values["axes"] = {"grid": {"reward": ["rac", "weighted_metric"]}}
    values["notebook"] = "small.ipynb"  # test_reward_lab.py runs notebook 02
    write_notebook(sweep.with_name("small.ipynb"), SWEPT, parameters="params_file = None\nout = None\noverrides = {}")
    sweep.write_text(yaml.safe_dump(values, sort_keys=False))
    (here / "extract.py").write_text(EXTRACT)
    (here / "ray_options.py").write_text(RAY_OPTIONS)
    load_params(here / "params" / "cpu-demo.yaml")
    return here


def run_block(copy, block):
    """Run a block of the README as one script; what it leaves running (Ray) is ended afterwards."""
    script = SHIMS.format(root=ROOT, extract=copy / "extract.py", ray_options=copy / "ray_options.py") + block
    mark = f"{os.getpid()}-{len(block)}"
    venv = str(Path(sys.executable).parent)
    env = os.environ | {"PATH": f"{venv}:{os.environ['PATH']}", "FIRST": "127.0.0.1", "README_BLOCK": mark}
    short = tempfile.mkdtemp(prefix="ray-")  # a socket's path has at most 107 characters
    env |= {"RAY_TMPDIR": short, "RAY_USAGE_STATS_ENABLED": "0"}
    try:
        return subprocess.run(["bash", "-c", script], cwd=copy, env=env, capture_output=True, text=True, timeout=500)
    finally:
        for process in psutil.process_iter():
            if _marked(process, mark):
                process.send_signal(signal.SIGKILL)
        shutil.rmtree(short, ignore_errors=True)


def _marked(process, mark):
    try:
        return process.environ().get("README_BLOCK") == mark
    except psutil.Error:
        return False


def _block(number):
    name = BLOCKS[number].split("\n")[0][:40].strip()
    return pytest.param(number, id=name, marks=needs_shared if "../shared" in BLOCKS[number] else ())


@pytest.mark.parametrize("number", [_block(number) for number in range(len(BLOCKS))])
def test_a_block_runs_as_it_stands(copy, number):
    done = run_block(copy, BLOCKS[number])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def test_nothing_that_looks_like_a_command_stands_outside_the_blocks():
    """The map's lines are files' docstrings: what they name is tested beside those files."""
    outside = re.sub(r"```.*?```|<!-- map:.*<!-- end of map -->", "", README, flags=re.S)
    inline = re.findall(r"`((?:make|proactor) [^`]*)`", outside)
    blocks = "\n".join(BLOCKS)
    # tests/test_environments.py; test_gpu_check.py; test_assess.py; test_catalog.py; test_bench_*.py; test_cluster.py;
    # test_service.py; test_export.py; test_study.py.
    known = {
        "make env",
        "make env EXTRA=gpu",
        "make env EXTRA=light",
        "make gpu-check",
        "proactor assess chats.jsonl --from chat --out outputs/first",
        "proactor catalog import",
        "proactor bench",
        "proactor study",
        "proactor bench intervals",
        "proactor cluster up",
        "proactor serve outputs/demo",
        "proactor export outputs/demo --form gguf --out outputs/agent",
    }
    for command in inline:
        assert command in known or " ".join(command.split()[:2]) in blocks, command


def test_the_example_of_a_reward_is_one():
    """At a turn with an open reference: the right trigger; the same beside a false one (PT 1/2, FTR 1/2); silence."""
    [source] = (text for text in PYTHON if "class Triggered" in text)
    names = {}
    exec(source, names)
    [found] = scores(names["Triggered"](Params()), group(RIGHT, BOTH, SILENCE))
    assert [s.value for s in found] == [1.0, 0.25, 0.0]


def test_the_job_in_python_calls_verbs_that_there_are():
    """tests/test_public.py runs them."""
    [source] = (text for text in PYTHON if "run.prepare()" in text)
    verbs = re.findall(r"run\.(\w+)\(\)", source)
    assert verbs == ["prepare", "annotate", "train", "evaluate", "report"] and all(hasattr(Run, v) for v in verbs)


def test_files_that_it_links_to_are_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    picture = ROOT / ".github" / "report.png"
    assert 10_000 < picture.stat().st_size < 300_000


def test_the_map_names_every_file():
    """`python tests/support/readme_map.py` writes it."""
    named = {Path(n).name for n in re.findall(r"^\| `([^`]+)` \| .+ \|$", README, re.M)}
    assert {p.name.removesuffix(".py") for p in files()} <= named
    titles = re.findall(r"<summary>.*</summary>", readme_map())
    assert [t for t in titles if t.split("</code>")[0] not in README] == []
