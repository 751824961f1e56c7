"""The ablation report: 24 cells in a real browser, what is missing or failed, comparisons."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from proactor_lib import notebook, report
from proactor_lib.errors import UserError
from proactor_lib.files import shipped
from proactor_lib.params import Params
from proactor_lib.report import ablation, comparison, notebook_html, render, tables, text
from proactor_lib.sweep.cells import make_cells
from proactor_lib.sweep.definition import read_sweep
from proactor_lib.sweep.runner import describe
from proactor_lib.sweep_folder.store import Store
from proactor_lib.sweep_folder.table import collect

from support.notebooks import write_notebook
from support.pages import asked_for, leave
from support.runs import make_run
from support.sweeps import write_sweep

DRAWN = """import pandas as pd
import matplotlib.pyplot as plt
from IPython.display import HTML, display
display(pd.DataFrame({"metric": ["AC"], "value": [0.125]}))
display(HTML("<table><tr><td>kept</td></tr></table><script>window.evil = 1</script><img src='http://example.org/x.png'>"))
plt.plot([1, 2, 3])"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A notebook with a table, a figure and hostile HTML, really executed."""
    folder = tmp_path_factory.mktemp("drawn")
    source = write_notebook(folder / "n.ipynb", DRAWN)
    node = nbformat.read(source, 4)
    node.cells.insert(0, nbformat.v4.new_markdown_cell("# A **story** <script>window.evil = 2</script>"))
    nbformat.write(node, source)
    assert notebook.execute(source, folder / "done.ipynb", {}).state == "done"
    return folder / "done.ipynb"


def make_sweep(folder, drawn, shift=0.0, **values):
    """A sweep's folder of 2 x 3 rewards and 4 seeds, as its workers leave it; a reward adds 0.1, a seed some noise."""
    folder.mkdir(parents=True)
    axes = {"grid": {"reward": ["rac", "max_rac"], "epsilon": [0.1, 0.2, 0.3]}, "seeds": 4}
    path = write_sweep(folder, **{"axes": axes, "headline": "score", "question": "Which one?"} | values)
    sweep, store = read_sweep(path), Store(folder / "out")
    cells = make_cells(sweep, path)
    store.write("sweep.json", describe(sweep, cells))
    for i, cell in enumerate(cells):
        score = 0.5 + shift + 0.1 * (cell.params.reward == "max_rac") + 0.01 * ((i * 7) % 5)
        record = {"state": "done", "problem": None, "seconds": 61.0 + i, "cpus": 1, "gpus": 0, "attempts": 1}
        store.write(store.cell(cell.id), record | {"peak_memory_gb": 0.2, "id": cell.id})
        store.write(store.cell(cell.id, "summary.json"), {"score": [score, score - 0.1, score + 0.1], "tau": i / 100})
        shutil.copy(drawn, folder / "out" / "cells" / cell.id / "notebook.ipynb")
    return folder / "out"


@pytest.fixture(scope="module")
def swept(tmp_path_factory, drawn):
    return make_sweep(tmp_path_factory.mktemp("swept") / "a", drawn)


def test_24_cells_in_a_browser(swept, browser):  # noqa: F811
    path = report.build(swept)
    assert path.stat().st_size < render.LIMIT_BYTES
    browser.get(path.resolve().as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return window.evil") is None
    hidden = "return [...document.images].filter(i => !(i.complete && i.naturalWidth > 50)).length"
    assert browser.execute_script(hidden) == 0
    text = browser.execute_script("return document.body.innerText")
    found = collect(swept)
    assert len(found) == 24
    for row in found.to_dict("records"):
        line = f"{row['cell']}\t{row['reward']}\t{row['epsilon']}\t{row['seed']}\tdone\t{render.number(row['score'])}"
        assert line in text
    assert "24 of 24" in text and "Which one?" in text and "A story" in text and "kept" in text and "0.125" in text
    assert len(browser.find_elements("css selector", "details img")) == 24


def test_the_page_asks_for_nothing(swept, browser):  # noqa: F811
    """As it opens: notebooks folded, no console line, no request, every figure that is in view drawn."""
    path = report.build(swept)
    assert not re.search(r"""<[^>]*\s(src|href)=["'](?!data:|\#)""", path.read_text())  # in tags, not in shown code
    leave(browser)
    browser.get(path.resolve().as_uri())
    assert browser.get_log("browser") == []
    assert asked_for(browser) == [path.resolve().as_uri()]


def test_a_link_opens_the_notebook_of_its_cell(swept, browser):  # noqa: F811
    path = report.build(swept)
    browser.get(path.resolve().as_uri())
    link = browser.find_element("css selector", "#cells a")
    target = link.get_attribute("href").partition("#")[2]
    browser.get(f"{path.resolve().as_uri()}#{target}")
    assert browser.execute_script(f"return document.getElementById('{target}') !== null")


def test_tests_are_paired_and_said(swept):
    report.build(swept)
    summary = json.loads((swept / "summary.json").read_text())
    [reward] = [p for p in summary["pairs"] if p["factor"] == "reward" and p["metric"] == "score"]
    assert (reward["value"], reward["against"], reward["pairs"]) == ("max_rac", "rac", 4)  # seeds: 12 cells share four
    assert reward["verdict"] == "unclear" and reward["p"] == 0.125  # the least that four can give
    assert 0.08 < reward["low"] < reward["difference"] < reward["high"] < 0.12
    epsilon = [p for p in summary["pairs"] if p["factor"] == "epsilon" and p["metric"] == "score"]
    assert [p["pairs"] for p in epsilon] == [4, 4] and {p["against"] for p in epsilon} == {0.1}
    assert len(summary["means"]) == 6 and all(m["cells"] == 4 for m in summary["means"])


def test_what_came_of_it_is_said_in_sentences(swept):
    text = re.sub(r"<[^>]+>", "", report.build(swept).read_text())
    assert "reward: the data do not tell max_rac from rac." in text
    assert "Tests rest on at most 4 pairs: with so few, no p can fall below 0.12" in text
    assert "epsilon: the data do not tell 0.2 and 0.3 from 0.1." in text


def test_cells_of_one_seed_share_its_luck():
    """Three epsilons of a seed differ by the same: that is one difference, and the interval is that of the seeds."""
    by_seed = [0.0, 0.1, 0.3, 0.2]
    cells = [
        ("done", reward, epsilon, seed, by_seed[seed] * (reward == "b"))
        for reward in "ab" for epsilon in (0.1, 0.2, 0.3) for seed in range(4)
    ]  # fmt: skip
    table = pd.DataFrame(cells, columns=["state", "reward", "epsilon", "seed", "utility"])
    table.attrs = {"parameters": ["reward", "epsilon", "seed"], "metrics": ["utility"]}
    row = ablation.paired(table, ["utility"]).set_index("factor").loc["reward"]
    assert (row.pairs, row.difference, row.verdict) == (4, pytest.approx(0.15), "unclear")
    assert (row.low, row.high) == pytest.approx((-0.0554, 0.3554), abs=1e-3)  # 3.182 times 0.1291 / 2
    table.loc[table.seed > 0, "utility"] = float("nan")  # one seed knows it
    means = ablation.over_seeds(table.assign(utility_low=0.1, utility_high=0.2), ["utility"])
    assert means.utility.notna().all() and means.utility_low.isna().all()


def test_the_same_difference_twice_tells_nothing():
    table = pd.DataFrame(
        [("done", f, n, n / 10 + 0.1 * (f == "b")) for f in "ab" for n in range(3)],  # 0.1, rounding apart
        columns=["state", "factor", "seed", "utility"],
    )
    table.attrs = {"parameters": ["factor", "seed"], "metrics": ["utility"]}
    (row,) = ablation.paired(table, ["utility"]).to_dict("records")
    assert (row["pairs"], row["verdict"]) == (3, "unclear") and pd.isna(row["low"])


def told(*differences):
    """What is said of b against a, paired over seeds."""
    cells = [("done", f, n, d * (f == "b")) for f in "ab" for n, d in enumerate(differences)]
    table = pd.DataFrame(cells, columns=["state", "factor", "seed", "score"])
    table.attrs = {"parameters": ["factor", "seed"], "metrics": ["score"]}
    (found,) = text.effects(ablation.paired(table, ["score"]), "score")
    return found


def test_higher_or_lower_is_said_where_test_and_interval_agree():
    """0.01 seven times and 1 once: of 256 signs two are as far out (p 0.008), t(7) 2.365 times 0.12375 is 0.293."""
    assert told(*[0.01] * 7, 1.0) == (
        "factor: b is told from a by the test, not by its interval (difference 0.134, −0.159 to 0.426)."
    )
    assert told(*[-0.1, -0.2] * 4) == "factor: b is lower than a by 0.150 (0.105 to 0.195)."
    assert told(0.1, -0.1, 0.2) == "factor: the data do not tell b from a."


@pytest.mark.parametrize("values, said", [([4, 8], "8 is higher than 4"), ([False, True], "true is higher than false")])
def test_whole_numbers_and_truth_values_are_told_as_a_params_file_writes_them(values, said):
    cells = [("done", v, n, 0.1 * (v == values[1]) * (1 + n / 100)) for v in values for n in range(8)]
    table = pd.DataFrame(cells, columns=["state", "factor", "seed", "score"])
    table.attrs = {"parameters": ["factor", "seed"], "metrics": ["score"]}
    (found,) = text.effects(ablation.paired(table, ["score"]), "score")
    assert found.startswith(f"factor: {said} by 0.10")


def test_metrics_are_explained_by_the_sweep_file_or_the_glossary():
    found = text.meanings(["score", "held_out.trained.pt", "tau"], {"score": "How good it is."})
    assert found["score"] == "How good it is." and found["held_out.trained.pt"].startswith("Proactive timing")
    assert "tau" not in found


def test_what_failed_and_what_is_missing_comes_first(tmp_path, drawn):
    out = make_sweep(tmp_path / "s", drawn)
    first, second = list((out / "cells").iterdir())[:2]
    record = json.loads((first / "cell.json").read_text())
    (first / "cell.json").write_text(json.dumps(record | {"state": "failed", "problem": "the kernel died"}))
    (second / "cell.json").unlink()
    text = report.build(out).read_text()
    warned = text.partition('class="warnings"')[2].partition("</section>")[0]
    assert "1 of 24 cells failed" in warned and "the kernel died" in warned and "1 of 24 cells have not run" in warned


def test_pictures_of_notebooks_share_what_the_page_may_hold(drawn):
    whole, none = notebook_html.render(drawn, 10_000_000), notebook_html.render(drawn, 100)
    assert "data:image/png" in whole and "data:image/png" not in none and "left out" in none
    assert "<script" not in whole and "<img src='http" not in whole


def test_two_sweeps_compared(swept, tmp_path, drawn, browser):  # noqa: F811
    other = make_sweep(tmp_path / "b", drawn, shift=0.05, set={"max_steps": 7})
    path = report.compare(swept, other)
    text = check_page_without_figures(browser, path)
    assert "all\tscore\t0.570\t0.620\t0.050" in text.replace("\n", "")  # the means, and each cell's shift
    assert "max_steps" in text and "unclear" in text  # four seeds; of 12 cells each


def test_two_sweeps_metrics_are_corrected_for_their_number():
    """Six differences of one sign: p is 2/64 for each metric, of two metrics 4/64 by Holm."""
    differences = pd.Series([0.1, 0.11, 0.12, 0.13, 0.14, 0.15])
    both = pd.DataFrame({"x a": 0.0, "x b": differences, "y a": 1.0, "y b": 1 + differences})
    one, two = comparison._sweep_rows(both, ["x"])[0], comparison._sweep_rows(both, ["x", "y"])[:2]
    assert (one["p_holm"], one["verdict"], one["pairs"]) == (2 / 64, "higher", 6)
    assert [(r["p_holm"], r["verdict"]) for r in two] == [(4 / 64, "unclear")] * 2
    both = pd.DataFrame({"x a": [0.1, 0.1, 0.9], "x b": [0.2, 0.2, None]})  # the last is left out of both means
    (row,) = comparison._sweep_rows(both, ["x"])[:1]
    assert [row["a"], row["b"], row["difference"]] == pytest.approx([0.1, 0.2, 0.1])


def check_page_without_figures(browser, path):  # noqa: F811
    leave(browser)
    browser.get(path.resolve().as_uri())
    assert browser.get_log("browser") == []
    return browser.execute_script("return document.body.innerText")


def test_two_runs_compared(tmp_path, browser):  # noqa: F811
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", reward="rac")
    path = report.compare(a.out, b.out)
    text = check_page_without_figures(browser, path)
    assert "adaptive_metric\trac" in text  # the parameter that differs
    assert "same" in text  # the same predictions on the same dialogues
    longer = make_run(tmp_path / "c", test_dialogues=7)
    assert "untested" in report.compare(a.out, longer.out).read_text()


@pytest.mark.parametrize("rule, tested", [({"execution_price": 1.0}, True), ({"theta": 0.5}, False)])
def test_what_follows_from_other_rules_is_not_tested(tmp_path, rule, tested):
    """The same predictions: their utility is lower by the price alone, which touches no other metric."""
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", **rule)
    found = comparison._runs(a.out, b.out)
    assert f"They were scored by other rules ({next(iter(rule))})" in found["warnings"][0] and not found["dialogues"]
    rows = {r["metric"]: r for r in found["rows"] if r["key"] == "random"}
    assert (rows["utility"]["verdict"], rows["utility"]["pairs"], rows["utility"]["low"]) == ("", 0, None)
    assert (rows["ac"]["verdict"], rows["ac"]["pairs"]) == (("same", 6) if tested else ("", 0))


def test_runs_without_a_common_policy_have_no_rows():
    a, b = (SimpleNamespace(scores={name: None}) for name in ("p", "q"))
    assert comparison._held_out_rows(a, b, True, (), Params()) == []


def test_sweeps_that_other_rules_scored_are_not_tested():
    differences = pd.Series([0.1, 0.11, 0.12, 0.13, 0.14, 0.15])
    both = pd.DataFrame({f"{m} {side}": differences * (side == "b") for m in ("x", "p.utility") for side in "ab"})
    told = lambda *rules: [r["verdict"] for r in comparison._sweep_rows(both, ["x", "p.utility"], rules)[:2]]  # noqa: E731
    assert told() == ["higher"] * 2 and told("execution_price") == ["higher", "untested"]
    assert told("theta") == ["untested"] * 2


def test_a_run_is_not_compared_with_a_sweep(swept, tmp_path):
    run = make_run(tmp_path / "a")
    with pytest.raises(UserError, match="two runs can be compared, or two sweeps"):
        report.compare(run.out, swept)


def test_a_parameter_that_is_null_in_some_cells_is_a_factor_like_others(tmp_path, drawn):
    axes = {"grid": {"reward": ["rac"], "epsilon_high": [None, 0.28, 0.3]}, "seeds": 4}
    out = make_sweep(tmp_path / "s", drawn, axes=axes)
    first = next((out / "cells").iterdir())
    record = json.loads((first / "cell.json").read_text()) | {"state": "failed", "problem": "the kernel died"}
    (first / "cell.json").write_text(json.dumps(record))
    page, found = report.build(out).read_text(), collect(out)
    assert "nan" not in page.partition('id="cells"')[2].partition("<details")[0].lower()
    assert page.count('<p class="warnings">') == 1  # the failed cell's
    means = ablation.over_seeds(found, ["score"])
    assert list(means.epsilon_high) == ["null", "0.28", "0.3"] and means.cells.sum() == 11
    tested = ablation.paired(found, ["score"])
    assert set(tested.value) == {"0.28", "0.3"} and set(tested.against) == {"null"}
    assert [h for h in tables.rows(means)[0]] == ["epsilon_high", "cells", "score"]


def test_the_study_that_is_shipped_has_a_report(tmp_path, drawn):
    """One of its corpora has a folder, the other none."""
    axes = read_sweep(shipped(Path("params/sweeps/study.yaml"))).axes.model_dump(exclude_none=True)
    report.build(make_sweep(tmp_path / "s", drawn, axes=axes | {"seeds": 2}))


def test_utility_is_outside_holms_family_in_sweeps_too():
    """Four differences of one sign: a sign-flip test gives 1/8 at least, an interval excludes 0."""
    cells = [("done", f, n, 0.1 * (f == "b") + 0.001 * n * (f == "b")) for f in "ab" for n in range(4)]
    table = pd.DataFrame(cells, columns=["state", "factor", "seed", "held_out.trained.utility"])
    table["held_out.trained.pt"] = table["held_out.trained.utility"]
    table.attrs = {"parameters": ["factor", "seed"], "metrics": list(table)[3:]}
    found = ablation.paired(table, list(table)[3:]).set_index("metric")
    utility, pt = (found.loc[f"held_out.trained.{name}"] for name in ("utility", "pt"))
    assert (utility.verdict, pt.verdict, pt.p_holm) == ("higher", "unclear", pt.p)


def test_where_turns_were_sampled_no_dialogue_has_a_utility(tmp_path):
    a, b = (make_run(tmp_path / name, evaluation_turns=3) for name in "ab")
    for file in (file for run in (a, b) for file in run.predictions.glob("*.jsonl")):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if json.loads(line)["turn"] <= 3))
    assert "Dialogue by dialogue" not in report.compare(a.out, b.out).read_text()
    whole = make_run(tmp_path / "c"), make_run(tmp_path / "d")
    assert "Dialogue by dialogue" in report.compare(*(run.out for run in whole)).read_text()
