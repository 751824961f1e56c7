"""An evaluation's results: computed once, read back by everyone, and computed again where an input changed."""

import io
import json
from collections import Counter

import pandas as pd
import pytest
from proactor_lib import files, provenance, report
from proactor_lib.evaluate import evaluate_run, load_or_score
from proactor_lib.evaluate.predictions import policies, read, read_all
from proactor_lib.files import read_json, write_json, write_jsonl
from proactor_lib.metrics import compare, score_predictions, scores, table
from proactor_lib.params import Params
from proactor_lib.run import Run, annotate_run, prepare_data

SIZES = {"train_dialogues": 1, "dev_dialogues": 1, "test_dialogues": 3, "bootstrap": 50}


@pytest.fixture
def run(tmp_path):
    """A run of three fixed policies, asked at eight turns of each dialogue."""
    names = ("oracle", "silent", "random")
    made = Run.open(Params(policies=names, evaluation_turns=8, **SIZES), tmp_path / "out")
    prepare_data(made, splits=("dev", "test"))
    annotate_run(made, splits=("dev", "test"))
    return made


@pytest.fixture
def scorings(monkeypatch):
    """The calls of `score_predictions`: one item each."""
    calls = []

    def counted(*given, **more):
        calls.append(1)
        return score_predictions(*given, **more)

    monkeypatch.setattr(scores, "score_predictions", counted)
    return calls


def test_an_evaluation_a_notebook_and_two_reports_score_each_policy_once(run, scorings):
    """The main job: evaluate_run and load_or_score in notebook 04, a report there and one when all stages are done."""
    evaluate_run(run)
    shown = load_or_score(Run(run.params, run.out)).as_json()
    for _ in range(2):
        report.build(run.out)
    assert len(scorings) == 3
    assert json.loads(run.summary.read_text())["held_out"] == shown


def test_the_test_split_is_read_once_in_a_process(run, monkeypatch):
    """Policies, results and two reports; one more opening is its digest's."""
    for known in (files._read_lines, provenance._file_digest):  # as in a new process
        known.cache_clear()
    opened = Counter()
    open_file = io.open

    def counted(file, *given, **more):
        opened[str(file)] += 1
        return open_file(file, *given, **more)

    monkeypatch.setattr("builtins.open", counted)
    monkeypatch.setattr(io, "open", counted)
    evaluate_run(run)
    for _ in range(2):
        report.build(run.out)
    assert opened[str(run.data / "test.jsonl")] == 2


def test_what_is_read_back_is_what_was_computed(run):
    evaluate_run(run)
    found, said = load_or_score(run), read_all(run)
    asked = {d.id: tuple(p.turn for p in said["silent"] if p.dialogue_id == d.id) for d in run.dialogues("test")}
    dialogues, references = run.dialogues("test"), run.references("test")
    direct = {n: score_predictions(dialogues, references, p, evaluated_turns=asked) for n, p in said.items()}
    assert found.evaluated_turns == asked and found.predictions == said and found.dialogues == 3
    for name, own in direct.items():
        for frame in ("cells", "references", "about"):
            kept = getattr(found.scores[name], frame)
            pd.testing.assert_frame_equal(kept, getattr(own, frame).reset_index(drop=True))
        assert (found.scores[name].theta, found.scores[name].values) == (own.theta, own.values)
    by_dialogue = {n: s.dialogues for n, s in direct.items()}
    pd.testing.assert_frame_equal(found.table, table(by_dialogue, 50, 0))
    pairs = [("random", "oracle"), ("random", "silent")]
    pd.testing.assert_frame_equal(found.comparisons, compare(by_dialogue, pairs, bootstrap=50))
    assert found.ranked_against == ["oracle", "random"]  # silence has no FTR


def corrected(run):
    """A correction by hand withdraws a reference."""
    line = next(r for r in run.annotated("test") if r.references)
    named = {"dialogue_id": line.dialogue_id, "reference_id": line.references[0].id, "window": None}
    run.overlay.write_text(json.dumps(named) + "\n")


def another_theta(run):
    write_json(run.params_file, run.params.model_copy(update={"theta": 0.5}).model_dump(mode="json"))


def another_prediction(run):
    write_jsonl(run.predictions / "random.jsonl", read(run, "random")[1:])


def another_policy(run):
    write_jsonl(run.predictions / "mine.jsonl", read(run, "random"))


@pytest.mark.parametrize("change", [corrected, another_theta, another_prediction, another_policy])
def test_they_are_computed_again_where_an_input_changed(run, scorings, change):
    evaluate_run(run)
    before = len(scorings)
    change(run)
    load_or_score(Run(read_json(run.params_file, Params), run.out))
    again = 4 if change is another_policy else 3
    assert (before, len(scorings) - before) == (3, again)


def test_results_of_half_a_write_are_not_read(run, scorings):
    """A kill between the tables and the file that says what they were made from."""
    evaluate_run(run)
    (run.metrics / "results.json").unlink()
    assert load_or_score(run) is not None and len(scorings) == 6


def test_policies_come_in_the_order_of_the_parameters_then_the_alphabets(run):
    assert load_or_score(run) is None
    for name in ("zoo", "random", "ape", "oracle"):
        write_jsonl(run.predictions / f"{name}.jsonl", [])
    assert policies(run) == ["oracle", "random", "ape", "zoo"] and policies(run, "dev") == []
