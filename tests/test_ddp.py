"""Two processes under `accelerate launch` (gloo) take the step that one process takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

STEP = Path(__file__).parent / "support" / "ddp_step.py"
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


def test_two_processes_take_the_step_of_one(tmp_path):
    env = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    runs = {}
    for name, launch in {"one": [], "two": [*LAUNCH, "--mixed_precision", "no", "--dynamo_backend", "no"]}.items():
        (tmp_path / name).mkdir()
        with open(tmp_path / f"{name}.log", "w") as log:
            command = [sys.executable, *launch, str(STEP), str(tmp_path / name)]
            runs[name] = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    for name, run in runs.items():
        assert run.wait(240) == 0, (tmp_path / f"{name}.log").read_text()[-3000:]
    one, two = (torch.load(tmp_path / name / "step.pt") for name in ("one", "two"))
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert two["statistics"][0]["tokens_packed"] >= one["statistics"][0]["tokens_packed"] > 0
    assert len(one["gradients"]) == 2 * 7 * 2 and one["gradients"].keys() == two["gradients"].keys()
    for name, gradient in one["gradients"].items():
        assert gradient.norm() > 0
        assert (two["gradients"][name] - gradient).norm() <= 1e-4 * gradient.norm(), name
