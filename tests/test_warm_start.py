"""SFT that is ended before its end: the next start goes on as if nothing had been."""

import json

import pytest
from proactor_lib.artf.training.job import Job
from safetensors.numpy import load_file

from support.late import Late
from support.runs import opened

warm_start = Late("proactor_lib.artf.training.warm_start")
SETTINGS = {"sft_steps": 7, "sft_check": 3, "sft_patience": 2, "save_steps": 2, "lora_dropout": 0.2}


def lines(out):
    """What its lines say, but for how long it took."""
    text = (out / "training" / "sft.jsonl").read_text()
    return [{k: v for k, v in json.loads(line).items() if "seconds" not in k} for line in text.splitlines()]


def weights(out):
    return load_file(out / "training" / "sft" / "adapter_model.safetensors")


def test_it_goes_on_from_where_it_was_last_saved(tmp_path, monkeypatch):
    """It is ended before the first state, after a look at dev, and between the last state and the adapter."""
    undisturbed, ended = tmp_path / "undisturbed", tmp_path / "ended"
    warm_start.warm_start(Job(opened(undisturbed, **SETTINGS)))
    job, taken, ends = Job(opened(ended, **SETTINGS)), [], [1, 5, 7]

    def report(out, stage, step, *_):
        taken.extend([step] if step else [])
        if step in ends:
            ends.remove(step)
            raise KeyboardInterrupt

    monkeypatch.setattr(warm_start.progress, "report", report)
    while ends:
        with pytest.raises(KeyboardInterrupt):
            warm_start.warm_start(job)
        assert not job.sft_adapter.exists()
    warm_start.warm_start(job)
    assert taken == [1, *range(1, 6), *range(5, 8), 7]  # states after 2, 4 and 6
    assert lines(ended) == lines(undisturbed) and len(lines(ended)) == 7
    ours, theirs = weights(ended), weights(undisturbed)
    assert ours.keys() == theirs.keys() and all((ours[k] == theirs[k]).all() for k in ours)
    assert not list(job.folder.glob("*.pt"))
