"""Notebook 05, its figures and its tables, on a run with steps and on one without."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from proactor_lib import notebook, plots
from proactor_lib.artf.capacity import fit
from proactor_lib.errors import UserError
from proactor_lib.report import performance
from proactor_lib.run import Run

from support.figures import readable
from support.notebooks import run_here
from support.records import write_records

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "05_performance.ipynb"


def given(out):
    """The notebook's parameters for a folder, as `proactor run --stage 05` gives them: benchmarks lie beside it."""
    params = json.loads((out / "params.json").read_text()) if (out / "params.json").exists() else {}
    names = "max_staleness", "num_generations", "turns_per_dialogue", "dialogues_per_step", "evaluation_turns"
    settings = {name: params[name] for name in names if name in params}
    return {"params_file": str(ROOT / "params" / "smoke.yaml"), "out": str(out), "overrides": settings,
            "simulated_steps": 2}  # fmt: skip


def executed(out):
    """The outputs' text of the notebook, run headless on a folder."""
    target = out.parent / "executed.ipynb"
    outcome = notebook.execute(NOTEBOOK, target, given(out))
    assert (outcome.state, outcome.problem) == ("done", None)
    cells = json.loads(target.read_text())["cells"]
    outputs = [o for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    pictures = sum("image/png" in o.get("data", {}) for o in outputs)
    return "".join("".join(o.get("text", o.get("data", {}).get("text/plain", ""))) for o in outputs), pictures


def test_it_takes_a_run_apart_and_shows_benchmarks_that_are_there(tmp_path):
    write_records(tmp_path / "run")
    bench = tmp_path / "bench"
    bench.mkdir()
    packing = {"padded_tokens": 340000, "library_tokens": 20000, "packed_tokens": 9100}
    (bench / "packing.json").write_text(json.dumps(packing | {"ours_seconds": 50.0, "trl_seconds": 110.0}))
    (bench / "learning.json").write_text('{"reward_artf": [0.5, 0.6, null], "reward_sync": [0.4, 0.6, 0.5]}')
    (bench / "adaptivity.json").write_text('{"server_seconds_share": 0.53}')
    (bench / "async.json").write_text(
        '{"homeloan": {"seconds_artf": 60.0, "seconds_trl": 900.0, "seconds_sync": 800.0}}'
    )
    text, pictures = run_here(NOTEBOOK, given(tmp_path / "run"))
    assert "6 steps: predicted" in text and "trained tokens a second" in text and "staleness 1" in text
    assert pictures == 9  # the steps, two clusters' splits, two comparisons, four of benchmarks
    assert "server_seconds_share" in text
    assert "Not measured yet:\n  proactor bench router" in text and "bench packing" not in text


def test_it_says_what_to_run_first(tmp_path):
    text, pictures = executed(tmp_path / "none")
    assert "has no training step yet: run notebooks 01 and 03 on it first" in text
    assert "nothing was measured" in text and text.count("proactor bench") == 6 and pictures == 4
    assert f"Not measured yet:\n  mkdir -p {tmp_path}/bench\n" in text


def test_the_summary_by_hand():
    steps = pd.DataFrame({
        "step": [1, 2], "wall_s": [np.nan, 10.0], "rollout_wait_s": [3.0, 3.0], "rollout_s": [4.0, 4.0],
        "train_s": [5.0, 5.0], "sync_s": [1.0, 1.0], "tokens_padded": [900, 1100], "tokens_packed": [100, 100],
        "output_tokens": [40, 40], "groups": [8, 8], "alarms": [[], ["drift", "collapse"]],
    })  # fmt: skip
    found = performance.summary(steps)
    assert found["seconds a step"] == 9.5  # 3 + 5 + 1 where the wall time is unknown, and 10
    assert found["training, share"] == pytest.approx(10 / 19) and found["packing, times fewer tokens"] == 10
    assert (found["trained tokens a second"], found["sampled tokens a second"]) == (20, 10)
    assert found["groups an hour"] == pytest.approx(3600 * 16 / 19)
    assert performance.with_rest(steps).rest_s.tolist()[1] == 1.0
    assert performance.alarms(steps).to_dict("records") == [{"step": 2, "alarms": "drift, collapse"}]
    assert len(performance.alarms(steps.drop(columns="alarms"))) == 0


def test_a_benchmarks_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "router.json").write_text("[1]")
    with pytest.raises(UserError, match="router.json is not the JSON object"):
        performance.benches(tmp_path)


def test_figures_show_what_they_are_given(tmp_path):
    write_records(tmp_path)
    steps = performance.with_rest(fit.run_steps(Run(None, tmp_path)))
    (ax,) = readable(plots.step_parts(steps)).axes
    tops = [sum(p.get_height() for p in ax.patches[i :: len(steps)]) for i in range(1, len(steps))]
    np.testing.assert_allclose(tops, steps.wall_s[1:])
    table = pd.DataFrame({"servers": [1, 2, 3], "step_s": [30.0, 20.0, 40.0]})
    (ax,) = readable(plots.split_curves({"ART-F": table}, {"synchronous": 300.0}, "8xH100")).axes
    (ring,) = [line for line in ax.lines if line.get_markersize() == 11]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (2, 20.0)
    plans = pd.DataFrame({"name": ["a", "b"], "speedup": [1.0, 6.0], "server_busy": [0.1, 0.9], "trainer_busy": 0.5})
    assert [p.get_width() for p in readable(plots.busy_shares(plans)).axes[0].patches] == [1.0, 6.0]
    (ax,) = readable(plots.grouped_bars({"homeloan": {"ART-F": 60.0, "TRL": None, "sync": 900.0}}, "seconds")).axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["ART-F", "sync"] and ax.get_xlim()[0] == 0
