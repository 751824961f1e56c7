"""What trackers have kept. Trackio's database is a folder of the tests, whoever reads or writes it."""

import json
import os
import sqlite3
import tempfile
from pathlib import Path

FOLDER = Path(os.environ.setdefault("TRACKIO_DIR", tempfile.mkdtemp(prefix="trackio-")))


def curves(folder):
    """tag -> [(step, value)] of all event files of a TensorBoard folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def trackio_points(run, name):
    """[(step, value)] of one run's metric in Trackio's database; AssertionError where two runs have that name."""
    with sqlite3.connect(FOLDER / "proactor.db") as database:
        rows = database.execute("select run_id, step, metrics from metrics where run_name = ? order by id", [run])
        lines = [(id, number, json.loads(values)) for id, number, values in rows]
        there = database.execute("select run_name, run_id, count(*) from metrics group by 1, 2").fetchall()
    assert len({id for id, *_ in lines}) == 1, f"{run} among {there}"
    return [(number, values[name]) for _, number, values in lines if name in values]
