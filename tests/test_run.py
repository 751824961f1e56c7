"""A run's folder, and the overlay of corrections that it honours."""

import json

import pytest
from proactor_lib.errors import BadInput
from proactor_lib.files import write_jsonl
from proactor_lib.params import load_params
from proactor_lib.run import SPLITS, Run, annotate_run, prepare_data
from proactor_lib.schema import DialogueReferences, ReferenceAction, Window


def test_open_again_with_the_same_parameters(tmp_path):
    first = Run.open(load_params(overrides={"seed": 3}), tmp_path / "r")
    again = Run.open(load_params(overrides={"seed": 3}), tmp_path / "r")
    assert first == again and load_params(first.params_file).seed == 3


def test_other_parameters_are_refused_by_name(tmp_path):
    Run.open(load_params(), tmp_path)
    with pytest.raises(
        BadInput, match=r"seed was 0, now 1; learning_rate|learning_rate was 1e-05, now 0.1; .*seed was 0"
    ):
        Run.open(load_params(overrides={"seed": 1, "learning_rate": 0.1}), tmp_path)


def test_a_stage_that_has_not_run_says_which_notebook_makes_it(tmp_path):
    run = Run.open(load_params(), tmp_path)
    for ask in (lambda: run.catalog, lambda: run.dialogues("train"), lambda: run.references("dev")):
        with pytest.raises(BadInput, match="01_annotation"):
            ask()


def test_references_honour_the_runs_overlay(tmp_path):
    run = Run.open(load_params(), tmp_path)
    line = DialogueReferences(
        dialogue_id="d", references=(ReferenceAction(id="r", name="a", window=Window(open=1, ready=2, close=3)),)
    )
    write_jsonl(run.annotations / "dev.jsonl", [line])
    assert run.references("dev") == [line]
    run.overlay.write_text('{"dialogue_id": "d", "name": "a", "window": {"open": 2, "ready": 2, "close": 2}}\n')
    assert run.references("dev")[0].references[0].window == Window(open=2, ready=2, close=2)


def test_a_named_overlay_must_be_there(tmp_path):
    run = Run.open(load_params(overrides={"overlay": str(tmp_path / "mine.jsonl")}), tmp_path / "r")
    write_jsonl(run.annotations / "dev.jsonl", [DialogueReferences(dialogue_id="d")])
    with pytest.raises(BadInput, match="mine.jsonl"):
        run.references("dev")


def line_of(number):
    turns = [{"speaker": "user", "text": f"Hello {number}."}, {"speaker": "agent", "text": "Hello."}]
    return json.dumps({"id": f"d{number}", "domain": "own", "turns": turns}) + "\n"


def prepared(tmp_path, lines, **sizes):
    """A run of a corpus in one file, without splits."""
    (tmp_path / "catalog.json").write_text('{"domain": "own", "version": "1", "actions": [{"name": "a"}]}')
    (tmp_path / "dialogues.jsonl").write_text("".join(map(line_of, range(lines))))
    run = Run.open(load_params(overrides={"dataset": "jsonl", "data_dir": str(tmp_path), **sizes}), tmp_path / "run")
    prepare_data(run)
    return {split: [d.id for d in run.dialogues(split)] for split in SPLITS}


def test_no_dialogue_is_in_two_splits(tmp_path):
    """A corpus without splits: what is held out is taken first, and a larger training set does not move it."""
    sizes = {"train_dialogues": 3, "dev_dialogues": 1, "test_dialogues": 2}
    assert prepared(tmp_path, 9, **sizes) == {"test": ["d0", "d1"], "dev": ["d2"], "train": ["d3", "d4", "d5"]}


def test_too_few_dialogues_for_three_splits(tmp_path):
    with pytest.raises(BadInput, match="split 'train' has no dialogue left over by the other splits"):
        prepared(tmp_path, 3, train_dialogues=3, dev_dialogues=1, test_dialogues=2)


def test_a_filter_keeps_what_it_removes_from_every_later_stage(tmp_path):
    """Corrections by hand withdraw one of d0's two references, and move d1's off its trigger."""
    log = lambda *turns: [{"turn": t, "name": "a"} for t in turns]  # noqa: E731
    rows = [json.loads(line_of(i)) | {"observed": log(1, 2) if i == 0 else log(2)} for i in range(4)]
    (tmp_path / "catalog.json").write_text('{"domain": "own", "version": "1", "actions": [{"name": "a"}]}')
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    settings = {"dataset": "jsonl", "data_dir": str(tmp_path), "quality_filter": {"coverage": 0.6, "logged": 1}}
    run = Run.open(load_params(overrides=settings), tmp_path / "run")
    prepare_data(run, splits=("train",))
    said = []
    annotate_run(run, said.append, splits=("train",))
    assert "took out 0 dialogues and 0 references" in said[-1] and len(run.references("train")) == 4
    run.overlay.write_text(
        '{"dialogue_id": "d0", "name": "a", "occurrence": 1, "window": null}\n'
        '{"dialogue_id": "d1", "reference_id": "r1", "window": {"open": 1, "ready": 1, "close": 1}}\n'
    )
    annotate_run(run, said.append, splits=("train",))
    assert run.removed("train") == {
        ("d0", None): "windows hold 0.50 of its logged triggers, below 0.6",
        ("d1", None): "windows hold 0.00 of its logged triggers, below 0.6",
    }
    assert [d.id for d in run.dialogues("train")] == [r.dialogue_id for r in run.references("train")] == ["d2", "d3"]
    assert "took out 2 dialogues and 0 references" in said[-1] and len(run.conversations("train")) == 4
    run.overlay.unlink()
    annotate_run(run, said.append, splits=("train",))  # judged anew, with every dialogue
    assert len(run.dialogues("train")) == 4 and not run.removed("train")
