"""Predictions that were made of something else than is there now."""

import json

import pytest
from proactor_lib.errors import UserError
from proactor_lib.evaluate import evaluate_run, load_or_score, predictions
from proactor_lib.evaluate.readiness import tuned_threshold, write_tuned
from proactor_lib.evaluate.splits import EvalSplit
from proactor_lib.evaluate.stale import stale
from proactor_lib.files import write_jsonl
from proactor_lib.policies import oracle
from proactor_lib.provenance import fingerprint
from proactor_lib.report.run import build

from support.runs import opened


@pytest.fixture
def run(tmp_path):
    """Evaluated at all turns, its fixed policies on test, the one in focus on dev too."""
    policies = ("silent", "random", "random_tuned", "oracle")
    done = opened(tmp_path / "run", evaluation_turns=0, policies=policies, bootstrap=50)
    evaluate_run(done, dev=True)
    return done


def withdraw(run, split):
    """Correct the first window of the split away, as by hand."""
    case = next(c for c in run.split(split) if c.references)
    line = {"dialogue_id": case.dialogue.id, "split": split, "name": case.references[0].name, "window": None}
    run.overlay.write_text(json.dumps(line) + "\n")


def test_a_corrected_window_makes_what_looks_at_windows_stale_until_it_is_asked_again(run):
    assert stale(run) == stale(run, "dev") == []
    withdraw(run, "test")
    assert set(stale(run)) >= {"random", "oracle"}
    said = build(run.out).read_text()
    assert "said is not of the dialogues, windows or weights that are there now" in said
    evaluate_run(run, dev=True)
    assert stale(run) == stale(run, "dev") == []
    assert load_or_score(run).primary()["policies"]["oracle"][0] == pytest.approx(1)
    assert "that are there now" not in build(run.out).read_text()


def test_a_threshold_tuned_on_windows_that_were_corrected_is_stale(run):
    """What a model said of dev is as good as before: `mine` is no fixed policy."""
    for split in ("dev", "test"):
        write_jsonl(predictions.folder(run, split) / "mine.jsonl", predictions.read(run, "random", split))
    write_tuned(run, "mine")
    withdraw(run, "test")
    assert not {"mine", "mine_tuned"} & {*stale(run), *stale(run, "dev")}
    withdraw(run, "dev")
    assert {"mine", "mine_tuned"} & {*stale(run), *stale(run, "dev")} == {"mine_tuned"}
    write_tuned(run, "mine")
    assert not {"mine", "mine_tuned"} & {*stale(run), *stale(run, "dev")}


def test_what_was_said_on_dev_before_chooses_neither_an_opponent_nor_a_threshold(run):
    assert "oracle" in load_or_score(run).primary()["dev"] and tuned_threshold(run, "oracle") > 0
    withdraw(run, "dev")
    assert load_or_score(run).primary()["dev"] == {}
    with pytest.raises(UserError, match="what 'oracle' said on dev is not of what .* has now: evaluate it again"):
        tuned_threshold(run, "oracle")


def test_a_dialogue_that_came_back_lacks_predictions(run):
    path = predictions.folder(run) / "oracle.jsonl"
    first = run.dialogues("test")[0].id
    write_jsonl(path, [line for line in predictions.read(run, "oracle") if line.dialogue_id != first])
    assert stale(run) == ["oracle"]


def test_other_weights_and_weights_that_are_not_here(tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"one")
    run = opened(tmp_path / "run", adapters={"mine": str(adapter)}, policies=("mine",))
    split = EvalSplit(run)
    on = split.made_from("mine")
    made = on | {"adapter": fingerprint(adapter / "adapter_model.safetensors"), "model": "elsewhere"}
    lines = [p for c in split.cases for p in oracle(c, 0) if p.turn in c.turns]
    predictions.PredictionLog(predictions.folder(run), "mine", made).write(lines)
    assert stale(run) == []
    (adapter / "adapter_model.safetensors").write_bytes(b"another")
    assert stale(run) == ["mine"]
    (adapter / "adapter_model.safetensors").unlink()
    assert stale(run) == []
