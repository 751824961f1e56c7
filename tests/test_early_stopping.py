"""When SFT ends early, and which weights it keeps."""

from dataclasses import replace

import pytest
import torch
from proactor_lib import agent
from proactor_lib.artf.training.early_stopping import EarlyStopping
from proactor_lib.artf.training.job import Job
from proactor_lib.artf.training.tokens import reference_tokens

from support.late import Late
from support.runs import opened

sft = Late("proactor_lib.artf.training.sft")


def followed(losses, every, patience):
    """The weight kept, and the step at which training ended, with the weight at each step its number."""
    weight, coming = torch.nn.Parameter(torch.zeros(1)), iter(losses)
    stopping = EarlyStopping(lambda: next(coming), [weight], every, patience, last=every * len(losses))
    for step in range(1, 100):
        weight.data.fill_(step)
        stopping.look(step)
        if stopping.over or step == every * len(losses):
            break
    stopping.restore()
    return weight.item(), step


def test_the_weights_of_the_lowest_loss_are_kept():
    assert followed([3.0, 1.0, 2.0], every=5, patience=3) == (10, 15)
    assert followed([3.0, 2.0, 1.0], every=5, patience=1) == (15, 15)


def test_training_ends_when_patience_does():
    assert followed([3.0, 1.0, 1.0, 2.0, 0.5], every=2, patience=2) == (4, 8)
    assert followed([3.0, 4.0, 1.0, 2.0, 2.0, 0.5], every=1, patience=2) == (3, 5)


def test_a_look_is_due_every_so_many_steps():
    """And after the last, which need not be a multiple of `every`."""
    stopping = EarlyStopping(lambda: 1.0, [], every=3, patience=9, last=8)
    assert [stopping.look(step) for step in range(1, 9)] == [None, None, 1.0, None, None, 1.0, None, 1.0]


def test_a_dialogue_of_dev_with_the_id_of_one_of_train_has_tokens_of_its_own(tmp_path):
    run = opened(tmp_path / "run")
    job = Job(run)
    train = job.visits(None)[0]
    shorter = replace(train, dialogue=train.dialogue.model_copy(update={"turns": train.dialogue.turns[:3]}))
    assert [len(job.dialogue_tokens(visit).ends) for visit in (shorter, train)] == [3, len(train.dialogue.turns)]
    assert job.dialogue_tokens(train) is job.dialogue_tokens(train)


def test_right_outputs_that_are_longer_than_one_may_be_are_counted(tmp_path):
    job = Job(opened(tmp_path / "run"))
    lengths = [
        len(reference_tokens(job.tokenizer, case.references, turn))
        for case in job.run.split("train") for turn in range(1, len(case.dialogue.turns) + 1)
        if agent.reference_output(case.references, turn)
    ]  # fmt: skip

    def cut(limit):
        params = job.params.model_copy(update={"max_completion_tokens": limit})
        return Job(replace(job.run, params=params)).cut_references()

    assert cut(max(lengths)) == (0.0, max(lengths))
    assert cut(max(lengths) - 1)[0] == pytest.approx(lengths.count(max(lengths)) / len(lengths))


def test_the_rate_rises_over_a_tenth_of_the_steps_and_is_never_0():
    assert [sft.rate(n, 1) for n in range(1)] == [0.5]
    assert [sft.rate(n, 20) for n in (0, 1, 2, 11, 19)] == pytest.approx([1 / 3, 2 / 3, 1, 10 / 19, 2 / 19])
