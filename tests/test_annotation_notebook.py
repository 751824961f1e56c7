"""Notebook 01: headless on a domain that nobody planned for, and by hand in a real browser in a real JupyterLab."""

import json
from pathlib import Path

from proactor_lib import datasets
from proactor_lib.annotate.oracle_run import failures_path
from proactor_lib.params import load_params
from proactor_lib.run import Run
from proactor_lib.schema import Window
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from support.fake_endpoint import FakeEndpoint, Reply
from support.notebooks import run_here
from support.truthful_oracle import Truthful
from support.zoo import write_zoo

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "01_annotation.ipynb"
SMOKE = ROOT / "params" / "smoke.yaml"


def execute(tmp_path, overrides):
    given = {"params_file": str(SMOKE), "out": str(tmp_path / "run"), "overrides": overrides}
    text, pictures = run_here(NOTEBOOK, given)
    return Run.open(load_params(SMOKE, overrides), tmp_path / "run"), text, pictures


def test_it_runs_headless_on_a_domain_that_nobody_planned_for(tmp_path):
    run, text, pictures = execute(tmp_path, write_zoo(tmp_path / "zoo"))
    assert [len(run.dialogues(s)) for s in ("train", "dev", "test")] == [2, 2, 2]
    feed, gate = run.references("dev")[0].references
    assert feed.window == Window(open=2, ready=2, close=3) and feed.params["animal"].turn == 2
    assert gate.window == Window(open=5, ready=5, close=5) and gate.observed_turn == 5
    assert run.truth("dev") is None and "Explorer" in text and pictures


def test_it_runs_headless_with_an_oracle_and_leaves_failed_dialogues_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))
    smoke = load_params(SMOKE)
    sizes = {s: getattr(smoke, f"{s}_dialogues") for s in ("train", "dev", "test")}
    loaded = [datasets.load("homeloan", None, s, limit=n, max_turns=50, seed=0, log=False) for s, n in sizes.items()]
    answers = Truthful([d for c in loaded for d in c.dialogues], [t for c in loaded for t in c.truth])
    bad = loaded[0].dialogues[1].id
    with FakeEndpoint(lambda r, n: answers(r) if answers.dialogue(r)[0].id != bad else Reply('{"ver')) as server:
        oracle = {"annotator": "oracle", "oracle_url": server.url, "oracle_model": "m", "homeloan_log": False}
        run, text, _ = execute(tmp_path, oracle)
    assert len(run.dialogues("train")) == len(run.references("train")) == sizes["train"] - 1
    assert list(run.failed("train")) == [bad] and bad in text and "not JSON" in run.failed("train")[bad]
    assert failures_path(run.annotations / "train.jsonl").exists() and not run.failed("dev")
    windows = [[r.window for r in line.references] for line in run.references("dev")]
    assert [sorted(w, key=str) for w in windows] == [
        sorted((r.window for r in t.references), key=str) for t in run.truth("dev")
    ]


# in a browser


def by_hand(out):
    """The notebook as a user who opened it would set it up: the smoke parameters, and a folder."""
    opened = json.loads(NOTEBOOK.read_text())
    (parameters,) = [c for c in opened["cells"] if "parameters" in c["metadata"].get("tags", ())]
    parameters["source"] = f"params_file = {str(SMOKE)!r}\nout = {str(out)!r}\noverrides = {{}}"
    return opened


def handles(browser, name):
    """The handles of the slider that `name` describes."""
    path = f"//div[contains(@class, 'widget-slider')][label[text()='{name}']]//div[contains(@class, 'noUi-handle')]"
    return browser.find_elements(By.XPATH, path)


def test_a_window_is_moved_in_the_browser_and_the_overlay_shows_it(tmp_path, jupyterlab, browser):
    opened = by_hand(tmp_path / "run")
    wait = jupyterlab.open(browser, opened)
    wait.until(lambda b: len(handles(b, "open, close")) == 2)
    run = Run.open(load_params(SMOKE), tmp_path / "run")
    before = next(line for line in run.annotated("dev") if line.references)
    first = before.references[0]
    close = handles(browser, "open, close")[1]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", close)
    ActionChains(browser).drag_and_drop_by_offset(close, 60, 0).perform()
    wait.until(lambda b: run.overlay.exists())
    line = json.loads(run.overlay.read_text().splitlines()[-1])
    moved = first.window.model_dump() | {"close": line["window"]["close"]}
    assert (line["dialogue_id"], line["name"], line["window"]) == (before.dialogue_id, first.name, moved)
    assert moved["close"] > first.window.close + 1  # as far as it was dragged
    wait.until(lambda b: "written to" in b.page_source)
    assert "pa-selected" in browser.page_source
    after = {r.id: r.window for r in run.references("dev")[run.annotated("dev").index(before)].references}
    assert after[first.id] == Window(**moved)
