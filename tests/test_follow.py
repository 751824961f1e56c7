"""Training followed from a notebook: the real process, started, found again, stopped, and failing."""

import os
import shutil

import pytest
from proactor_lib import allocator, models
from proactor_lib.artf.training import background, inputs
from proactor_lib.artf.training.job import Job
from proactor_lib.artf.training.train import serve_and_reinforce, train
from proactor_lib.artf.training.warm_start import copy_start_adapter
from proactor_lib.errors import UserError
from proactor_lib.evaluate.policy_server import PolicyServer
from proactor_lib.params import load_params
from proactor_lib.processes import alone_in
from proactor_lib.run import Run

from support.runs import SMOKE, opened
from support.waiting import wait_until


def test_a_second_notebook_finds_the_process_and_it_can_be_stopped(tmp_path):
    run = opened(tmp_path)
    run.training.mkdir()
    background.log_path(run).write_text("what ended an earlier try\n")
    background.start(run)
    first = background.process(run)
    again = Run(run.params, run.out)
    background.start(again)
    assert first.environ().items() >= allocator.trainer_environment(run.params.device).items()
    assert background.process(again) == first and first.is_running() and not background.finished(run)
    moment = next(background.follow(again, every=0.1))
    assert len(moment.steps) == 0 and moment.doing == "training starts"
    background.stop(again)
    assert background.process(run) is None
    assert background.log_path(run).read_text().startswith("what ended an earlier try\n")


def test_a_users_mistake_in_training_is_its_own_sentence(tmp_path):
    run = Run.open(load_params(SMOKE, {"model": "/no/such/model"}), tmp_path)
    with pytest.raises(UserError, match="^model '/no/such/model': no config.json there; accepted: "):
        list(background.follow(run, every=0.1))


def test_a_folder_is_trained_by_one_process_at_a_time(tmp_path, cli):
    run = opened(tmp_path)
    with alone_in(run.training):
        done = cli("train", "--out", run.out)
    assert done.returncode == 2 and f"training is being run by process {os.getpid()}: wait for it" in done.stderr


def test_what_killed_training_is_told_with_its_last_words(tmp_path):
    run = opened(tmp_path)
    moments = background.follow(run, every=0.1)
    next(moments)
    background.process(run).kill()
    wait_until(lambda: background.process(run) is None)
    with pytest.raises(background.TrainingFailed, match="training ended before its adapter was written: .*train.log"):
        list(moments)


def test_a_finished_training_is_not_started_again(tmp_path):
    run = opened(tmp_path)
    (run.training / "adapter").mkdir(parents=True)
    (run.training / "metrics.jsonl").write_text('{"step": 1, "reward_mean": 0.5}\n')
    (moment,) = background.follow(run)
    assert list(moment.steps.reward_mean) == [0.5] and background.process(run) is None


def test_a_training_from_other_data_neither_goes_on_nor_counts_as_done(tmp_path, monkeypatch):
    """It is killed as it begins, with a state of its SFT, then done; corrections by hand are another matter."""
    run = opened(tmp_path, sft_check=3)

    def killed(job):
        (job.folder / "sft.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("proactor_lib.artf.training.train.copy_start_adapter", killed)
    for _ in range(2):  # from the same data it goes on
        with pytest.raises(KeyboardInterrupt):
            train(run)
    windows, data = run.annotations / "dev.jsonl", run.data / "train.jsonl"
    before = {path: path.read_bytes() for path in (windows, data)}
    for path in before:
        path.write_bytes(before[path].partition(b"\n")[0])
    says = "before a change of data/train.jsonl, references/dev.jsonl: choose another --out, or delete .*training to"
    for begin in (background.start, train):
        with pytest.raises(UserError, match=says):
            begin(run)
    for path in before:
        path.write_bytes(before[path])
    (run.training / "adapter").mkdir()
    run.overlay.write_text("{}")
    train(run)
    (run.training / "made.json").unlink()  # as of a run from before there was one
    data.write_bytes(b"")
    assert inputs.changed(run) == [] and background.start(run) is None


def made_adapter(folder, rank, alpha=16):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(f'{{"r": {rank}, "lora_alpha": {alpha}}}')
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    folder.with_suffix(".jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    return folder


def test_training_may_start_from_another_runs_warm_start(tmp_path):
    given = made_adapter(tmp_path / "other" / "sft", load_params(SMOKE).lora_rank)
    job = Job(Run.open(load_params(SMOKE, {"start_from": given}), tmp_path / "run"))
    copy_start_adapter(job)
    assert (job.sft_adapter / "adapter_model.safetensors").read_bytes() == b"weights"
    assert "2.0" in job.sft_adapter.with_suffix(".jsonl").read_text()
    shutil.rmtree(given)
    copy_start_adapter(job)  # what was taken stays


def test_a_server_has_room_for_the_largest_adapter_that_is_named(tmp_path):
    """vLLM allows a few ranks only; a run of rank 4 may be compared with an adapter of rank 12."""
    given = made_adapter(tmp_path / "other" / "sft", 12)
    p = load_params(SMOKE, {"lora_rank": 4, "adapters": {"other": given, "gone": tmp_path / "gone"}})
    assert PolicyServer(Run.open(p, tmp_path / "run"), tmp_path / "log")._largest_rank() == 12
    assert [models.served_rank(rank) for rank in (1, 4, 8, 12, 257, 512)] == [1, 8, 8, 16, 320, 512]
    with pytest.raises(UserError, match="lora_rank"):
        load_params(SMOKE, {"lora_rank": 513})


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (None, "holds no adapter_config.json"),
        ((4, 16), "has lora_rank 4, this run has 8"),
        ((8, 32), "has lora_alpha 32, this run has 16"),
    ],
)
def test_an_adapter_that_training_cannot_start_from_is_named(tmp_path, made, says):
    given = made_adapter(tmp_path / "sft", *made) if made else tmp_path / "sft"
    with pytest.raises(UserError, match=f"start_from: .*sft.*{says}"):
        copy_start_adapter(Job(Run.open(load_params(SMOKE, {"start_from": given}), tmp_path / "run")))


def test_sft_for_the_same_time_wants_to_know_the_time_before_grpo_takes_hours(tmp_path):
    given = made_adapter(tmp_path / "adapter", 8)
    given.with_suffix(".jsonl").unlink()
    asked = {"start_from": given, "sft_equal_time": True}
    with pytest.raises(UserError, match="sft_equal_time: how long the SFT of start_from took"):
        copy_start_adapter(Job(Run.open(load_params(SMOKE, asked), tmp_path / "run")))


def test_a_run_that_trains_nothing_says_so(tmp_path):
    run = Run.open(load_params(SMOKE, {"sft_steps": 0, "max_steps": 0}), tmp_path)
    with pytest.raises(UserError, match="^nothing to train: "):
        serve_and_reinforce(Job(run), while_served=lambda server: None)
