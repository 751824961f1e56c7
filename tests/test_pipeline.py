"""`proactor run` on tiny numbered notebooks; one test runs them in real kernels."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from proactor_lib import pipeline
from proactor_lib.cli.run import parse_settings
from proactor_lib.errors import UserError
from proactor_lib.files import write_json
from proactor_lib.notebook import Outcome
from proactor_lib.processes import alone_in

from support.notebooks import write_notebook
from support.waiting import wait_until

ROOT = Path(__file__).parents[1]
CELL = "params_file = None\nout = None\noverrides = {}"
COUNT = "from pathlib import Path\nwith open(Path(out) / '{0}.txt', 'a') as f:\n    f.write('x')"


@pytest.fixture
def folder(tmp_path):
    """Notebooks 01 and 02, each of which leaves an x in a file every time that it runs."""
    for name in ("01_first", "02_second"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", COUNT.format(name), parameters=CELL)
    return tmp_path / "notebooks"


def arguments(folder, *more):
    params = ROOT / "params" / "smoke.yaml"
    return ["run", "--params", params, "--out", folder.parent / "out", "--notebooks", folder, "--stage", "01,02", *more]


@pytest.fixture
def execute(monkeypatch):
    """Nothing is executed: each notebook leaves its x and its copy, and ends as `execute.ends` says."""

    def leave(source, target, given, on_tick):
        end = leave.ends.get(source.stem, Outcome("done", 1.0, 0.1))
        leave.ran.append(source.stem)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text())
        return end

    leave.ends, leave.ran = {}, []
    monkeypatch.setattr(pipeline, "Pipeline", partial(pipeline.Pipeline, execute=leave))
    return leave


def test_stages_run_once_and_again_only_when_an_input_changes(folder, cli, execute):
    done = cli(*arguments(folder))
    assert done.returncode == 0, done.stderr
    record = json.loads((folder.parent / "out" / "run.json").read_text())
    assert list(record["stage_seconds"]) == ["01_first", "02_second"]
    assert 0.1 < record["peak_memory_gb"] < 5  # this process's own memory is counted too
    assert record["provenance"]["versions"]["papermill"] == "2.7.0"

    assert "done before" in cli(*arguments(folder)).stderr
    assert execute.ran == ["01_first", "02_second"]

    write_notebook(folder / "02_second.ipynb", COUNT.format("02_second"), "1", parameters=CELL)
    cli(*arguments(folder))
    assert execute.ran[2:] == ["02_second"]

    write_notebook(folder / "01_first.ipynb", COUNT.format("01_first"), "1", parameters=CELL)
    cli(*arguments(folder))
    assert execute.ran[3:] == ["01_first", "02_second"]


def test_a_folder_that_the_run_fills_itself_makes_no_stage_run_again(folder, cli, execute):
    cache = folder.parent / "cache"
    given = arguments(folder, "--set", f"judge_cache={cache}")
    assert cli(*given).returncode == 0
    cache.mkdir()
    (cache / "answers.jsonl").write_text("{}")
    assert cli(*given).returncode == 0 and execute.ran == ["01_first", "02_second"]
    record = json.loads((folder.parent / "out" / "run.json").read_text())
    assert "judge_cache" not in record["provenance"]["inputs"]


def test_weights_replaced_in_the_models_folder_make_all_stages_run_again(folder, cli, execute):
    model = folder.parent / "model"
    write_json(model / "config.json", {})
    given = arguments(folder, "--set", f"model={model}", "--anyway")
    for _ in range(2):
        assert cli(*given).returncode == 0 and execute.ran == ["01_first", "02_second"]
    write_json(model / "config.json", {"layers": 2})
    assert cli(*given).returncode == 0 and execute.ran == 2 * ["01_first", "02_second"]
    record = json.loads((folder.parent / "out" / "run.json").read_text())
    assert record["provenance"]["inputs"]["model"]


def test_references_that_were_deleted_are_made_again_and_what_follows_too(folder, cli, execute):
    assert cli(*arguments(folder)).returncode == 0
    references = folder.parent / "out" / "references"
    for name in ("test.jsonl", "test.made.json"):
        write_json(references / name, {})
    assert cli(*arguments(folder)).returncode == 0 and execute.ran == ["01_first", "02_second"]
    (references / "test.jsonl").unlink()
    execute.ends["02_second"] = Outcome("failed", 1.0, 0.1, "no luck")
    assert cli(*arguments(folder)).returncode == 1 and execute.ran[2:] == ["01_first", "02_second"]
    write_json(references / "test.jsonl", {})
    del execute.ends["02_second"]
    assert cli(*arguments(folder)).returncode == 0 and execute.ran[4:] == ["02_second"]


def test_attempts_add_up(folder, execute):
    """A second and a half that failed, then half a one that was done: 2 s; the higher memory; also after a change."""
    notebooks = pipeline.find(folder, ("01",))
    execute.ends["01_first"] = Outcome("failed", 1.5, 7.0, "no luck")
    job = pipeline.Pipeline(ROOT / "params" / "smoke.yaml", folder.parent / "out", {}, notebooks)
    assert job.run(notebooks[0]).problem == "no luck" and not job.finished(notebooks[0])
    execute.ends["01_first"] = Outcome("done", 0.5, 0.1)
    stage = job.run(notebooks[0])
    assert stage.seconds == 2.0 and 7.0 < stage.peak_memory_gb < 12 and job.finished(notebooks[0])
    write_notebook(notebooks[0], COUNT.format("01_first"), "1", parameters=CELL)
    job = pipeline.Pipeline(ROOT / "params" / "smoke.yaml", folder.parent / "out", {}, notebooks)
    assert not job.finished(notebooks[0]) and job.run(notebooks[0]).seconds == 2.5


def test_a_stage_that_fails_ends_the_run_with_one_sentence_and_status_1(folder, cli, execute):
    execute.ends["01_first"] = Outcome("failed", 1.0, 0.1, "cell 3 raised ZeroDivisionError: division by zero")
    done = cli(*arguments(folder))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith("raised ZeroDivisionError: division by zero")
    assert execute.ran == ["01_first"]


def test_a_users_mistake_inside_a_notebook_is_status_2(folder, cli, execute):
    execute.ends["01_first"] = Outcome("refused", 1.0, 0.1, "catalog.json: no action fly")
    done = cli(*arguments(folder))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "proactor: 01_first: catalog.json: no action fly"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--set", "sed=1"], "unknown parameter 'sed'; did you mean 'seed'?"),
        (["--set", "seed"], "--set 'seed' is not key=value"),
        (["--stage", "07"], "no notebook 07_*.ipynb"),
        (["--params", "none.yaml"], "cannot read none.yaml: No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(folder, cli, more, sentence):
    done = cli(*arguments(folder, *more))
    assert done.returncode == 2
    assert sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (folder.parent / "out").exists()


def test_a_folder_is_run_by_one_process_at_a_time(folder, cli, execute):
    with alone_in(folder.parent / "out"):
        done = cli(*arguments(folder))
    assert done.returncode == 2 and execute.ran == []
    assert f"out is being run by process {os.getpid()}: wait for it, or end it" in done.stderr
    assert cli(*arguments(folder)).returncode == 0


def test_a_notebook_without_the_parameters_is_refused(folder, cli):
    write_notebook(folder / "01_first.ipynb", "1", parameters="params_fil = None\nout = None\noverrides = {}")
    done = cli(*arguments(folder))
    assert done.returncode == 2
    assert "has no parameter 'params_file' in its parameters cell; did you mean 'params_fil'?" in done.stderr


def test_ctrl_c_ends_it_and_the_next_run_goes_on(folder, cli, execute):
    """Real kernels in a real process: the first notebook runs to its end, the second says when it may be stopped."""
    wait = f"open(out + '/begun', 'w').close()\n{COUNT.format('02_second')}\nimport time\ntime.sleep(300)"
    write_notebook(folder / "02_second.ipynb", wait, parameters=CELL)
    command = [sys.executable, "-m", "proactor_lib", *map(str, arguments(folder))]
    job, out = subprocess.Popen(command, stderr=subprocess.PIPE, text=True), folder.parent / "out"
    wait_until((out / "begun").exists, process=job)
    job.send_signal(signal.SIGINT)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 130
    assert said.strip().endswith("stopped; the same command goes on from what is kept")
    assert {n: s.state for n, s in pipeline.read_stages(out).items()} == {"01_first": "done", "02_second": "stopped"}
    assert [(out / f"{p}.txt").read_text() for p in ("01_first", "02_second")] == ["x", "x"]
    assert cli(*arguments(folder)).returncode == 0 and execute.ran == ["02_second"]


def test_settings_are_yaml():
    assert parse_settings(["a=1", "b=x=y", "c={rac: 1}", "d=null", "e="]) == {
        "a": 1, "b": "x=y", "c": {"rac": 1}, "d": None, "e": None,
    }  # fmt: skip
    with pytest.raises(UserError, match="--set a: the value '{' is not YAML"):
        parse_settings(["a={"])
