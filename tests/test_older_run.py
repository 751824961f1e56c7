"""A run's folder that commit 5f1f87f made (the smoke parameters; two fixed policies beside the trained one)."""

import json
import shutil
from pathlib import Path

import pytest
from proactor_lib import events, report
from proactor_lib.artf.training import training_log
from proactor_lib.evaluate import load_or_score
from proactor_lib.files import read_json
from proactor_lib.params import Params
from proactor_lib.run import Run

# Since then it is measured against the turns that were asked; intervals are made otherwise.
REDEFINED = {"opportunity_timing"}
OLDER = Path(__file__).parent / "support" / "run_5f1f87f"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A copy of it, opened with its own parameters, and reported."""
    out = shutil.copytree(OLDER, tmp_path_factory.mktemp("older") / "run")
    run = Run.open(read_json(out / "params.json", Params), out)
    heard = []
    remove = events.add(heard.append)
    report.build(out)
    remove()
    assert events.Reported(out, out / "report.html") in heard
    return run


def test_it_is_reported_with_the_numbers_that_it_had(run):
    then, now = (json.loads((folder / "summary.json").read_text()) for folder in (OLDER, run.out))
    assert list(now["held_out"]) == ["base", "sft", "trained", "oracle", "random"]
    for policy, metrics in then["held_out"].items():
        values = {m: v for m, (v, *_) in metrics.items() if m not in REDEFINED}
        assert {m: now["held_out"][policy][m][0] for m in values} == pytest.approx(values)
    assert then["held_out"]["oracle"]["ac"][0] == 1  # so that it is not all silence
    assert now["reward"] == then["reward"] | {"of": "reward_mean"}
    same = ("mismatch", "stage_seconds", "peak_memory_gb", "ranked_against", "dialogues", "steps", "name")
    assert {k: now[k] for k in same} == {k: then[k] for k in same}
    assert then.keys() <= now.keys()


def test_its_report_says_where_it_was_made(run):
    text = (run.out / "report.html").read_text()
    assert "5f1f87f0b4479494e073284a2c104400d29ce135" in text and "04_evaluation" in text


def test_its_results_are_computed_and_kept(run):
    kept = json.loads((run.metrics / "results.json").read_text())
    assert kept["made_from"]["policies"] == list(load_or_score(run).scores)


def test_its_training_is_read(run):
    assert training_log.read_steps(run).step.tolist() == [1, 2]
    assert len(training_log.read_steps(run, training_log.WARM_START)) == 2
    groups = training_log.read_groups(run)
    assert {len(g.texts) for g in groups} == {2} and all(g.kind is None for g in groups)
