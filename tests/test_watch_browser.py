"""The watch widget in a real browser: a dialogue is replayed by clicks, and one is typed."""

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from support.runs import opened

SOURCE = """
from proactor_lib.params import Params
from proactor_lib.files import read_json
from proactor_lib.run import Run
from proactor_lib.widgets import Watch
from pathlib import Path
Watch.of(Run(read_json(Path({out!r}) / "params.json", Params), Path({out!r})))
"""


def notebook(out):
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": None, "outputs": [],
            "source": SOURCE.format(out=str(out))}  # fmt: skip
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def press(browser, text):
    browser.find_element(By.XPATH, f"//button[contains(., '{text}')][contains(@class, 'jupyter-button')]").click()


def choose(browser, name, value):
    path = f"//div[contains(@class, 'widget-dropdown')][label[text()='{name}']]//select"
    Select(browser.find_element(By.XPATH, path)).select_by_visible_text(value)


def shown(browser):
    return " ".join(e.text for e in browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output"))


def test_a_dialogue_is_replayed_and_another_typed(tmp_path, jupyterlab, browser):
    run = opened(tmp_path / "run")
    dialogue, needed = run.dialogues("test")[0], run.references("test")[0].references
    wait = jupyterlab.open(browser, notebook(run.out))
    wait.until(lambda b: b.find_elements(By.XPATH, "//button[contains(., 'next turn')]"))
    press(browser, "next turn")
    wait.until(lambda b: f"[1] {dialogue.turns[0].speaker}: {dialogue.turns[0].text}" in shown(b))
    last_ready = max(r.window.ready for r in needed)
    for turn in range(2, last_ready + 1):
        press(browser, "next turn")
        wait.until(lambda b, turn=turn: f"[{turn}] " in shown(b))
    late = next(r for r in needed if r.window.ready == last_ready)
    w = late.window
    assert f"ready {late.name}(" in shown(browser)
    assert f"in its window {w.open}-{w.close}, ready from {w.ready}" in shown(browser)
    assert browser.find_elements(By.CSS_SELECTOR, "td.pa-ready")
    choose(browser, "dialogue", "type one")
    choose(browser, "agent", "first_action")
    box = browser.find_element(By.CSS_SELECTOR, "input[placeholder='what is said']")
    box.send_keys("I need a loan", "\t")
    press(browser, "say")
    wait.until(lambda b: "[1] customer: I need a loan" in shown(b))
    wait.until(lambda b: f"ready {run.catalog.actions[0].name}()" in shown(b))
