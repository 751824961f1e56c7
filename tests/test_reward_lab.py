"""What the lab says of samples, judges and ablations: groups by hand, the command, the notebook."""

import importlib.util
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from proactor_lib import datasets
from proactor_lib.cli import app
from proactor_lib.cli import rewards as rewards_command
from proactor_lib.errors import UserError
from proactor_lib.files import read_json, write_json, write_jsonl
from proactor_lib.params import Params, load_params
from proactor_lib.policies import POLICIES
from proactor_lib.report import questions, sweep
from proactor_lib.reward_lab import probe, samples, scoring
from proactor_lib.rewards import REWARDS, make_reward
from proactor_lib.run import Run, annotate_run, prepare_data
from proactor_lib.schema import Case
from typer.testing import CliRunner

from support.fake_endpoint import FakeEndpoint
from support.judges import good, said
from support.notebooks import run_here
from support.reward_cases import BOOK, CATALOG, DIALOGUE, GARBAGE, RIGHT, SILENCE, WAITING, WRONG, group, scores
from support.runs import make_run
from support.shared import SGD, needs_shared

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "02_reward_ablation.ipynb"
CASES = [Case(DIALOGUE, (BOOK,), CATALOG)]


def test_spread_and_agreement_by_hand():
    up = scoring.Scored(np.array([[0.0, 1.0], [0.5, 0.5]]), {}, 1.0)
    down = scoring.Scored(np.array([[1.0, 0.0], [0.0, 1.0]]), {}, 1.0)
    gaps = scoring.Scored(np.array([[0.0, 1.0], [np.nan, np.nan]]), {}, 1.0)
    np.testing.assert_allclose(samples.advantages(up.values), [[-1, 1], [0, 0]])
    np.testing.assert_allclose(samples.advantages(gaps.values), [[-1, 1], [np.nan, np.nan]])
    spread = samples.spread({"up": up, "down": down, "gaps": gaps}).set_index("reward")
    assert spread.loc["up", ["mean", "groups_with_spread", "deviation", "ms_per_group"]].tolist() == [
        0.5,
        0.5,
        0.25,
        500,
    ]
    assert spread.missing.tolist() == [0, 0, 0.5] and spread.loc["gaps", "mean"] == 0.5
    agreement = samples.agreement({"up": up, "down": down, "flat": scoring.Scored(np.ones((2, 2)), {}, 1.0)})
    # up: (-1, 1, 0, 0); down: (1, -1, -1, 1): -2 / (sqrt 2 * 2)
    assert agreement.loc["up", "down"] == pytest.approx(-1 / np.sqrt(2)) and agreement.loc["up", "up"] == pytest.approx(
        1
    )
    assert agreement.loc["flat"].isna().all()


def test_the_rubric_judge_costs_nothing_and_does_not_waver():
    groups = [group(RIGHT, WAITING, SILENCE, GARBAGE, progress=1), group(RIGHT, WRONG, SILENCE, WAITING, turn=5)]
    found = samples.examine(groups, load_params())
    told = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert "stand-in" in told["judge"] and list(told["spread"]) == list(REWARDS)
    assert set(told["judge_cost_per_1000_groups"]) == {"general_ruler", "custom_ruler", "adaptive_ruler"}
    assert told["judge_cost_per_1000_groups"]["custom_ruler"]["calls"] == 0
    assert told["judge_noise"]["custom_ruler"]["noise"] == pytest.approx(0)
    assert told["judge_noise"]["custom_ruler"]["agreement"] == pytest.approx(1)
    assert told["agreement"]["rac"]["rac"] == pytest.approx(1) and 0 < found.of("rac")["deviation"] < 1


def test_a_judge_that_contradicts_itself(tmp_path):
    """Asked again it says the reverse: deviation |0.9 - 0.1| / 2 for each of the two outputs, agreement -1."""

    def wavering(request, n):
        reverse = len(server.requests) > 1
        return said({k: i | {"score": 1 - i["score"]} if reverse else i for k, i in good(request).items()})

    with FakeEndpoint(wavering) as server:
        params = load_params(None, {"reward": "general_ruler", "judge": "j", "judge_url": server.url})
        params = scoring.for_lab(params, tmp_path)
        noise = samples.judge_noise(params, [group(RIGHT, SILENCE)], repeats=2)
    assert noise == {"noise": pytest.approx(0.4), "spread": pytest.approx(0.4), "agreement": pytest.approx(-1)}
    assert len(server.requests) == 2


def test_what_a_judge_costs_per_1000_groups():
    with FakeEndpoint(lambda r, n: said(good(r))) as server:
        settings = {"reward": "general_ruler", "judge": "j", "judge_url": server.url, "judge_prices": (1e6, 0)}
        scored = scoring.score(load_params(None, settings), [group(RIGHT, WRONG), group(SILENCE, RIGHT, turn=5)])
    cost = samples.judge_cost(scored)
    assert cost["calls"] == 1000 and cost["cost"] == pytest.approx(cost["prompt_tokens"]) and cost["seconds"] > 0
    cached = replace(scored, counters=scored.counters | {"judge_cached": 1})
    assert all(map(np.isnan, samples.judge_cost(cached).values()))


def test_samples_of_a_training(tmp_path):
    run = Run.open(
        load_params(None, {"train_dialogues": 2, "dev_dialogues": 1, "test_dialogues": 1, "max_steps": 10}), tmp_path
    )
    prepare_data(run)
    annotate_run(run)
    ids = [d.id for d in run.dialogues("train")]
    line = {
        "step": 5,
        "dialogue_id": ids[0],
        "turn": 3,
        "texts": ["none", "ready: x"],
        "rewards": [1, 0],
        "components": [{"rac": 1}, {}],
    }
    path = run.training / "samples.jsonl"
    write_jsonl(path, [line | {"step": s, "turn": s} for s in range(1, 11)])
    groups = scoring.run_groups(run, 4)
    assert [g.progress for g in groups] == pytest.approx([0, 1 / 3, 2 / 3, 1]) and [g.turn for g in groups] == [
        1,
        4,
        7,
        10,
    ]
    assert groups[0].texts == ("none", "ready: x") and groups[0].case.references
    assert [o.unreadable for o in groups[0].outputs] == [False, False]
    parts = samples.components(run)
    assert parts.step.tolist() == list(range(1, 11)) and parts.rac.tolist() == [1] * 10
    found = CliRunner().invoke(app, ["rewards", "samples", "--run", str(tmp_path), "--limit", "4", "--json"])
    assert list(json.loads(found.stdout)["spread"]) == list(REWARDS) and "stand-in" in found.stderr
    write_jsonl(path, [line | {"truncated": [False, True]}])
    assert [o.unreadable for o in scoring.run_groups(run, 1)[0].outputs] == [False, True]  # as training scored it
    write_jsonl(path, [line | {"dialogue_id": "gone"}])
    with pytest.raises(UserError, match="dialogue 'gone', turn 3"):
        scoring.run_groups(run, 4)
    path.unlink()
    with pytest.raises(UserError, match="samples.jsonl holds no samples: train first"):
        scoring.run_groups(run, 4)


def cells(**differences):
    """A sweep's table: a reward's opportunity timing above that of rac, by seed; rar the same for all."""
    rows = []
    for seed, difference in enumerate(differences["timing"]):
        for reward, base in (("rac", "rac"), ("custom_ruler", "rac"), ("adaptive_ruler", "adaptive_metric")):
            rows.append(("done", reward, base, seed, 0.5 + difference * (reward != "rac"), 0.3))
    rows.append(("failed", "rac", "rac", 0, 9.0, 9.0))
    columns = ["state", "reward", "ruler_base", "seed", "held_out.trained.opportunity_timing", "held_out.trained.rar"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize(
    "timing, low, high, verdict",  # t(0.975, 2) = 4.3027
    [
        ([0.1, 0.2, 0.3], 0.2 - 4.3027 * 0.1 / 3**0.5, 0.2 + 4.3027 * 0.1 / 3**0.5, "cannot be told"),
        ([0.19, 0.2, 0.21], 0.2 - 4.3027 * 0.01 / 3**0.5, 0.2 + 4.3027 * 0.01 / 3**0.5, "as in the paper"),
        ([-0.19, -0.2, -0.21], -0.2 - 4.3027 * 0.01 / 3**0.5, -0.2 + 4.3027 * 0.01 / 3**0.5, "against the paper"),
        ([0.2], np.nan, np.nan, "cannot be told"),
    ],
)
def test_the_papers_questions(timing, low, high, verdict):
    found = questions.answers(cells(timing=timing))
    row = found[(found.a == "custom_ruler") & (found.b == "rac") & (found.metric == "opportunity_timing")].iloc[0]
    assert (row.units, row.difference, row.verdict) == (len(timing), pytest.approx(np.mean(timing)), verdict)
    assert [row.low, row.high] == pytest.approx([low, high], abs=1e-4, nan_ok=True)
    same = found[(found.a == "rac") & (found.metric == "rar")].iloc[0]
    assert (same.difference, same.verdict) == (0, "cannot be told")
    mixed = found[(found.a == "adaptive_ruler on adaptive_metric") & (found.b == "rac")].iloc[0]
    assert (mixed.difference, mixed.verdict) == (row.difference, verdict)
    assert (found[found.a == "adaptive_ruler on rac"].verdict == "not measured").all()


def test_a_failed_cell_leaves_its_partner_out_too():
    """rac and custom_ruler are the same in every cell, which one learning rate makes better; one cell of rac failed."""
    rows = [("done", r, s, rate, rate) for r in ("rac", "custom_ruler") for s in range(3) for rate in (0.1, 0.4)]
    table = pd.DataFrame(
        rows, columns=["state", "reward", "seed", "learning_rate", "held_out.trained.opportunity_timing"]
    )
    table.attrs["parameters"] = ["reward", "learning_rate", "seed"]
    table.loc[0, "state"] = "failed"
    found = questions.answers(table)
    row = found[(found.a == "custom_ruler") & (found.b == "rac") & (found.metric == "opportunity_timing")].iloc[0]
    assert (row.units, row.difference) == (3, 0)


def swept(folder, **said):
    """A sweep's folder of one seed, as cells leave it: by reward, the fixed policy that its training came out as."""
    cells = []
    for number, (reward, policy) in enumerate(said.items()):
        run = make_run(folder / "cells" / f"c{number}", reward=reward)
        (run.predictions / f"{policy}.jsonl").rename(run.predictions / "trained.jsonl")
        write_json(run.out / "cell.json", {"state": "done", "seconds": 1.0, "cpus": 1, "gpus": 0})
        point = {"reward": reward, "seed": 0}
        cells.append({"id": f"c{number}", "point": point, "values": run.params.model_dump(mode="json")})
    unpriced = {"cpu_hour_price": None, "gpu_hour_price": None}
    write_json(folder / "sweep.json", {"varying": ["reward"], "cells": cells, "metrics": [], **unpriced})
    return folder


def test_adaptive_ruler_on_one_base_alone_is_a_mixture_too(tmp_path):
    """Then `ruler_base` does not vary, and the sweep's table lacks it."""
    table = questions.cells(swept(tmp_path, rac="silent", adaptive_ruler="oracle_late"))
    found = questions.answers(table.assign(**{"held_out.trained.opportunity_timing": [0.25, 0.75]}))
    (row,) = found[(found.a == "adaptive_ruler on rac") & (found.metric == "opportunity_timing")].itertuples()
    assert (row.units, row.difference, row.verdict) == (1, 0.5, "cannot be told")


def test_one_seed_is_compared_on_its_dialogues(tmp_path):
    """rac came out silent: it misses all, triggers nothing. custom_ruler came out late, general_ruler at random."""
    folder = swept(tmp_path, rac="silent", custom_ruler="oracle_late", general_ruler="random")
    found = questions.answers_of(folder)
    found = found[found.over == "dialogues"].set_index(["a", "b", "metric"])
    missed, pt = found.loc[("rac", "custom_ruler", "missed")], found.loc[("custom_ruler", "rac", "pt")]
    assert missed.units == 6 and missed.verdict == pt.verdict == "as in the paper" and missed.low > 0.5 and pt.low > 0
    assert found.loc[("rac", "custom_ruler", "rar")].verdict == "not measured"  # RAR of silence is undefined
    assert found.loc[("max_rac", "custom_ruler", "missed")].verdict == "not measured"
    said = questions.conclusions(questions.answers_of(folder))
    assert "Do proactiveness rubrics move timing? Over 6 dialogues: 3 as in the paper." in said
    assert "Do consistency-only rewards grow conservative? Over no seeds: not measured." in said
    assert "smollm2-135m" in questions.limits(folder) and "stand-in" in questions.limits(folder)
    whole = questions.table(questions.Store(folder)).assign(**{"held_out.trained.opportunity_timing": 0.5})
    whole.attrs |= {"parameters": ["reward", "seed"], "metrics": []}
    shown = sweep._questions(folder, whole)
    assert [r["verdict"] for r in shown["rows"]].count("as in the paper") == 4 and len(shown["figures"]) == 1


def test_where_a_cell_is_missing_rewards_are_compared_on_the_dialogues_that_both_have(tmp_path):
    """custom_ruler has a second seed, rac's failed: both have the six dialogues of the first."""
    folder = swept(tmp_path, rac="silent", custom_ruler="oracle_late")
    plan = json.loads((folder / "sweep.json").read_text())
    for number, state in ((2, "failed"), (3, "done")):
        shutil.copytree(folder / "cells" / f"c{number - 2}", folder / "cells" / f"c{number}")
        write_json(
            folder / "cells" / f"c{number}" / "cell.json", {"state": state, "seconds": 1.0, "cpus": 1, "gpus": 0}
        )
        before = plan["cells"][number - 2]
        plan["cells"].append(before | {"id": f"c{number}", "point": before["point"] | {"seed": 1}})
    write_json(folder / "sweep.json", plan)
    found = questions.answers_of(folder)
    missed = found[found.over == "dialogues"].set_index(["a", "b", "metric"]).loc[("rac", "custom_ruler", "missed")]
    assert (missed.units, missed.verdict) == (6, "as in the paper")
    said = "Of 12 dialogues rac lacks 6: two rewards are compared on those that both have."
    assert questions.conclusions(found)[-1] == said


def test_a_cell_that_differs_in_a_base_which_its_reward_does_not_use_counts_once(tmp_path):
    folder = swept(tmp_path, rac="silent", custom_ruler="oracle_late")
    plan = json.loads((folder / "sweep.json").read_text())
    shutil.copytree(folder / "cells" / "c0", folder / "cells" / "c2")
    plan["cells"].append(plan["cells"][0] | {"id": "c2", "point": plan["cells"][0]["point"] | {"ruler_base": "rac"}})
    write_json(folder / "sweep.json", plan)
    tables = questions.trained(folder)
    assert {name: len(t) for name, t in tables.items()} == {"rac": 6, "custom_ruler": 6}


def test_rewards_without_a_dialogue_in_common_are_not_compared(tmp_path):
    folder = swept(tmp_path, rac="silent", max_rac="silent", custom_ruler="oracle_late")
    tables = questions.trained(folder)
    tables["max_rac"] = tables["max_rac"].assign(dialogue_id="seed 2 " + tables["max_rac"].dialogue_id)
    found = questions.on_dialogues(tables, bootstrap=100).set_index(["a", "b", "metric"])
    assert found.loc[("max_rac", "custom_ruler", "missed")].units == 0
    assert found.loc[("rac", "custom_ruler", "missed")].units == 6
    assert questions.left_out(tables)[0].startswith("Of 12 dialogues rac lacks 6, max_rac lacks 6, custom_ruler lacks")
    assert questions.left_out({"rac": tables["rac"], "max_rac": tables["rac"]}) == questions.left_out({}) == []
    answers = pd.DataFrame({"over": "dialogues", "question": "Q?", "units": [6, 12], "verdict": "cannot be told"})
    assert questions.conclusions(answers) == ["Q? Over 6 to 12 dialogues: 2 cannot be told."]


def test_no_ablation_yet(tmp_path):
    assert "proactor sweep run params/sweeps/rewards.yaml" in questions.answers_of(tmp_path)


@needs_shared
def test_the_command(tmp_path):
    arguments = [
        "rewards",
        "probe",
        "--dataset",
        "sgd",
        "--data-dir",
        str(SGD),
        "--limit",
        "5",
        "--set",
        "bootstrap=50",
    ]
    found = CliRunner().invoke(app, [*arguments, "--json"])
    told = json.loads(found.stdout)
    assert list(told["rewards"]) == list(told["tau"]) == list(REWARDS)
    assert all(list(by_policy) == list(POLICIES) for by_policy in told["rewards"].values())
    assert "stand-in" in told["judge"] and "stand-in" in found.stderr
    assert set(told["apart"]) <= {"ready_before_close", "ready_at_close"} and told["dialogues"] == 5
    shown = CliRunner().invoke(app, [*arguments, "--set", "reward_weights={rac: 1.0}"])
    assert shown.exit_code == 0 and "weighted_metric" not in shown.stderr  # still right: RAC alone holds the order here
    assert CliRunner().invoke(app, ["rewards", "list"]).stdout.count("[paper") == 7
    assert "Judge proactiveness" in CliRunner().invoke(app, ["rewards", "rubric", "custom_ruler"]).stdout
    none = CliRunner().invoke(app, ["rewards", "rubric", "rac"])
    assert isinstance(none.exception, UserError) and "accepted: general_ruler, custom_ruler" in str(none.exception)
    wrong = CliRunner().invoke(app, ["rewards", "probe", "--set", "reward_wieghts={}"])
    assert isinstance(wrong.exception, UserError) and "did you mean 'reward_weights'?" in str(wrong.exception)


def test_the_probe_asks_the_corpus_that_the_file_names(tmp_path):
    (tmp_path / "p.yaml").write_text(f"{{dataset: sgd, data_dir: {tmp_path / 'nowhere'}}}")
    found = CliRunner().invoke(app, ["rewards", "probe", "--limit", "1", "--params", str(tmp_path / "p.yaml")])
    assert f"data folder {tmp_path / 'nowhere'} is not there" in str(found.exception)


def test_the_notebook_runs_by_hand_and_with_a_trainings_samples(tmp_path, monkeypatch):
    """As JupyterLab runs it: in its own folder, with its default parameters file."""
    monkeypatch.chdir(NOTEBOOK.parent)
    few = {"train_dialogues": 3, "dev_dialogues": 1, "test_dialogues": 1, "bootstrap": 100}
    out = tmp_path / "run"
    first = datasets.load("homeloan", None, "train", 1).dialogues[0]
    line = {"dialogue_id": first.id, "texts": ["none", "candidate: nothing", "ready"]}
    write_jsonl(
        out / "training" / "samples.jsonl",
        [line | {"step": t, "turn": t, "components": [{"rac": t / 2}]} for t in (1, 2)],
    )
    _, pictures = run_here(NOTEBOOK, {"out": str(out), "overrides": few})
    told = json.loads((out / "rewards" / "summary.json").read_text())
    assert told["margin"]["punctual"]["value"] > 0 and told["groups"]["groups_with_spread"] == 1
    assert list(json.loads((out / "rewards" / "probe.json").read_text())["rewards"]) == list(REWARDS)
    probe_table = pd.read_parquet(out / "rewards" / "probe.parquet")
    assert {"opportunity_timing", *REWARDS} <= set(probe_table.reward)
    assert told["groups"]["of"] == "the training's own samples" and told["groups"]["count"] == 2
    assert pictures >= 10
    assert read_json(out / "params.json", Params).train_dialogues == 3


def test_the_notebooks_example_of_a_new_reward_is_true(tmp_path, monkeypatch):
    markdown = "".join(
        "".join(c["source"]) for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "markdown"
    )
    (code,) = re.findall(r"```python\n(.*?)```", markdown, re.DOTALL)
    (tmp_path / "triggered.py").write_text(code)
    spec = importlib.util.spec_from_file_location("triggered", tmp_path / "triggered.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(REWARDS, "triggered", module.Triggered)
    params = load_params(None, {"reward": "triggered"})
    (found,) = scores(make_reward(params), group(RIGHT, WAITING, SILENCE))
    assert [s.value for s in found] == [1, 0, 0]
    assert "triggered" in set(probe.table(CASES, params).reward)


def test_notebook_outputs_are_stripped():
    stored = json.loads(NOTEBOOK.read_text())
    assert not any(c.get("outputs") or c.get("execution_count") for c in stored["cells"])


@pytest.mark.parametrize(("name", "seeds"), [("rewards", {0, 1, 2}), ("rewards-laptop", {0})])
def test_the_ablations_sweep_trains_every_reward_from_the_same_start(name, seeds):
    from proactor_lib.sweep.cells import make_cells
    from proactor_lib.sweep.definition import read_sweep

    cells = make_cells(read_sweep(NOTEBOOK.parents[1] / "params" / "sweeps" / f"{name}.yaml"))
    assert {c.params.reward for c in cells} == set(REWARDS) and {c.params.seed for c in cells} == seeds
    free = {"reward", "ruler_base", "seed"}
    assert len({c.params.model_copy(update=dict.fromkeys(free)).model_dump_json() for c in cells}) == 1
    variants = {questions.full_name(c.params.reward, c.params.ruler_base) for c in cells}
    assert {name for c in questions.CONTRASTS for name in (c.a, c.b)} <= variants


def test_what_no_judge_scored_is_undefined_with_its_count_and_reason(capsys):
    """Into a pipe, with a judge that is not there: whole words, and nothing that looks like a finding."""
    params = load_params(None, {"judge": "none", "judge_url": "http://127.0.0.1:9/v1", "judge_retries": 0})
    table = probe.table(CASES, params)
    outputs = 8 * len(probe.ALL_POLICIES)  # one dialogue of 8 turns
    counts = table.attrs["unscored"]["custom_ruler"]
    assert counts == {"missing": outputs, "outputs": outputs, "unreachable": counts["unreachable"]}
    order = probe.order(table).set_index("reward")
    pairs = [" > ".join(pair) for pair in probe.ORDER]
    assert list(order.loc["custom_ruler", [*pairs, "right"]]) == [None] * 4 and order.loc["rac", "right"] in (
        True,
        False,
    )
    rewards_command._warn(order.to_dict("index"), table.attrs["unscored"])
    rewards_command._show(probe.means(table), "Means")
    out, told = capsys.readouterr()
    assert all(f"custom_ruler: {pair} is undefined" in told for pair in pairs) and "custom_ruler does not" not in told
    assert f"custom_ruler: {outputs} of {outputs} outputs have no score ({counts['unreachable']} unreachable)" in told
    assert "…" not in out and all(policy in out for policy in POLICIES)


def test_a_reward_whose_file_says_nothing_is_listed_by_its_class(monkeypatch):
    """README's example has no docstring but its class's."""
    told = type("Told", (REWARDS["rac"],), {"__doc__": "PT less half of FTR.\n\nMore.", "__module__": "told"})
    monkeypatch.setitem(sys.modules, "told", ModuleType("told"))
    monkeypatch.setitem(REWARDS, "told", told)
    listed = CliRunner().invoke(app, ["rewards", "list", "--json"]).stdout
    assert json.loads(listed)["told"] == "PT less half of FTR."
