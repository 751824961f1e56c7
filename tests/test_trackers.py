"""Events and their listeners: files of ours, plug-ins, and the trackers that follow a run's files."""

import json
import logging
from dataclasses import dataclass

import pandas as pd
import pytest
from proactor_lib import events
from proactor_lib.errors import UserError
from proactor_lib.interop import trackers
from proactor_lib.params import Params
from proactor_lib.run import Run
from proactor_lib.sweep.worker import CELL

from support.runs import make_run, opened, step
from support.trackers import curves, trackio_points


class Noted:
    """A tracker that keeps what it is told."""

    made: list["Noted"] = []

    def __init__(self, about):
        self.about, self.steps, self.tables, self.reports, self.closed = about, [], [], [], False
        Noted.made.append(self)

    def step(self, number, values):
        self.steps.append((number, values["reward_mean"]))

    def table(self, name, rows, number):
        self.tables.append((name, len(rows), number))

    def report(self, path):
        self.reports.append(path.name)

    def flush(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def noted(monkeypatch):
    """The tracker `trackio` keeps what it is told; nothing is open from before."""
    monkeypatch.setattr(Noted, "made", [])
    monkeypatch.setitem(trackers.TRACKERS, "trackio", Noted)
    monkeypatch.setattr(trackers, "_warned", set())
    return Noted.made


def tell(event):
    events.emit(event)


# events


def test_what_a_listener_raises_is_a_warning_once_and_nothing_else(tmp_path, caplog):
    heard = []

    def broken(event):
        heard.append(event)
        raise ValueError("no")

    remove = events.add(broken)
    try:
        for done in (1, 2):
            events.emit(events.Progressed(tmp_path, "sft", done, 2, ""))
    finally:
        remove()
    events.emit(events.Progressed(tmp_path, "sft", 3, 2, ""))
    assert [e.done for e in heard] == [1, 2] and caplog.text.count("a listener of test_trackers failed") == 1
    assert len((tmp_path / "progress.jsonl").read_text().splitlines()) == 3  # ours wrote all the same


def test_outside_code_is_found_by_its_entry_point(monkeypatch, tmp_path, caplog):
    class Point:
        def __init__(self, name, found):
            self.name, self._found = name, found

        def load(self):
            if self._found is None:
                raise ImportError("gone")
            return self._found

    heard = []
    monkeypatch.setattr(events, "entry_points", lambda group: [Point("there", heard.append), Point("lost", None)])
    events._plugins.cache_clear()
    try:
        Run.open(Params(name="told"), tmp_path / "run")
    finally:
        events._plugins.cache_clear()
    assert [(type(e), e.params["name"]) for e in heard] == [(events.RunBegan, "told")]
    assert "the listener lost cannot be loaded (ImportError: gone)" in caplog.text


def test_two_packages_may_call_their_listeners_the_same(monkeypatch, tmp_path):
    class Point:
        name = "listener"

        def __init__(self, found):
            self.load = lambda: found

    heard = []
    points = [Point(lambda event, n=n: heard.append(n)) for n in (1, 2)]
    monkeypatch.setattr(events, "entry_points", lambda group: points)
    events._plugins.cache_clear()
    try:
        events.emit(events.Event(tmp_path))
    finally:
        events._plugins.cache_clear()
    assert heard == [1, 2]


def test_a_listener_that_cannot_be_hashed_may_fail_too(tmp_path, caplog):
    @dataclass
    class Broken:
        def __call__(self, event):
            raise ValueError("no")

    remove = events.add(Broken())
    try:
        events.emit(events.Event(tmp_path))
    finally:
        remove()
    assert "failed (ValueError: no)" in caplog.text


# what trackers are told


def test_a_tracker_gets_steps_with_their_checkpoint_and_a_later_process_goes_on(tmp_path, noted):
    run = make_run(tmp_path / "run", trackers=["trackio"])
    tell(events.Checkpointed(run.out, 10))
    assert noted[0].steps == [(n, step(n)["reward_mean"]) for n in range(1, 11)] and not noted[0].closed
    trackers._open.clear()  # as another process, after a kill
    tell(events.Checkpointed(run.out, 10))
    tell(events.TrainingEnded(run.out))
    assert [n for n, _ in noted[1].steps] == list(range(11, 21)) and noted[1].closed
    assert noted[0].about.id == noted[1].about.id and noted[0].about.config["dataset"] == "homeloan"
    run.report_file.write_text("<p>report</p>")
    for _ in range(2):
        tell(events.Evaluated(run.out, {"trained": {"utility": [0.5, 0.25, None], "ac": [1.0, 1.0, 1.0]}}))
        tell(events.Reported(run.out, run.report_file))
    assert [t for tracker in noted for t in tracker.tables] == [("held_out", 2, 21)]
    assert [r for tracker in noted for r in tracker.reports] == ["report.html"]


def test_a_tracker_is_sent_no_key(tmp_path, noted):
    run = make_run(tmp_path / "run", trackers=["trackio"], judge_headers={"api-key": "sk-1"})
    tell(events.TrainingEnded(run.out))
    assert noted[0].about.config["judge_headers"] == {"api-key": "(hidden)"}


def test_a_cell_of_a_sweep_has_its_group_and_its_name(tmp_path, noted, monkeypatch):
    monkeypatch.setenv(CELL, "smoke/reward-rac")
    run = make_run(tmp_path / "run", trackers=["trackio"])
    tell(events.TrainingEnded(run.out))
    about = noted[0].about
    assert (about.group, about.name) == ("smoke", f"a run-reward-rac-{about.id}")


def test_a_tracker_that_raises_is_a_warning_and_the_others_go_on(tmp_path, noted, monkeypatch, caplog):
    class Broken(Noted):
        def step(self, number, values):
            raise OSError("no connection")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", Broken)
    run = make_run(tmp_path / "run", trackers=["wandb", "trackio"])
    with caplog.at_level(logging.WARNING):
        tell(events.Checkpointed(run.out, 10))
        tell(events.TrainingEnded(run.out))
    assert caplog.text.count("the tracker wandb failed (OSError: no connection); the run goes on") == 1
    assert len(noted[-1].steps) == 20


def test_one_that_is_not_installed_is_one_sentence_before_anything(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="trackers: this needs the package wandb, .* the extra trackers brings it"):
        Run.open(Params(trackers=["wandb"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trackers_may_change_in_a_run_that_has_begun(tmp_path):
    run = opened(tmp_path / "run")
    again = Run.open(run.params.model_copy(update={"trackers": ("tensorboard",)}), run.out)
    assert again.params.trackers == ("tensorboard",)


# the real ones


def test_their_curves_are_those_of_the_metrics_file(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", trackers=["trackio", "tensorboard", "wandb"])
    monkeypatch.setattr(trackers, "_warned", set())
    tell(events.Checkpointed(run.out, 10))
    for (_, _), tracker in sorted(trackers._open.items()):
        tracker.close()
    trackers._open.clear()
    tell(events.TrainingEnded(run.out))
    table = {"trained": {"utility": [0.5, 0.25, None]}}
    tell(events.Evaluated(run.out, table))
    (run.out / "report.html").write_text("<p>report</p>")
    tell(events.Reported(run.out, run.out / "report.html"))
    assert trackers._warned == set() and trackers._open == {}
    wanted = [(n, pytest.approx(step(n)["reward_mean"])) for n in range(1, 21)]
    assert curves(run.out / "tensorboard")["reward_mean"] == wanted
    id = json.loads((run.out / "trackers.json").read_text())["id"]
    assert trackio_points(f"a run-{id}", "reward_mean") == wanted
    held_out = trackio_points(f"a run-{id}", "held_out")
    assert [(n, t["_value"][0]["value"]) for n, t in held_out] == [(21, 0.5)]
    assert {p.name.split("-")[3] for p in (run.out / "wandb").glob("offline-run-*")} == {id}  # -1 in one second


def test_what_a_table_may_hold():
    rows = trackers._held_out({"a": {"utility": [1.0, None, None]}})
    assert isinstance(rows, pd.DataFrame) and rows.policy.tolist() == ["a"] and pd.isna(rows.low[0])
    assert [trackers._is_figure(v) for v in (1, 0.5, True, None, float("nan"), [1])] == [True, True] + [False] * 4
