"""Several training processes: the same steps as one takes, ended together, resumed with another number of them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch
from proactor_lib import allocator, processes
from proactor_lib.artf.training import ranks, train
from proactor_lib.errors import ProcessError, UserError
from proactor_lib.params import Params
from proactor_lib.run import Run

from support.fake_vllm import Completions
from support.records import metrics
from support.runs import opened
from support.trainer_process import trainer
from support.waiting import wait_until

SCRIPTS = Path(__file__).parent / "support"


def run_ranks(count, script, folder, *arguments):
    """`python script folder arguments` as so many ranks, from a process of its own (a launcher ends its children)."""
    command = [sys.executable, str(SCRIPTS / script), str(folder), *map(str, arguments)]
    launch = f"ranks.launch({count}, {command!r}, Path({str(folder)!r}), allocator.trainer_environment('cpu'))"
    launcher = [
        sys.executable,
        "-c",
        f"from pathlib import Path\nfrom proactor_lib import allocator\n"
        f"from proactor_lib.artf.training import ranks\n{launch}",
    ]
    with open(folder / "launcher.log", "w") as log:
        return subprocess.Popen(launcher if count > 1 else command, stdout=log, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run on two ranks: recorded steps, warm start and GRPO, until rank 1 is killed with SIGKILL in a step."""
    run = opened(
        tmp_path_factory.mktemp("ranks"),
        sft_steps=2,
        sft_dialogues_per_step=2,
        max_steps=4,
        policy_sync="adapter",
        trainers=2,
    )
    (run.out / "recorded").mkdir()
    run.training.mkdir()
    with Completions() as server:
        second = threading.Event()
        server.on = lambda path, body: second.set() if path == "/v1/load_lora_adapter" and "-v2" in str(body) else None
        launcher = run_ranks(2, "ranks_job.py", run.out, server.port)
        wait_until(second.is_set, process=launcher)
        family = psutil.Process(launcher.pid).children(recursive=True)
        [rank_1] = [p for p in family if p.environ().get("RANK") == "1"]
        assert rank_1.environ().items() >= allocator.trainer_environment("cpu").items() - os.environ.items()
        rank_1.kill()
        assert launcher.wait(60) == 1
        assert not any(map(processes.alive, family))
        yield run, server.port


def test_two_ranks_take_the_steps_of_one(killed, tmp_path):
    """Ten steps of recorded rollouts: the losses, and the first step's gradients."""
    from support import ddp_step

    ddp_step.main(tmp_path)
    one, two = (torch.load(folder / "steps.pt") for folder in (tmp_path, killed[0].out / "recorded"))
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert len(one["loss"]) == 10 and len(set(one["loss"])) == 10
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert two["statistics"][0]["tokens_packed"] >= one["statistics"][0]["tokens_packed"] > 0
    assert len(one["gradients"]) == 2 * 7 * 2 and one["gradients"].keys() == two["gradients"].keys()
    for name, gradient in one["gradients"].items():
        assert gradient.norm() > 0
        assert (two["gradients"][name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_a_killed_rank_ends_all_with_a_sentence_and_one_rank_goes_on(killed, tmp_path):
    run, port = killed
    said = (run.out / "launcher.log").read_text()
    assert "training process 1 of 2 was killed by SIGKILL, so all were ended; the next start goes on" in said
    assert not (run.training / "adapter").exists()
    assert trainer(run.out, port) == 0
    lines = metrics(run.out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["ranks"] for line in lines] in ([2, 1, 1, 1], [2, 2, 1, 1])
    assert (run.training / "adapter" / "adapter_config.json").exists()
    two = [json.loads(line)["loss"] for line in (run.training / "sft.jsonl").read_text().splitlines()]
    assert two == pytest.approx(warm_start_losses(run, tmp_path / "alone"), rel=1e-3) and len(two) == 2


def warm_start_losses(run, folder):
    """Those of the run's warm start in one process."""
    job = train.Job(Run.open(run.params, folder))
    shutil.copytree(run.out / "data", folder / "data")
    shutil.copytree(run.out / "references", folder / "references")
    train.warm_start(job)
    return [json.loads(line)["loss"] for line in (job.folder / "sft.jsonl").read_text().splitlines()]


def quick(tmp_path, code):
    """Two ranks that run `code`; what the launcher raises."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks.processes, "adopt_orphans", lambda: None)
        patch.setattr(ranks.processes, "end", end_ranks)
        ranks.launch(2, [sys.executable, "-c", f"import os, sys, time; rank = os.environ['RANK']\n{code}"], tmp_path)


def end_ranks(itself, grace):
    """End this test's ranks and nothing else that the test session started."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie has no environment
            if child.environ().get("RANK"):
                child.kill()
                child.wait()


def test_a_rank_that_refuses_ends_all_with_its_sentence(tmp_path):
    refuses = "sys.exit(2) if rank == '0' else time.sleep(10_000)"
    with pytest.raises(SystemExit) as end:
        quick(tmp_path, refuses)
    assert end.value.code == 2  # rank 0 has said why on this process's output
    sentence = "if rank == '1': print('proactor: no such thing'); sys.exit(2)\ntime.sleep(10_000)"
    with pytest.raises(UserError, match="^no such thing$"):
        quick(tmp_path, sentence)


def test_a_rank_that_breaks_is_told_with_its_last_words(tmp_path):
    breaks = "if rank == '1': raise ValueError('lost')\ntime.sleep(10_000)"
    with pytest.raises(
        ProcessError, match="process 1 of 2 ended with status 1, so all .*rank-1.log: ValueError: lost$"
    ):
        quick(tmp_path, breaks)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_whatever_ends_the_launcher_leaves_nothing(tmp_path, number):
    """Ctrl-C, `stop`, and a kill that it cannot see."""
    (tmp_path / "sleep.py").write_text("import time\nprint('awake', flush=True)\ntime.sleep(10_000)")
    launcher = run_ranks(2, tmp_path / "sleep.py", tmp_path)
    logs = (tmp_path / "launcher.log", ranks.log_path(tmp_path, 1))
    wait_until(lambda: all(log.exists() and "awake" in log.read_text() for log in logs), process=launcher)
    family = psutil.Process(launcher.pid).children(recursive=True)
    assert len(family) == 2
    launcher.send_signal(number)
    launcher.wait(60)
    assert psutil.wait_procs(family, timeout=60)[1] == []


def test_ranks_that_end_well_are_no_error(tmp_path):
    quick(tmp_path, "print(rank)")
    assert ranks.log_path(tmp_path, 1).read_text() == "1\n"


def test_a_launcher_of_somebody_else_is_forgotten(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (ranks.number(), ranks.count()) == (0, 1)
    ranks.forget()
    assert "RANK" not in os.environ and "WORLD_SIZE" not in os.environ


def test_trainers_may_change_in_a_run_that_has_begun(tmp_path):
    run = Run.open(Params(trainers=2), tmp_path)
    again = Run.open(run.params.model_copy(update={"trainers": 1}), tmp_path)
    assert json.loads(again.params_file.read_text())["trainers"] == 1
    with pytest.raises(UserError, match="other parameters \\(seed was 0, now 1\\)"):
        Run.open(Params(seed=1), tmp_path)
