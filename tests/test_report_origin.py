"""What a report says of where its run comes from: other code, other data, corrections that came later."""

import json
import os
import subprocess

from proactor_lib import provenance, report
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


def test_only_changes_of_what_runs_are_told(tmp_path, monkeypatch):
    """A deleted outputs/ or an edited README ran nothing; a changed notebook or a new module did."""
    for name in ("proactor_lib/a.py", "notebooks/01.ipynb", "outputs/.gitkeep", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "1"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "proactor_lib")
    (tmp_path / "outputs" / ".gitkeep").unlink()
    (tmp_path / "README.md").write_text("2")
    assert provenance.commit()["dirty"] is False and len(provenance.commit()["commit"]) == 40
    (tmp_path / "notebooks" / "01.ipynb").write_text("2")
    assert provenance.commit()["dirty"] is True
    (tmp_path / "notebooks" / "01.ipynb").write_text("1")
    (tmp_path / "proactor_lib" / "b.py").write_text("1")
    assert provenance.commit()["dirty"] is True
    installed = tmp_path / ".venv" / "proactor_lib"
    installed.mkdir(parents=True)
    monkeypatch.setattr(provenance, "PACKAGE", installed)
    assert provenance.commit() == {"commit": None, "dirty": None}  # the tree around it is another project's
