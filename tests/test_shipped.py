"""What the repo ships: params files, notebooks, and a package that is light to import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from proactor_lib import notebook
from proactor_lib.params import load_params
from proactor_lib.reward_lab import scoring
from proactor_lib.rewards import REWARDS, make_reward
from proactor_lib.rewards.rubric_judge import STAND_IN

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HEAVY = ("torch", "transformers", "trl", "peft", "bitsandbytes", "vllm", "ray")


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda p: p.name)
def test_params_files_load(path):
    params = load_params(path)
    assert params.name == path.stem
    assert params.question


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda p: p.name)
def test_the_reward_lab_can_make_each_reward(path, tmp_path):
    """Notebook 02 is a stage of each run: a judge that only the training serves is not up there."""
    chosen = scoring.for_lab(load_params(path), tmp_path)
    assert {make_reward(p).name for p in scoring.variants(chosen).values()} == set(REWARDS)
    assert scoring.judge_name(chosen) == STAND_IN


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_are_stripped_and_explain_themselves(path):
    cells = json.loads(path.read_text())["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert [c for c in code if c["outputs"] or c["execution_count"] is not None] == []
    assert cells[0]["cell_type"] == "markdown"
    assert len(cells) - len(code) >= len(code) / 3, "too few words for so much code"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_take_the_parameters_that_the_runner_gives(path):
    """And by hand they start from a params file that is there."""
    parameters = notebook.parameters(path)
    assert {"params_file", "out", "overrides"} <= set(parameters)
    load_params((path.parent / parameters["params_file"]).resolve(), parameters["overrides"])


def light_modules():
    """Modules that a notebook or a command imports before it knows what it will do."""
    rooms = [f"proactor_lib.cli.{p.stem}" for p in (ROOT / "proactor_lib" / "cli").glob("[a-z]*.py")]
    top = [f"proactor_lib.{p.stem}" for p in (ROOT / "proactor_lib").glob("[a-z]*.py")]
    return ["proactor_lib", *sorted(top), *sorted(rooms)]


def loaded_by(code):
    """Which heavy packages a fresh interpreter holds after `code`."""
    ask = f"import sys; print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{ask}"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("\n".join(f"import {m}" for m in light_modules())) == "[]"


def test_the_command_line_loads_nothing_heavy():
    help_only = "sys.argv = ['proactor', '--help']\ntry: main()\nexcept SystemExit: pass"
    assert loaded_by(f"import sys\nfrom proactor_lib.cli import main\n{help_only}") == "[]"


def test_heavy_packages_would_be_noticed():
    assert "torch" in loaded_by("import torch")
