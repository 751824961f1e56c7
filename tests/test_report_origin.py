"""What a report says of where its run comes from: other code, other data, corrections that came later."""

import json
import os

from proactor_lib import report
from proactor_lib.artf.training import inputs
from proactor_lib.files import write_json, write_jsonl

from support.runs import make_run


def test_what_was_made_before_is_not_the_new_codes(tmp_path):
    """All stages say the same code, and the run was begun by another."""
    run = make_run(tmp_path / "out")
    stage = {
        "state": "done",
        "inputs": "1",
        "code": "b",
        "seconds": 5.0,
        "peak_memory_gb": 1.0,
        "ended": 0,
        "problem": None,
    }
    origin = json.loads(run.origin_file.read_text())
    record = {"stage_seconds": {"01": 5.0}, "peak_memory_gb": 1.0, "stages": {"01": stage}, "provenance": origin}
    write_json(run.out / "run.json", record)
    report.build(run.out)
    assert "different versions" in " ".join(json.loads(run.summary.read_text())["warnings"])
    write_json(run.origin_file, origin | {"code": "b"})
    report.build(run.out)
    assert "different versions" not in " ".join(json.loads(run.summary.read_text())["warnings"])


def test_a_training_from_other_dialogues_is_said(tmp_path):
    run = make_run(tmp_path / "out")
    inputs.note(run)
    (run.training / "adapter").mkdir()
    for changed in (False, True):
        report.build(run.out)
        said = "Policies were trained before a change of data/train.jsonl" in run.report_file.read_text()
        assert (said, "dialogues that no training saw" in run.report_file.read_text()) == (changed, not changed)
        write_jsonl(run.data / "train.jsonl", run.dialogues("test"))


def test_corrections_after_training_are_said(tmp_path):
    run = make_run(tmp_path / "out")
    (run.training / "adapter").mkdir(parents=True)
    (run.training / "adapter/adapter_config.json").write_text("{}")
    run.overlay.touch()
    for later, said in ((100, True), (-100, False)):
        then = (run.training / "adapter/adapter_config.json").stat().st_mtime
        os.utime(run.overlay, (then + later, then + later))
        report.build(run.out)
        assert ("learnt from those before" in " ".join(json.loads(run.summary.read_text())["warnings"])) == said
