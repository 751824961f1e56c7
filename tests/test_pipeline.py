"""`proactor run` on tiny numbered notebooks: real papermill, real kernels, in a real subprocess."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from proactor_lib import pipeline
from proactor_lib.cli.run import parse_settings
from proactor_lib.errors import UserError

from support.notebooks import write_notebook

ROOT = Path(__file__).parents[1]
CELL = "params_file = None\nout = None\noverrides = {}"
COUNT = "from pathlib import Path\nwith open(Path(out) / '{0}.txt', 'a') as f:\n    f.write('x')"


@pytest.fixture
def folder(tmp_path):
    """Notebooks 01 and 02, each of which leaves an x in a file every time that it runs."""
    for name in ("01_first", "02_second"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", COUNT.format(name), parameters=CELL)
    return tmp_path / "notebooks"


def command(folder, *more):
    return [
        sys.executable, "-m", "proactor_lib", "run", "--params", str(ROOT / "params" / "smoke.yaml"),
        "--out", str(folder.parent / "out"), "--notebooks", str(folder), *more,
    ]  # fmt: skip


def proactor_run(folder, *more):
    return subprocess.run(command(folder, "--stage", "01,02", *more), capture_output=True, text=True, timeout=120)


def runs(folder, name):
    return len((folder.parent / "out" / f"{name}.txt").read_text())


def test_stages_run_once_and_again_only_when_an_input_changes(folder):
    done = proactor_run(folder)
    assert done.returncode == 0, done.stderr
    record = json.loads((folder.parent / "out" / "run.json").read_text())
    assert list(record["stage_seconds"]) == ["01_first", "02_second"]
    assert 0.05 < record["peak_memory_gb"] < 2
    assert record["provenance"]["versions"]["papermill"] == "2.7.0"
    assert (folder.parent / "out" / "notebooks" / "01_first.ipynb").exists()

    assert "done before" in proactor_run(folder).stderr
    assert (runs(folder, "01_first"), runs(folder, "02_second")) == (1, 1)

    write_notebook(folder / "02_second.ipynb", COUNT.format("02_second"), "1", parameters=CELL)
    proactor_run(folder)
    assert (runs(folder, "01_first"), runs(folder, "02_second")) == (1, 2)

    write_notebook(folder / "01_first.ipynb", COUNT.format("01_first"), "1", parameters=CELL)
    proactor_run(folder)
    assert (runs(folder, "01_first"), runs(folder, "02_second")) == (2, 3)


def test_a_stage_that_fails_ends_the_run_with_one_sentence_and_status_1(folder):
    write_notebook(folder / "01_first.ipynb", "1 / 0", parameters=CELL)
    done = proactor_run(folder)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith("raised ZeroDivisionError: division by zero")
    assert "ZeroDivisionError" in (folder.parent / "out" / "notebooks" / "01_first.ipynb").read_text()
    assert not (folder.parent / "out" / "02_second.txt").exists()


def test_a_users_mistake_inside_a_notebook_is_status_2(folder):
    mistake = "from proactor_lib.errors import UserError\nraise UserError('catalog.json: no action fly')"
    write_notebook(folder / "01_first.ipynb", mistake, parameters=CELL)
    done = proactor_run(folder)
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
def test_what_is_wrong_is_said_before_anything_runs(folder, more, sentence):
    done = proactor_run(folder, *more)
    assert done.returncode == 2
    assert sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (folder.parent / "out").exists()


def test_a_notebook_without_the_parameters_is_refused(folder):
    write_notebook(folder / "01_first.ipynb", "1", parameters="params_fil = None\nout = None\noverrides = {}")
    done = proactor_run(folder)
    assert done.returncode == 2
    assert "has no parameter 'params_file' in its parameters cell; did you mean 'params_fil'?" in done.stderr


def test_ctrl_c_ends_it_and_the_next_run_goes_on(folder):
    write_notebook(folder / "02_second.ipynb", "import time\ntime.sleep(300)", parameters=CELL)
    job = subprocess.Popen(command(folder, "--stage", "01,02"), stderr=subprocess.PIPE, text=True)
    while "02_second: started" not in job.stderr.readline():
        assert job.poll() is None
    time.sleep(2)
    job.send_signal(signal.SIGINT)
    said = job.communicate(timeout=20)[1]
    assert job.returncode == 130
    assert said.strip().endswith("stopped; the same command goes on from here")
    stages = pipeline.read_stages(folder.parent / "out")
    assert {n: s.state for n, s in stages.items()} == {"01_first": "done", "02_second": "stopped"}
    write_notebook(folder / "02_second.ipynb", COUNT.format("02_second"), parameters=CELL)
    assert proactor_run(folder).returncode == 0
    assert (runs(folder, "01_first"), runs(folder, "02_second")) == (1, 1)


def test_settings_are_yaml():
    assert parse_settings(["a=1", "b=x=y", "c={rac: 1}", "d=null", "e="]) == {
        "a": 1, "b": "x=y", "c": {"rac": 1}, "d": None, "e": None,
    }  # fmt: skip
    with pytest.raises(UserError, match="--set a: the value '{' is not YAML"):
        parse_settings(["a={"])
