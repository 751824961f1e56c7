"""Sweep files, cells and tables: what needs no Ray."""

import json
import os
import tempfile
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from proactor_lib.cli import app
from proactor_lib.errors import UserError
from proactor_lib.params import Params
from proactor_lib.report import ablation, tables
from proactor_lib.sweep import cores, live, runner
from proactor_lib.sweep.cells import make_cells, varying
from proactor_lib.sweep.definition import Axes, RandomAxis, read_sweep
from proactor_lib.sweep.runner import Progress, _check_fit, _warn_of_shared_gpus, describe, job
from proactor_lib.sweep.worker import run_cell
from proactor_lib.sweep_folder.store import Store
from proactor_lib.sweep_folder.table import collect, flatten
from typer.testing import CliRunner

from support.notebooks import write_notebook
from support.sweeps import CELL, write_sweep


def cells_of(folder, **values):
    path = write_sweep(folder, **values)
    return make_cells(read_sweep(path), path)


def test_axes_combine_every_part_with_every_other():
    axes = Axes(
        grid={"a": [1, 2]}, zip=[{"b": [10, 20], "c": ["x", "y"]}], points=[{"d": 0}, {"e": 5}], seeds=[7, 8]
    )  # fmt: skip
    found = axes.combined()
    assert len(found) == 2 * 2 * 2 * 2
    assert found[0] == {"a": 1, "b": 10, "c": "x", "d": 0, "seed": 7}
    assert found[-1] == {"a": 2, "b": 20, "c": "y", "e": 5, "seed": 8}
    assert all((p["b"], p["c"]) in ((10, "x"), (20, "y")) for p in found)
    assert Axes().combined() == [{}]
    assert Axes(seeds=3).combined() == [{"seed": 0}, {"seed": 1}, {"seed": 2}]


def test_random_draws_are_those_of_their_seed_and_in_range():
    draw = {"x": {"low": 1e-6, "high": 1e-4, "log": True}, "n": {"low": 2, "high": 9, "integer": True},
            "c": {"choices": ["p", "q"]}}  # fmt: skip
    points = RandomAxis(count=200, seed=3, draw=draw).drawn()
    assert (
        points == RandomAxis(count=200, seed=3, draw=draw).drawn() != RandomAxis(count=200, seed=4, draw=draw).drawn()
    )
    assert all(1e-6 <= p["x"] <= 1e-4 and p["n"] in range(2, 10) and p["c"] in "pq" for p in points)
    assert 0.35 < np.mean([p["x"] < 1e-5 for p in points]) < 0.65  # half of the logarithms


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"axes": {"grid": {"rewrd": ["rac"]}}}, "rewrd=rac: unknown parameter 'rewrd'; did you mean 'reward'"),
        (
            {"axes": {"grid": {"reward": ["rac", "fun"]}}},
            "reward=fun: reward: there is no such reward; accepted: rac, ",
        ),
        ({"axes": {"grid": {"epsilon": [0.2, 1.5]}}}, "epsilon=1.5: epsilon: Input should be less than or equal to 1"),
        ({"set": {"max_steps": "many"}}, "max_steps: Input should be a valid integer"),
        ({"axes": {"grid": {"scale": ["big"]}}}, "scale=big: scale must be a float like 1.0, got 'big'"),
        ({"axes": {"grid": {"flag": [1]}}}, "flag=1: flag must be a bool like False, got 1"),
        ({"axes": {"grid": {"seed": []}}}, "axes.grid.seed: List should have at least 1 item"),
        ({"axes": {"seeds": 2, "grid": {"seed": [1]}}}, "'seed' varies in two parts of the axes"),
        ({"axes": {"zip": [{"seed": [1], "epsilon": [0.1, 0.2]}]}}, "zip moves together differ in number"),
        ({"axes": {"random": {"count": 1, "draw": {"seed": {"low": 1}}}}}, "either low and high, or choices"),
        ({"where": ["rewrd == 1"]}, "names 'rewrd', which is no parameter"),
        ({"where": ["seed =="]}, "condition 'seed ==' is not an expression"),
        ({"where": ["seed > 5"], "axes": {"seeds": 2}}, "no cell is left"),
        ({"where": ["reward > 1"]}, "condition 'reward > 1': '>' not supported between instances of 'str' and 'int'"),
        ({"where": ["seed / 0 > 1"]}, "sweep.yaml: condition 'seed / 0 > 1': division by zero"),
        ({"axes": {"seeds": 0}}, "axes: seeds: a number of at least 1, or a list of seeds, got 0"),
        ({"cpu": 2}, "cpu: Extra inputs are not permitted, got '2'; accepted keys: name"),
        ({"notebook": "none.ipynb"}, "cannot read"),
        ({"params": "none.yaml"}, "cannot read"),
    ],
)
def test_what_is_wrong_is_refused_in_one_sentence(tmp_path, values, sentence):
    with pytest.raises(UserError) as error:
        cells_of(tmp_path, **values)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_notebook_without_overrides_takes_only_its_own_parameters(tmp_path):
    write_notebook(tmp_path / "n.ipynb", "1", parameters="alpha = 1")
    assert [c.own for c in cells_of(tmp_path, axes={"grid": {"alpha": [1, 2]}})] == [{"alpha": 1}, {"alpha": 2}]
    with pytest.raises(UserError, match="unknown parameter 'alpa'; did you mean 'alpha'"):
        cells_of(tmp_path, axes={"grid": {"alpa": [1]}})


def test_conditions_see_every_parameter(tmp_path):
    axes = {"grid": {"reward": ["rac", "max_rac"], "scale": [1, 2]}, "seeds": 2}
    found = cells_of(tmp_path, axes=axes, where=["reward != 'rac' or (seed == 0 and scale < 2)", "learning_rate < 1"])
    assert [tuple(c.point.values()) for c in found] == [
        ("rac", 1, 0), ("max_rac", 1, 0), ("max_rac", 1, 1), ("max_rac", 2, 0), ("max_rac", 2, 1),
    ]  # fmt: skip


def test_what_no_axis_gives_is_as_the_notebook_has_it(tmp_path):
    write_notebook(tmp_path / "n.ipynb", "1", parameters=f"{CELL}\nseed = 7")
    points = {"points": [{"scale": 2}, {"scale": 3}, {"label": "b"}]}
    found = cells_of(tmp_path, axes=points, where=["scale < 3 and not flag and seed == 7"])
    assert [(c.values["scale"], c.values["seed"], c.own) for c in found] == [
        (2, 7, {"scale": 2}), (1.0, 7, {"label": "b"}),
    ]  # fmt: skip


def test_files_that_are_named_from_home_are_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    write_notebook(tmp_path / "me" / "n.ipynb", "1", parameters=CELL)
    (tmp_path / "me" / "base.yaml").write_text("epsilon: 0.1")
    assert cells_of(tmp_path, notebook="~/n.ipynb", params="~/base.yaml")[0].params.epsilon == 0.1


def test_a_cell_is_named_by_what_it_is(tmp_path):
    first, second = cells_of(tmp_path, axes={"seeds": 2})
    assert first.id != second.id and len(first.id) == 12
    assert cells_of(tmp_path, axes={"seeds": [1]})[0].id == second.id  # the same cell of another sweep
    assert cells_of(tmp_path, axes={"points": [{"seed": 0, "epsilon": Params().epsilon}]})[0].id == first.id
    assert len(cells_of(tmp_path, axes={"points": [{"seed": 0}, {"seed": 0}, {"seed": 1}]})) == 2
    write_notebook(tmp_path / "n.ipynb", "2", parameters=CELL)
    assert cells_of(tmp_path, axes={"seeds": 1})[0].id != first.id


def test_a_file_that_a_parameter_names_counts_by_its_content(tmp_path):
    (tmp_path / "rubric.txt").write_text("be kind")
    before = cells_of(tmp_path, set={"rubric": str(tmp_path / "rubric.txt")})[0]
    (tmp_path / "elsewhere.txt").write_text("be kind")
    assert cells_of(tmp_path, set={"rubric": str(tmp_path / "elsewhere.txt")})[0].id == before.id
    (tmp_path / "rubric.txt").write_text("be strict")
    assert cells_of(tmp_path, set={"rubric": str(tmp_path / "rubric.txt")})[0].id != before.id


def test_a_models_folder_counts_by_what_is_in_it(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    before = cells_of(tmp_path, set={"model": str(model)})[0]
    assert cells_of(tmp_path, set={"model": str(model)})[0].id == before.id and before.params.model == str(model)
    (model / "model.safetensors").touch()
    assert cells_of(tmp_path, set={"model": str(model)})[0].id != before.id
    hub = [cells_of(tmp_path, set={"model": name})[0].id for name in ("tiny", "someone/model")]
    assert len({before.id, *hub}) == 3


def test_a_models_folder_is_found_from_wherever_a_cell_runs(tmp_path, monkeypatch):
    """Elsewhere `models/q` would be a model of the hub."""
    monkeypatch.chdir(tmp_path)
    Path("models/q").mkdir(parents=True)
    served = {"model": "models/q", "judge": "models/q", "judge_url": "serve"}
    asked = {"oracle_model": "models/q", "oracle_url": "http://127.0.0.1:9/v1"}
    [cell] = cells_of(tmp_path, set=served | asked)
    assert cell.values["model"] == cell.values["judge"] == str(tmp_path / "models" / "q")
    assert cell.values["oracle_model"] == "models/q"  # a name that an endpoint knows


def test_a_folder_that_the_cells_fill_themselves_does_not_rename_them(tmp_path):
    cache = tmp_path / "cache"
    before = cells_of(tmp_path, set={"judge_cache": str(cache)})[0]
    cache.mkdir()
    (cache / "answers.jsonl").write_text("{}")
    after = cells_of(tmp_path, set={"judge_cache": str(cache)})[0]
    assert (after.id, after.values["judge_cache"]) == (before.id, str(cache))


def test_the_plan_names_what_differs(tmp_path):
    path = write_sweep(tmp_path, axes={"grid": {"reward": ["rac", "max_rac"], "epsilon": ["2e-1"]}, "seeds": 2})
    shown = json.loads(CliRunner().invoke(app, ["sweep", "plan", str(path), "--json"]).stdout)
    assert [(c["reward"], c["seed"]) for c in shown["cells"]] == [
        ("rac", 0), ("rac", 1), ("max_rac", 0), ("max_rac", 1),
    ]  # fmt: skip
    assert set(shown["cells"][0]) == {"id", "reward", "seed"}
    assert "max_rac" in CliRunner().invoke(app, ["sweep", "plan", str(path)]).stdout


def test_square_brackets_stay_what_they_are(tmp_path):
    """rich would take `[old]` for a style and end at `[/b]`."""
    path = write_sweep(tmp_path, axes={"grid": {"label": ["[old] a", "b[/b]"]}})
    shown = CliRunner().invoke(app, ["sweep", "plan", str(path)])
    assert shown.exit_code == 0 and "[old] a" in shown.stdout and "b[/b]" in shown.stdout
    view = live.Terminal(Store(tmp_path / "out"), None, [])
    with closing(view):
        view(Progress(make_cells(read_sweep(path), path)))


def test_base_set_and_axes_layer(tmp_path):
    (tmp_path / "base.yaml").write_text("epsilon: 0.1\nmax_steps: 5\nseed: 9\n")
    [cell] = cells_of(tmp_path, params="base.yaml", set={"max_steps": 6}, axes={"points": [{"seed": 1}]})
    assert (cell.params.epsilon, cell.params.max_steps, cell.params.seed) == (0.1, 6, 1)


@pytest.mark.parametrize(("cpus", "gpus", "fits"), [(16, 0, True), (2, 1, True), (4, 1, False), (17, 0, False)])
def test_one_node_holds_a_cell_or_it_is_refused(tmp_path, cpus, gpus, fits):
    sweep = read_sweep(write_sweep(tmp_path, cpus=cpus, gpus=gpus))
    nodes = [{"CPU": 16.0}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]
    sentence = f"asks for {cpus} CPUs and {gpus} GPUs; nodes have 2 and 1, 16 and 0"
    with nullcontext() if fits else pytest.raises(UserError, match=sentence):
        _check_fit(sweep, nodes)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("no cluster")])
def test_a_sweep_that_is_stopped_gives_the_terminal_back(tmp_path, monkeypatch, error):
    views = []

    def stop(*given):
        views.append(given[-1])
        raise error

    monkeypatch.setattr(runner, "run", stop)
    monkeypatch.setattr(live, "Lines", live.Terminal)
    ended = CliRunner().invoke(app, ["sweep", "run", str(write_sweep(tmp_path)), "--out", str(tmp_path / "out")])
    assert ended.exit_code and not views[0]._live.is_started


def test_a_cell_whose_folder_cannot_be_written_says_so(tmp_path):
    path = write_sweep(tmp_path)
    sweep = read_sweep(path)
    (tmp_path / "out").write_text("no folder")
    [cell] = make_cells(sweep, path)
    record = run_cell(job(sweep, cell, str(tmp_path / "out"), ""), 1)
    assert record["state"] == "refused" and record["problem"].startswith(f"cannot write {tmp_path / 'out'}")


@pytest.mark.parametrize(
    ("gpus", "device", "node", "warned"),
    [(0, "auto", 1, True), (0, "cuda", 1, True), (0, "cpu", 1, False), (1, "auto", 1, False), (0, "auto", 0, False)],
)
def test_cells_that_would_share_a_gpu_are_warned_of(tmp_path, caplog, gpus, device, node, warned):
    path = write_sweep(tmp_path, gpus=gpus, set={"device": device})
    sweep = read_sweep(path)
    _warn_of_shared_gpus(sweep, make_cells(sweep, path), [{"CPU": 2.0}, {"CPU": 2.0, "GPU": node}])
    assert ["set gpus: 1" in m for m in caplog.messages] == [True] * warned


def test_cells_of_a_node_have_cores_of_their_own(tmp_path, monkeypatch):
    """All that a cell starts is pinned to its "0-1": those of eight cells once were the same two."""
    pinned = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: pinned.append(sorted(cores)))
    with cores.lent(2):
        with cores.lent(1):
            pass
        with cores.lent(2):  # one is free
            pass
    assert pinned == [[4, 5], [6], [4, 5, 6], [4, 5, 6]]


@pytest.mark.parametrize("count", [0, 0.5])
def test_a_cell_without_a_core_of_its_own_takes_none(tmp_path, monkeypatch, count):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = os.sched_getaffinity(0)
    with cores.lent(count):
        assert os.sched_getaffinity(0) == before and list(tmp_path.iterdir()) == []


def test_a_worker_in_another_folder_gets_whole_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_sweep(tmp_path, axes={"grid": {"rubric": ["r.txt"], "scale": [2]}, "seeds": 1})
    sweep = read_sweep(path)
    [cell] = make_cells(sweep, path)
    assert job(sweep, cell, "out", "")["overrides"] == {"rubric": str(tmp_path / "r.txt"), "seed": 0}


def test_flatten_keeps_numbers_and_their_intervals():
    value = {"a": {"value": 1, "low": 0, "high": 2}, "b": {"c": [0.5, None, None], "d": "text"}, "e": True, "f": None,
             "g": [1, 2]}  # fmt: skip
    assert flatten(value) == {
        "a": 1, "a_low": 0, "a_high": 2, "b.c": 0.5, "b.c_low": None, "b.c_high": None, "f": None,
    }  # fmt: skip


@pytest.fixture
def swept(tmp_path):
    """A sweep's folder of 2 rewards x 3 seeds, as workers leave it; one cell failed, one is missing."""
    path = write_sweep(tmp_path, axes={"grid": {"reward": ["rac", "max_rac"]}, "seeds": 3}, headline="score",
                       gpus=2, gpu_hour_price=3.0)  # fmt: skip
    sweep = read_sweep(path)
    cells, store = make_cells(sweep, path), Store(tmp_path / "out")
    store.write("sweep.json", describe(sweep, cells))
    scores = [0.1, 0.2, 0.3, 0.4, 0.6]
    for i, (cell, score) in enumerate(zip(cells, scores, strict=False)):
        record = {"state": "done", "problem": None, "seconds": 1800.0, "cpus": 1, "gpus": 2, "attempts": 1}
        if i == 2:
            record |= {"state": "failed", "problem": "it broke"}
        store.write(store.cell(cell.id), record)
        store.write(store.cell(cell.id, "summary.json"), {"score": [score, 0, 1], "stage_seconds": {"x": 1}})
    return tmp_path / "out"


def test_the_table_has_a_row_a_cell_also_for_what_failed(swept):
    found = collect(swept)
    assert list(found.state) == ["done", "done", "failed", "done", "done", "missing"]
    assert found.problem[2] == "it broke"
    assert list(found.reward) == ["rac"] * 3 + ["max_rac"] * 3 and list(found.seed) == [0, 1, 2, 0, 1, 2]
    assert found.score[0] == 0.1 and found.score_high[0] == 1 and np.isnan(found.score[2])
    assert found.gpu_hours[0] == 1 and found.cost[0] == 3  # half an hour of 2 GPUs at 3 an hour
    assert found.attrs["metrics"] == ["score"]
    read = pd.read_parquet(swept / "table.parquet")
    assert list(read.columns) == list(pd.read_csv(swept / "table.csv").columns) == list(found.columns)


def test_a_parameter_of_several_types_is_text(tmp_path):
    write_notebook(tmp_path / "n.ipynb", "1", parameters="limit = None")
    path = write_sweep(tmp_path, axes={"grid": {"limit": [3, "auto", True]}})
    store = Store(tmp_path / "out")
    store.write("sweep.json", describe(sweep := read_sweep(path), make_cells(sweep, path)))
    collect(tmp_path / "out")
    assert list(pd.read_parquet(tmp_path / "out" / "table.parquet").limit) == ["3", "auto", "True"]


def test_a_metric_that_is_called_as_another_column_is_left_out(swept):
    id = collect(swept).cell[0]
    (swept / "cells" / id / "summary.json").write_text('{"score": 0.7, "seconds": 9, "seed": 5, "cost": [1, 0, 2]}')
    found = collect(swept)
    assert (found.score[0], found.seconds[0], found.seed[0], found.cost[0]) == (0.7, 1800.0, 0, 3.0)
    assert found.attrs["metrics"] == ["score"]


def test_weights_stay_in_the_object_store_when_a_sweep_is_collected(swept):
    training = next((swept / "cells").iterdir()) / "training"
    weights = [f"{name}/adapter_model.safetensors" for name in
               ("checkpoint-5", "published/v2", "policy", "adapter", "sft", "sft_equal_time")]  # fmt: skip
    for name in (*weights, "sft.jsonl", "metrics.jsonl"):
        (training / name).parent.mkdir(parents=True, exist_ok=True)
        (training / name).write_text("{}")
    with Store(f"file://{swept}").here() as here:
        brought = {str(p.relative_to(here / training.relative_to(swept))) for p in here.glob("cells/*/training/**/*")}
    assert brought == {"sft.jsonl", "metrics.jsonl"}
    assert all((training / name).exists() for name in weights)


def test_means_over_seeds_and_paired_differences_by_hand(swept):
    found = collect(swept)
    means = ablation.over_seeds(found, ["score"])
    assert list(means.reward) == ["rac", "max_rac"] and list(means.cells) == [2, 2]
    assert list(means.score) == pytest.approx([0.15, 0.5])
    half = 12.7062 * 0.1 * np.sqrt(0.5) / np.sqrt(2)  # t(0.975, 1), the deviation of 0.1 and 0.2, two seeds
    assert means.score_low[0] == pytest.approx(0.15 - half, abs=1e-4)
    [row] = ablation.paired(found, ["score"]).to_dict("records")
    assert (row["factor"], row["value"], row["against"], row["pairs"]) == ("reward", "max_rac", "rac", 2)
    assert row["difference"] == pytest.approx(0.35)  # mean of 0.3 and 0.4
    assert row["p"] == row["p_holm"] == 0.5 and row["verdict"] == "unclear"  # 2 of 4 signs are as far


def test_sign_flip_by_hand():
    assert ablation.sign_flip(np.array([1.0, 2.0, 3.0])) == 0.25  # +++ and --- of 8
    assert ablation.sign_flip(np.array([1.0, -1.0])) == 1.0
    assert ablation.sign_flip(np.zeros(3)) == 1.0
    assert ablation.sign_flip(np.full(20, 1.0)) < 0.001


def test_tables_for_papers():
    frame = pd.DataFrame({"a_b": ["x|y"], "score": [0.5], "score_low": [0.25], "score_high": [np.nan], "n": [3]})
    assert tables.markdown(frame) == "| a_b | score | n |\n| --- | --- | --- |\n| x\\|y | 0.500 | 3 |\n"
    frame["score_high"] = 0.75
    latex = tables.latex(frame)
    assert r"a\_b & score & n \\" in latex and "0.500 [0.250 to 0.750]" in latex and latex.count(r"\\") == 2


def test_what_varies_comes_in_the_axes_order(tmp_path):
    cells = cells_of(tmp_path, axes={"grid": {"scale": [1, 2], "reward": ["rac", "max_rac"]}, "seeds": 2})
    assert varying(cells) == ["scale", "reward", "seed"]
