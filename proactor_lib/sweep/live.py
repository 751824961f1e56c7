"""A sweep while it runs: each cell's state, stage, time left and headline metric, in a terminal, notebook or log."""

import json
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from proactor_lib.progress import FILE
from proactor_lib.sweep.cells import Cell, label, varying
from proactor_lib.sweep.runner import Progress
from proactor_lib.sweep_folder.store import Store
from proactor_lib.sweep_folder.table import read_metrics

LOOKED_AT = 200  # unfinished cells whose marks are read: Ray starts them in order
ORDER = {"runs": 0, "failed": 1, "timeout": 1, "refused": 1, "waits": 2, "done": 3}


@dataclass(frozen=True)
class Row:
    """One cell as the live table shows it; times in seconds."""

    cell: str
    point: str
    state: str  # waits, runs, done, failed, timeout, refused
    stage: str
    elapsed: float | None
    left: float | None
    headline: float | None
    problem: str | None


class View:
    """Rows of a sweep's cells; calling it with the sweep's progress shows them, at most once in `every` seconds."""

    every = 1.0

    def __init__(self, store: Store, headline: str | None, metrics: list[str]):
        self._store, self._headline, self._metrics = store, headline, metrics
        self._shown, self._headlines = 0.0, {}

    def __call__(self, progress: Progress) -> None:
        finished = len(progress.records) == len(progress.cells)
        if finished or time.monotonic() - self._shown >= self.every:
            self._shown = time.monotonic()
            self.show(progress, self.rows(progress))

    def show(self, progress: Progress, rows: list[Row]) -> None:
        """Bring the rows before the reader's eyes."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave what is shown as it is, however the sweep ended."""

    def rows(self, progress: Progress) -> list[Row]:
        """One row per cell, in the sweep's order."""
        usual = median([r["seconds"] for r in progress.records.values() if r.get("seconds")] or [float("nan")])
        waiting = [c.id for c in progress.cells if c.id not in progress.records][:LOOKED_AT]
        names = set(varying(progress.cells))
        return [self._row(c, names, progress, usual if c.id in waiting else None) for c in progress.cells]

    def _row(self, cell: Cell, names: set[str], progress: Progress, usual: float | None) -> Row:
        point = label({k: v for k, v in cell.point.items() if k in names})
        record = progress.records.get(cell.id)
        if record:
            head = self._head(cell.id) if record["state"] == "done" else None
            return Row(cell.id, point, record["state"], "", record["seconds"], None, head, record["problem"])
        mark = self._store.read(self._store.cell(cell.id, "running.json")) if usual is not None else None
        if not mark or mark["started"] < progress.since:
            return Row(cell.id, point, "waits", "", None, None, None, None)
        elapsed, (stage, share) = time.time() - mark["started"], self._stage(cell.id)
        left = max(usual - elapsed, 0.0) if usual == usual else elapsed * (1 - share) / share if share else None
        return Row(cell.id, point, "runs", stage, elapsed, left, None, None)

    def _head(self, id: str) -> float | None:
        if self._headline and id not in self._headlines:
            self._headlines[id] = read_metrics(self._store, id, self._metrics).get(self._headline)
        return self._headlines.get(id)

    def _stage(self, id: str) -> tuple[str, float]:
        """What the cell last said of itself, and the share of it that is done; nothing in an object store."""
        path = self._store.local(self._store.cell(id, FILE))
        if path is None or not path.exists():
            return "", 0.0
        whole = path.read_bytes().rpartition(b"\n")[0].decode()
        if not whole:
            return "", 0.0
        event = json.loads(whole.rpartition("\n")[2])
        return f"{event['stage']} {event['done']:g}/{event['total']:g}", event["done"] / max(event["total"], 1)


def counts(progress: Progress, rows: list[Row]) -> str:
    """`5 of 24 done, 2 run, 1 failed; about 3 min left`."""
    by_state = [r.state for r in rows]
    done, running = by_state.count("done"), by_state.count("runs")
    failed = len(progress.records) - done
    ran = [r for r in progress.records.values() if r.get("ended", 0) > progress.since]
    said = f"{done} of {len(rows)} done, {running} run, {failed} failed"
    if not ran or len(progress.records) == len(rows):
        return said
    left = (time.time() - progress.since) / len(ran) * (len(rows) - len(progress.records))
    return f"{said}; about {left / 60:.0f} min left" if left > 90 else f"{said}; about {left:.0f} s left"


def shown(value: Any) -> str:
    """A number of the table, or nothing."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


class Lines(View):
    """A line for each cell that ends: for logs."""

    def __init__(self, *args):
        super().__init__(*args)
        self._told: set[str] = set()

    def show(self, progress: Progress, rows: list[Row]) -> None:
        """Tell of the cells that have ended since the last time."""
        for row in rows:
            if row.state in ("waits", "runs") or row.cell in self._told:
                continue
            self._told.add(row.cell)
            if progress.records[row.cell].get("ended", 0) > progress.since:
                about = row.problem or (f"{self._headline} {row.headline:.4g}" if row.headline is not None else "")
                spent = "" if row.elapsed is None else f" in {row.elapsed:.0f} s"
                print(f"{row.cell} {row.point}: {row.state}{spent} {about}".rstrip(), file=sys.stderr, flush=True)


class Terminal(View):
    """A table that is drawn over itself; what runs and what failed first, as many rows as fit."""

    def __init__(self, *args):
        from rich.console import Console
        from rich.live import Live

        super().__init__(*args)
        self._live = Live(console=Console(stderr=True), auto_refresh=False)
        self._live.start()

    def show(self, progress: Progress, rows: list[Row]) -> None:
        """Draw the table."""
        from rich.markup import escape
        from rich.table import Table

        fitting = max(self._live.console.height - 6, 5)
        table = Table(title=counts(progress, rows), title_justify="left", expand=True, box=None)
        for name in ("cell", "differs in", "state", "stage", "s", "s left", self._headline or ""):
            table.add_column(name, justify="right" if name in ("s", "s left") else "left", no_wrap=name != "differs in")
        for r in sorted(rows, key=lambda r: ORDER[r.state])[:fitting]:
            times = ["" if t is None else f"{t:.0f}" for t in (r.elapsed, r.left)]
            table.add_row(r.cell, escape(r.point), r.state, r.stage, *times, shown(r.headline))
        self._live.update(table, refresh=True)
        if len(progress.records) == len(rows):
            self.close()

    def close(self) -> None:
        """Leave the table as it is, and give the cursor back."""
        self._live.stop()


class Widget(View):
    """The table in a notebook: `runner.run(..., on_tick=Widget(...))` shows it under the cell."""

    def __init__(self, *args):
        from ipywidgets import HTML

        super().__init__(*args)
        self.html = HTML()

    def show(self, progress: Progress, rows: list[Row]) -> None:
        """Fill the widget; the first call displays it."""
        import pandas as pd
        from IPython.display import display

        if not self.html.value:
            display(self.html)
        frame = pd.DataFrame(rows).rename(columns={"headline": self._headline or "headline"}).dropna(axis=1, how="all")
        body = frame.to_html(index=False, na_rep="", float_format="{:.4g}".format, border=0)
        self.html.value = f"<b>{counts(progress, rows)}</b>{body}"
