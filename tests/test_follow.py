"""Training followed from a notebook: the real process, started, found again, stopped, and failing."""

import time

import pytest
from proactor_lib.artf import follow
from proactor_lib.errors import BadInput
from proactor_lib.params import load_params
from proactor_lib.run import Run

from test_evaluate import SMOKE, opened


def test_a_second_notebook_finds_the_process_and_it_can_be_stopped(tmp_path):
    run = opened(tmp_path)
    follow.start(run)
    first = follow.process(run)
    again = Run(run.params, run.out)
    follow.start(again)
    assert follow.process(again) == first and first.is_running() and not follow.finished(run)
    moment = next(follow.follow(again, every=0.1))
    assert len(moment.steps) == 0 and moment.doing == "training starts"
    follow.stop(again)
    assert follow.process(run) is None


def test_a_users_mistake_in_training_is_its_own_sentence(tmp_path):
    run = Run.open(load_params(SMOKE, {"model": "/no/such/model"}), tmp_path)
    with pytest.raises(BadInput, match="^model '/no/such/model': no config.json there; accepted: "):
        list(follow.follow(run, every=0.1))


def test_what_killed_training_is_told_with_its_last_words(tmp_path):
    run = opened(tmp_path)
    moments = follow.follow(run, every=0.1)
    next(moments)
    follow.process(run).kill()
    time.sleep(0.2)
    with pytest.raises(follow.TrainingFailed, match="training ended before its adapter was written: .*train.log"):
        list(moments)


def test_a_finished_training_is_not_started_again(tmp_path):
    run = opened(tmp_path)
    (run.training / "adapter").mkdir(parents=True)
    (run.training / "metrics.jsonl").write_text('{"step": 1, "reward_mean": 0.5}\n')
    (moment,) = follow.follow(run)
    assert list(moment.steps.reward_mean) == [0.5] and follow.process(run) is None
