"""Does training gain? Runs' figures, their opponent and their verdict, against numbers worked out by hand."""

import json
import math

import pytest
from proactor_lib.errors import UserError
from proactor_lib.files import write_json
from proactor_lib.params import Params
from proactor_lib.plots.summary import over_seeds
from proactor_lib.report import study

from support.figures import readable


def primary(trained, test, dev):
    """A run's primary endpoint: utilities on test and dev of three opponents."""
    names = ("sft", "sft_tuned", "sft_equal_time")
    values = {**dict(zip(names, test, strict=True)), "trained": trained, "base": 0.9}
    return {
        "metric": "utility",
        "price": 0.25,
        "policies": {name: [value, value, value] for name, value in values.items()},
        "against": {n: [trained - values[n], trained - values[n] - 0.1, trained - values[n] + 0.1] for n in names},
        "dev": {**dict(zip(names, dev, strict=True)), "trained": 0.0},
    }


def figures(seed, *utilities, dataset="homeloan"):
    return study.Figures(
        study="s", dataset=dataset, seed=seed, primary=primary(*utilities), dialogues=60, minutes={"03": 12.0},
        commit="c", dirty=False, machine={"cpu": "two cores"},
    )  # fmt: skip


def test_the_opponent_is_the_best_on_dev_over_all_seeds():
    """By mean on dev sft_tuned (0.6) beats sft (0.55); on test sft is the better one, which no choice may see."""
    kept = [figures(0, 0.7, (0.6, 0.5, 0.1), (0.4, 0.5, 0.2)), figures(1, 0.8, (0.7, 0.5, 0.1), (0.7, 0.7, 0.2))]
    row, *others = study.verdicts(kept).to_dict("records")
    assert (row["opponent"], row["seeds"], row["above"]) == ("sft_tuned", 2, 2)
    assert row["difference"] == pytest.approx(0.25)  # 0.2 and 0.3: standard error 0.05, t(1) 12.706
    assert row["low"] == pytest.approx(0.25 - 12.706 * 0.05, abs=1e-3) and row["verdict"] == "cannot be told"
    assert [(r["opponent"], r["best_on_dev"]) for r in others] == [("sft", False), ("sft_equal_time", False)]
    assert others[0]["difference"] == pytest.approx(0.1)  # the others stand below


def test_seeds_and_their_mean_are_drawn_against_each_opponent(tmp_path, cli):
    kept = [figures(0, 0.7, (0.6, 0.5, 0.1), (0.4, 0.5, 0.2)), figures(3, 0.8, (0.7, 0.5, 0.1), (0.7, 0.7, 0.2))]
    drawn = readable(over_seeds(study.by_seed(kept), study.verdicts(kept)))
    chosen, sft, _ = drawn.axes
    assert chosen.get_title("left") == "less sft_tuned, best on dev" and sft.get_title("left") == "less sft"
    values = [line.get_xdata().tolist() for line in chosen.lines if line.get_marker() in ("o", "D")]
    assert values == [pytest.approx([0.2, 0.3]), pytest.approx([0.25])]
    assert [t.get_text() for t in chosen.get_yticklabels()] == ["seed 0", "seed 3", "mean"]
    for found in kept:
        write_json(tmp_path / f"{found.seed}.json", found.model_dump(mode="json"))
    assert cli("study", "--out", tmp_path, "--plots", tmp_path / "drawn").returncode == 0
    assert [p.name for p in (tmp_path / "drawn").iterdir()] == ["s-homeloan.png"]
    mistyped = cli("study", "--out", tmp_path / "typo")
    assert mistyped.returncode == 2 and "typo, which would hold a study's figures" in mistyped.stderr


def test_a_strong_opponent_that_one_seed_has_is_the_one():
    """SFT for the same time ran beside seed 1 alone: 0.9 on dev, and 0.8 on test against the trained policy's 0.7."""
    kept = [figures(0, 0.7, (0.6, 0.5, 0.1), (0.4, 0.5, 0.2)), figures(1, 0.7, (0.6, 0.5, 0.8), (0.4, 0.5, 0.9))]
    for known in (kept[0].primary["policies"], kept[0].primary["dev"]):
        del known["sft_equal_time"]
    row, *_ = study.verdicts(kept).to_dict("records")
    assert (row["opponent"], row["seeds"], row["above"]) == ("sft_equal_time", 1, 0)
    assert row["difference"] == pytest.approx(-0.1) and row["verdict"] == "one seed tells nothing of others"


def test_an_opponent_is_not_strong_for_the_easy_seed_that_it_ran_beside():
    """SFT for the same time has 0.8 on dev at seed 1, where sft_tuned has 0.85; over both seeds sft_tuned has 0.65."""
    kept = [figures(0, 0.7, (0.6, 0.5, 0.1), (0.4, 0.45, 0.2)), figures(1, 0.7, (0.6, 0.5, 0.8), (0.8, 0.85, 0.8))]
    for known in (kept[0].primary["policies"], kept[0].primary["dev"]):
        del known["sft_equal_time"]
    assert list(study.verdicts(kept).opponent) == ["sft_tuned", "sft_equal_time", "sft"]


def test_a_seed_that_was_not_asked_on_dev_leaves_the_others_choice_alone():
    """Seed 0 has one opponent, and need not say. Seed 2 is easy: 0.75 is less than SFT's 0.8 there."""
    kept = [figures(n, 0.7, (0.6, 0.5, 0.1), dev) for n, dev in enumerate([(0,) * 3, (0.4, 0.45, 0), (0.8, 0, 0.75)])]
    lacking = {0: ("sft_tuned", "sft_equal_time"), 1: ("sft_equal_time",), 2: ("sft_tuned",)}
    for seed, name in ((seed, name) for seed, names in lacking.items() for name in names):
        del kept[seed].primary["policies"][name], kept[seed].primary["dev"][name]
    kept[0].primary["dev"].clear()
    assert list(study.verdicts(kept).opponent) == ["sft_tuned", "sft", "sft_equal_time"]
    kept[1].primary["dev"].pop("sft")
    with pytest.raises(UserError, match="'s' on homeloan: no opponent has a utility on dev at all seeds"):
        study.verdicts(kept)


@pytest.mark.parametrize("what, other", [("params", "b"), ("catalog", "b"), ("primary", {"price": 1.0})])
def test_runs_that_differ_are_not_averaged(what, other):
    one, two = (figures(n, 0.7, (0.6, 0.5, 0.1), (0.4, 0.5, 0.2)) for n in range(2))
    one = one.model_copy(update={"params": "a", "catalog": "a"})
    change = {what: two.primary | other if what == "primary" else other}
    with pytest.raises(UserError, match="study 's' on homeloan have other .*s than one another"):
        study.verdicts([one, two.model_copy(update=change)])
    assert len(study.verdicts([one, two])) == 3  # what is not known is not other


def test_a_verdict_is_the_intervals():
    def verdict(*differences):
        kept = [figures(n, 0.5 + d, (0.5, 0.4, 0.4), (0.5, 0.4, 0.4)) for n, d in enumerate(differences)]
        row, *_ = study.verdicts(kept).to_dict("records")
        return row["verdict"], row["above"]

    assert verdict(0.1, 0.11, 0.12) == ("training gains", 3)
    assert verdict(-0.1, -0.11, -0.12) == ("training loses", 0)
    assert verdict(0.1, -0.1, 0.05) == ("cannot be told", 2)
    assert verdict(0.1) == ("one seed tells nothing of others", 1)


def test_each_dataset_has_its_own_row():
    told = (0.7, (0.6, 0.5, 0.1), (0.4, 0.5, 0.2))
    found = study.verdicts([figures(0, *told), figures(0, *told, dataset="sgd")])
    assert list(found.dataset) == ["homeloan"] * 3 + ["sgd"] * 3 and all(map(math.isnan, found.low))
    assert list(found.best_on_dev) == [True, False, False] * 2
    assert study.verdicts([]).empty


def written(folder, summary, **params):
    folder.mkdir()
    (folder / "params.json").write_text(Params(**{"name": "s", "seed": 3} | params).model_dump_json())
    origin = {"commit": "c", "dirty": True, "hardware": {"cpu": "two cores"}}
    (folder / "run.json").write_text(json.dumps({"provenance": origin, "stage_seconds": {}}))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_runs_figures_are_kept_in_one_small_file(tmp_path, cli):
    whole = {"primary": primary(0.7, (0.6, 0.5, 0.1), (0.4, 0.5, 0.2)), "dialogues": 60, "stage_seconds": {"03": 90.0}}
    run = written(tmp_path / "run", whole)
    done = cli("study", str(run), "--out", str(tmp_path / "kept"), "--json")
    assert json.loads(done.stdout)["studies"][0]["opponent"] == "sft_tuned"
    (found,) = study.read(tmp_path / "kept")
    assert (found.seed, found.minutes, found.dirty) == (3, {"03": 1.5}, True)
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["s-homeloan-3.json"]


def test_a_run_without_opponents_on_dev_is_refused(tmp_path):
    told = primary(0.7, (0.6, 0.5, 0.1), (0.4, 0.5, 0.2))
    del told["dev"]["sft_equal_time"]
    run = written(tmp_path / "run", {"primary": told, "dialogues": 60, "stage_seconds": {}})
    with pytest.raises(UserError, match="no utility on dev of sft_equal_time"):
        study.figures(run)
    with pytest.raises(UserError, match=r"has no summary.json: `proactor report"):
        study.figures(tmp_path)


def only(*names, **more):
    """A run's summary with these policies on test, each at 0.1 more than the one before, and none on dev."""
    policies = {name: [0.4 + 0.1 * n] * 3 for n, name in enumerate(names)}
    return {"primary": {"policies": policies, "dev": {}} | more, "dialogues": 60, "stage_seconds": {}}


def test_one_opponent_needs_no_choice_on_dev(tmp_path):
    kept = study.keep([written(tmp_path / "run", only("base", "sft", "trained"))], tmp_path / "kept")
    row, *_ = study.verdicts(study.read(kept[0].parent)).to_dict("records")
    assert (row["opponent"], row["difference"]) == ("sft", pytest.approx(0.1))


@pytest.mark.parametrize(
    "told, said",
    [
        (only("base", "trained"), "evaluated are base, trained; accepted: trained and at least one .* begins with sft"),
        (only("sft", "base"), "evaluated are sft, base; accepted: trained"),
        (only("sft", "trained", reason="turns were sampled"), "the utility is not known: turns were sampled"),
        (only("sft", "sft_tuned", "trained"), "no utility on dev of sft, sft_tuned"),
        (only() | {"primary": None}, "evaluated are none"),
    ],
)
def test_a_run_that_nothing_can_be_compared_in_is_refused(tmp_path, told, said):
    with pytest.raises(UserError, match=said):
        study.keep([written(tmp_path / "run", told)], tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_runs_with_other_parameters_are_not_of_one_study(tmp_path):
    told, out = only("sft", "trained"), tmp_path / "kept"
    study.keep([written(tmp_path / "a", told)], out)
    kept = (out / "s-homeloan-3.json").read_text()
    for n, seed in enumerate((3, 4)):  # over the first one's file, and beside it
        other = written(tmp_path / f"b{n}", told, seed=seed, learning_rate=1e-4)
        with pytest.raises(UserError, match="have other parameters than one another: give one study another name"):
            study.keep([written(tmp_path / f"c{n}", told, seed=5), other], out)
    assert [p.name for p in out.iterdir()] == ["s-homeloan-3.json"]
    assert (out / "s-homeloan-3.json").read_text() == kept
    free = {"seed": 4, "server_cores": "1", "start_from": "elsewhere", "sft_equal_time": True, "policies": ["sft"]}
    study.keep([written(tmp_path / "d", told, **free)], out)
    assert [f.seed for f in study.read(out)] == [3, 4]
    study.keep([other], tmp_path / "elsewhere")


def test_figures_kept_before_there_was_a_digest_are_read(tmp_path):
    told, out = only("sft", "trained"), tmp_path / "kept"
    (path,) = study.keep([written(tmp_path / "a", told)], out)
    before = json.loads(path.read_text())
    assert before.pop("params")
    path.write_text(json.dumps(before))
    study.keep([written(tmp_path / "b", told, seed=4, learning_rate=1e-4)], out)
    assert [bool(f.params) for f in study.read(out)] == [False, True]


def test_what_is_free_are_parameters_and_the_rest_is_in_the_digest():
    assert set(Params.model_fields) >= study.FREE and not study.FREE & {"reward", "max_steps", "theta", "sft_steps"}
    assert study.digest(Params(seed=1, name="x")) == study.digest(Params()) != study.digest(Params(theta=0.5))


def test_two_runs_of_one_seed_are_refused(tmp_path):
    runs = [written(tmp_path / name, only("sft", "trained")) for name in "ab"]
    with pytest.raises(UserError, match="/b and .*/a are both seed 3 of study 's' on homeloan: name one"):
        study.keep(runs, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_figures_that_were_found_once_are_not_replaced_by_a_later_try(tmp_path):
    out = tmp_path / "kept"
    (path,) = study.keep([written(tmp_path / "a", only("sft", "trained"))], out)
    study.keep([tmp_path / "a"], out)  # the same again
    better = only("sft", "base", "trained")
    with pytest.raises(UserError, match=r"s-homeloan-3.json has other figures than .*: delete it if"):
        study.keep([written(tmp_path / "b", better)], out)
    path.unlink()
    study.keep([tmp_path / "b"], out)


def test_a_run_whose_policies_said_it_of_something_else_is_refused(tmp_path, monkeypatch):
    run = written(tmp_path / "a", only("sft", "trained"))
    monkeypatch.setattr(study, "stale", lambda run, split="test": ["base", "sft"])
    with pytest.raises(UserError, match="what sft said is of other dialogues, windows or weights"):
        study.figures(run)


def test_a_sweeps_folder_stands_for_the_cells_that_it_has_now_and_that_are_done(tmp_path):
    """Cells of earlier code stay in its folder; a cell's time is the sweep's, for it has no stages."""
    (tmp_path / "cells").mkdir()
    for name, seed in (("old", 3), ("new", 3), ("failed", 4)):
        cell = written(tmp_path / "cells" / name, only("sft", "trained"), seed=seed)
        (cell / "run.json").unlink()
        state = {"state": "failed" if name == "failed" else "done", "seconds": 90.0}
        (cell / "cell.json").write_text(json.dumps(state))
    (tmp_path / "sweep.json").write_text(json.dumps({"cells": [{"id": "new"}, {"id": "failed"}]}))
    assert [p.name for p in study.keep([tmp_path], tmp_path / "kept")] == ["s-homeloan-3.json"]
    kept = study.read(tmp_path / "kept")
    assert kept[0].minutes == {"cell": 1.5}
    assert study.remarks([tmp_path], kept)[0].startswith("1 of 2 cells of ")


def test_what_runs_of_a_study_ran_on_is_said(tmp_path):
    told = only("sft", "trained")
    kept = [study.figures(written(tmp_path / str(n), told, seed=n)) for n in range(2)]
    assert study.remarks([], kept) == ["s on homeloan ran on c, 2 of 2 with uncommitted changes."]
    clean = [f.model_copy(update={"dirty": False, "commit": "abcdef0123"[n:]}) for n, f in enumerate(kept)]
    assert study.remarks([], clean) == ["s on homeloan ran on abcdef0 and bcdef01."]
    assert study.remarks([], clean[:1]) == []
