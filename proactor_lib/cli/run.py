"""`proactor run`: the numbered notebooks in order, headless, with one bar per stage."""

import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from proactor_lib import pipeline, processes
from proactor_lib.cli.options import Settings
from proactor_lib.errors import UserError
from proactor_lib.progress import Event, Tail
from proactor_lib.yaml_text import parse_yaml


def parse_settings(settings: list[str], option: str = "--set") -> dict[str, Any]:
    """`key=value` arguments as overrides; a value is read as YAML. UserError for one without a key or `=`."""
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key.strip() and equals):
            raise UserError(f"{option} {setting!r} is not key=value")
        overrides[key.strip()] = parse_yaml(value, f"{option} {key.strip()}: the value {value!r}")
    return overrides


def run(
    params: Annotated[Path, typer.Option(help="The run's parameters (YAML).")],
    out: Annotated[Path, typer.Option(help="The run's folder; begun work in it goes on.")],
    settings: Settings = [],  # noqa: B006
    stage: Annotated[list[str], typer.Option(help="Run only these: 01, 02, ... (repeat, or with commas).")] = [],  # noqa: B006
    notebooks: Annotated[Path | None, typer.Option(help="The numbered notebooks' folder.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Start although the doctor objects.")] = False,
) -> None:
    """Run the numbered notebooks, headless; the last line is the path of the report."""
    wanted = tuple(s.strip() for item in stage for s in item.split(",")) or pipeline.MAIN_JOB
    found = pipeline.find(notebooks or pipeline.notebooks_folder(), wanted)
    job = pipeline.Pipeline(params, out, parse_settings(settings), found)
    with processes.alone_in(out):
        _ask_the_doctor(job, [path.stem[:2] for path in found if not job.finished(path)], anyway)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left running
        with make_bars([p.stem for p in found]) as bars:
            for path in found:
                _run_stage(job, path, bars)
        if job.finished(found[-1]) and found[-1].stem.startswith(pipeline.MAIN_JOB[-1]):
            from proactor_lib import report

            typer.echo(report.build(out))


def _ask_the_doctor(job: pipeline.Pipeline, stages: list[str], anyway: bool) -> None:
    """UserError with what will fail in these stages, by what this machine alone tells; a warning if `anyway`."""
    from proactor_lib.doctor import examine, this_machine

    rows = examine(job.params, this_machine(job.out), stages, network=False)
    for sentence in filter(None, (row.warning or (anyway and row.problem) for row in rows)):
        typer.echo(f"proactor: {sentence}", err=True)
    if not anyway and (problems := [row.problem for row in rows if row.problem]):
        raise UserError(f"{'; '.join(problems)} (--anyway starts all the same)")


def _run_stage(job: pipeline.Pipeline, path: Path, bars: "Bars") -> None:
    if job.finished(path):
        bars.ended(path.stem, "done before")
        return
    tail = Tail(job.out)
    bars.started(path.stem)
    stage = job.run(path, on_tick=lambda: bars.heard(path.stem, tail.new()))
    bars.ended(path.stem, f"{stage.state} in {stage.seconds:.0f} s, {stage.peak_memory_gb:.1f} GB at the peak")
    if stage.state == "refused":
        raise UserError(f"{path.stem}: {stage.problem}")
    if stage.state != "done":
        typer.echo(f"proactor: {path.stem} {stage.state}: {stage.problem}", err=True)
        raise typer.Exit(1)


def make_bars(stages: list[str]) -> "Bars":
    """Bars on a terminal, lines anywhere else; both on standard error."""
    return RichBars(stages) if sys.stderr.isatty() else Lines()


class Lines:
    """A line when a stage starts, ends, or has gone on for a while."""

    every = 15.0  # seconds

    def __init__(self):
        self._last = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def _say(self, stage: str, text: str) -> None:
        self._last = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')} {stage}: {text}", file=sys.stderr, flush=True)

    def started(self, stage: str) -> None:
        self._say(stage, "started")

    def heard(self, stage: str, events: list[Event]) -> None:
        if events and time.monotonic() - self._last > self.every:
            e = events[-1]
            self._say(stage, f"{e.stage} {e.done:g}/{e.total:g} {e.text}".rstrip())

    def ended(self, stage: str, text: str) -> None:
        self._say(stage, text)


class RichBars:
    """One bar per stage; the running one shows what it does, how far it is and what remains."""

    def __init__(self, stages: list[str]):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), Remaining(), TextColumn("[dim]{task.fields[text]}"), console=Console(stderr=True),
        )  # fmt: skip
        self._tasks = {s: self._progress.add_task(s, total=None, start=False, text="waits") for s in stages}
        self._part: str | None = None

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *_):
        self._progress.stop()

    def started(self, stage: str) -> None:
        self._part = None
        self._progress.start_task(self._tasks[stage])
        self._progress.update(self._tasks[stage], text="starts")

    def heard(self, stage: str, events: list[Event]) -> None:
        for e in events:
            if e.stage != self._part:
                self._progress.reset(self._tasks[stage], total=e.total)
                self._part = e.stage
            text = f"{e.stage} {e.text}".strip()
            self._progress.update(self._tasks[stage], completed=e.done, total=e.total, text=text)

    def ended(self, stage: str, text: str) -> None:
        task = self._tasks[stage]
        total = self._progress.tasks[task].total or 1
        whole = {"completed": total} if text.startswith("done") else {}
        self._progress.update(task, total=total, text=text, **whole)
        self._progress.stop_task(task)


Bars = RichBars | Lines
