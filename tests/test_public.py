"""The public surface: a run as five verbs, and names that load nothing heavy until they are used."""

import proactor_lib
import pytest
from proactor_lib import Run, score
from proactor_lib.errors import UserError
from proactor_lib.files import write_json

SIZES = {"train_dialogues": 2, "dev_dialogues": 2, "test_dialogues": 2, "bootstrap": 20}
SMALL = SIZES | {"policies": ["oracle", "silent"]}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "p.yaml").write_text("name: verbs\n")
    return Run.open(tmp_path / "p.yaml", tmp_path / "out", SMALL)


def times(run, *patterns):
    """When each file that matches was written, in ns."""
    return {p: p.stat().st_mtime_ns for pattern in patterns for p in run.out.glob(pattern)}


def test_the_whole_job_is_five_verbs(run):
    run.prepare()
    run.annotate()
    (run.training / "adapter").mkdir(parents=True)  # a training that has come to its end
    assert run.train().empty
    assert list(run.evaluate(dev=False).scores) == ["oracle", "silent"]
    assert run.report() == run.out / "report.html" and run.report_file.exists()


def test_what_is_done_is_not_done_again(run):
    run.prepare()
    run.annotate()
    written = times(run, "data/*", "references/*")
    assert len(written) >= 7
    said = []
    again = Run.open(run.params, run.out)
    again.prepare(said.append)
    again.annotate(said.append)
    assert times(run, "data/*", "references/*") == written
    assert len(said) == 4 and all("is there, from the same" in line for line in said)


def test_dialogues_that_changed_are_annotated_again(run):
    run.prepare()
    run.annotate()
    before = times(run, "references/[a-z]*.jsonl")
    dev = run.data / "dev.jsonl"
    dev.write_text(dev.read_text().replace("loan", "mortgage"))
    run.annotate(lambda line: None)
    after = times(run, "references/[a-z]*.jsonl")
    assert [p.name for p in before if after[p] != before[p]] == ["dev.jsonl"]


def test_another_corpus_in_the_same_folder_is_read_again(tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    write_json(
        source / "catalog.json", {"domain": "d", "version": "1", "actions": [{"name": "act", "description": "a"}]}
    )
    turns = '[{"speaker": "a", "text": "hello"}]'
    for split in ("train", "dev", "test"):
        (source / f"{split}.jsonl").write_text(f'{{"id": "{split}-1", "domain": "d", "turns": {turns}}}\n')
    (tmp_path / "p.yaml").write_text(f"dataset: jsonl\ndata_dir: {source}\n")
    run = Run.open(tmp_path / "p.yaml", tmp_path / "out")
    run.prepare()
    (source / "dev.jsonl").write_text(f'{{"id": "dev-22", "domain": "d", "turns": {turns}}}\n')
    run.prepare()
    assert [d.id for d in run.conversations("dev")] == ["dev-22"]


def test_a_data_stage_that_was_interrupted_is_done_again(run):
    run.prepare()
    (run.data / "test.jsonl").unlink()
    run.prepare()
    assert len(run.conversations("test")) == 2


def test_a_run_of_other_parameters_is_refused(run):
    with pytest.raises(UserError, match="test_dialogues was 2, now 3"):
        Run.open(run.out.parent / "p.yaml", run.out, SMALL | {"test_dialogues": 3})


def test_every_public_name_is_there():
    assert all(getattr(proactor_lib, name) for name in proactor_lib.__all__)
    assert score.__name__ == "score_predictions"
    with pytest.raises(AttributeError, match="no attribute 'Ruin'"):
        proactor_lib.Ruin  # noqa: B018
