"""Object stores that are not to be had, and disks that say little: what a sweep and its cells make of them."""

import os

import pytest
from proactor_lib.errors import UserError
from proactor_lib.notebook import Outcome
from proactor_lib.sweep.cells import make_cells
from proactor_lib.sweep.definition import read_sweep
from proactor_lib.sweep.runner import job
from proactor_lib.sweep.worker import CELL, run_cell
from proactor_lib.sweep_folder.store import Store

from support.sweeps import write_sweep


def test_a_cell_whose_object_store_is_away_may_be_tried_again(tmp_path):
    path, url = write_sweep(tmp_path), "http://127.0.0.1:9/out"
    sweep = read_sweep(path)
    [cell] = make_cells(sweep, path)
    record = run_cell(job(sweep, cell, url, ""), 1)
    assert record["state"] == "failed" and record["problem"].startswith(f"{url}: ")


def test_an_error_that_has_no_number_is_told_by_its_words(tmp_path):
    def execute(*args, **kwargs):
        raise OSError("Access Denied")

    path = write_sweep(tmp_path)
    sweep = read_sweep(path)
    [cell] = make_cells(sweep, path)
    record = run_cell(job(sweep, cell, str(tmp_path / "out"), sweep.notebook.read_text()), 1, execute)
    assert record["problem"] == f"could not write {tmp_path / 'out'}: Access Denied"


def test_a_cell_has_its_name_in_the_environment_and_what_comes_after_has_not(tmp_path):
    def execute(source, target, parameters, timeout):
        seen.append(os.environ[CELL])
        return Outcome("done", 0.0, 0.0, "")

    seen, path = [], write_sweep(tmp_path)
    sweep = read_sweep(path)
    [cell] = make_cells(sweep, path)
    record = run_cell(job(sweep, cell, str(tmp_path / "out"), sweep.notebook.read_text()), 1, execute)
    assert record["state"] == "done" and seen == [f"out/{cell.id}"] and CELL not in os.environ


@pytest.mark.parametrize(("url", "says"), [
    ("nowhere://b/x", "nowhere://b/x: Protocol not known: nowhere"),
    ("http://127.0.0.1:9/x", "http://127.0.0.1:9/x: ClientConnectorError: Cannot connect"),
])  # fmt: skip
def test_an_object_store_that_is_not_to_be_had_is_a_sentence(url, says):
    with pytest.raises(UserError, match=says):
        Store(url).read("sweep.json")
