"""A run from end to end: the numbered notebooks in order, each in its own process, a finished one skipped.

`run.json` in the run folder remembers what was done: a stage's state, its time, its memory, and a digest of all that it
was made from (parameters and the files that they name, the notebook, the code, the stage before).
"""

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from proactor_lib import models, notebook, processes, provenance
from proactor_lib.errors import UserError
from proactor_lib.files import home, read_text, shipped, write_json
from proactor_lib.params import FILLED, WHERE, Params, load_params
from proactor_lib.run_folder import RunFolder

MAIN_JOB = ("01", "02", "03", "04")


def notebooks_folder() -> Path:
    """`notebooks/` in the working directory, else those that came with the package. UserError when neither is there."""
    for folder in (Path("notebooks"), home() / "notebooks"):
        if folder.is_dir():
            return folder.resolve()
    raise UserError(
        "no folder notebooks/ here: run this in a clone of the project, or name the folder with --notebooks"
    )


def numbered(folder: Path) -> dict[str, Path]:
    """The folder's notebooks whose names begin with two digits, by these, in order."""
    return {m[1]: p for p in sorted(folder.glob("*.ipynb")) if (m := re.match(r"(\d\d)_", p.name))}


def find(folder: Path, stages: tuple[str, ...] = MAIN_JOB) -> list[Path]:
    """The notebooks of these numbers, in order. UserError for a number that none has."""
    by_number = numbered(folder)
    if missing := [s for s in stages if s not in by_number]:
        raise UserError(f"no notebook {missing[0]}_*.ipynb in {folder}; accepted: {', '.join(by_number) or 'none'}")
    return [by_number[s] for s in sorted(set(stages))]


@dataclass(frozen=True)
class Stage:
    """What `run.json` says of a notebook.

    Over attempts seconds add up, also after a change of code, for what was made before is not made again; memory is the
    highest.
    """

    state: str  # done, failed, refused, stopped
    inputs: str  # digest of what it was made from
    code: str  # digest of the package
    seconds: float
    peak_memory_gb: float  # sum of PSS over all processes of the run, this one included
    ended: float  # seconds since the epoch
    problem: str | None = None


class Pipeline:
    """The stages of one run folder."""

    def __init__(
        self,
        params_file: Path,
        out: Path,
        overrides: dict[str, Any],
        notebooks: list[Path],
        execute: notebook.Execute = notebook.execute,
    ):
        """`execute` runs one notebook. Raises UserError for wrong parameters, or other ones than the folder's."""
        from proactor_lib.run import Run, were_deleted

        self.params, self.out, self.notebooks = load_params(params_file, overrides), out.resolve(), notebooks
        self.execute = execute
        self.given = {"params_file": str(shipped(params_file).resolve()), "out": str(self.out), "overrides": overrides}
        for path in notebooks:
            notebook.check_parameters(path, self.given)
        run = Run.open(self.params, self.out)
        self.stages = read_stages(self.out)
        if were_deleted(run):  # all that comes after them is looked at again
            self.stages = {name: replace(stage, inputs="") for name, stage in self.stages.items()}
        self._digests = _chain(self._made_from(), list(numbered(notebooks[0].parent).values()))

    def _made_from(self) -> list:
        """All that the stages are made from, the notebooks apart: JSON values."""
        corrections = provenance.fingerprint(RunFolder(self.params, self.out).overlay)
        params = self.params.model_dump(mode="json", exclude=set(WHERE))
        known = [params, _named_files(self.params), provenance.code_digest()]
        return [*known, corrections] if corrections else known

    def executed(self, path: Path) -> Path:
        """Where a notebook's executed copy lies."""
        return self.out / "notebooks" / path.name

    def finished(self, path: Path) -> bool:
        """Whether the notebook was run to its end from the same parameters, notebooks and code."""
        stage = self.stages.get(path.stem)
        same = stage is not None and (stage.state, stage.inputs) == ("done", self._digests[path.stem])
        return same and self.executed(path).exists()

    def run(self, path: Path, on_tick: Callable[[], None] = lambda: None) -> Stage:
        """Execute the notebook and remember how it went; `on_tick` is called a few times a second."""
        start = time.monotonic()
        try:
            outcome = self.execute(path, self.executed(path), self.given, on_tick=on_tick)
        except BaseException:
            self._remember(path, "stopped", time.monotonic() - start, 0.0, None)
            raise
        own = processes.pss_bytes([psutil.Process()]) / 1e9
        return self._remember(path, outcome.state, outcome.seconds, outcome.peak_memory_gb + own, outcome.problem)

    def _remember(self, path: Path, state: str, seconds: float, peak: float, problem: str | None) -> Stage:
        before, inputs = self.stages.get(path.stem), self._digests[path.stem]
        if before:
            seconds, peak = seconds + before.seconds, max(peak, before.peak_memory_gb)
        stage = Stage(state, inputs, provenance.code_digest(), seconds, peak, time.time(), problem)
        self.stages[path.stem] = stage
        write_json(self.out / "run.json", self.record())
        return stage

    def record(self) -> dict:
        """What `run.json` holds."""
        return {
            "stage_seconds": {name: round(s.seconds, 1) for name, s in sorted(self.stages.items())},
            "peak_memory_gb": round(max((s.peak_memory_gb for s in self.stages.values()), default=0.0), 2),
            "stages": {name: asdict(s) for name, s in sorted(self.stages.items())},
            "provenance": {**provenance.collect(), "inputs": _named_files(self.params)},
        }


def read_stages(out: Path) -> dict[str, Stage]:
    """The stages that `run.json` remembers; none where it is not there."""
    path = out / "run.json"
    if not path.exists():
        return {}
    try:
        return {name: Stage(**stage) for name, stage in json.loads(read_text(path))["stages"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not what `proactor run` writes: delete it to run all stages again") from None


def _named_files(params: Params) -> dict[str, str | None]:
    """Digests of the files and folders that parameters name as inputs, those of `adapters` one by one.

    The model is among them where it is a folder.
    """
    one_by_one = {f"{k}.{name}": path for k, v in params if isinstance(v, dict) for name, path in v.items()}
    named = {k: v for k, v in {**dict(params), **one_by_one}.items() if isinstance(v, Path) and k not in FILLED}
    weights = models.folder_fingerprint(params.model)
    return {k: provenance.fingerprint(v) for k, v in named.items()} | ({"model": weights} if weights else {})


def _chain(made_from: list, notebooks: list[Path]) -> dict[str, str]:
    """Each notebook's digest of inputs, that of the notebook before it included."""
    last = json.dumps(made_from, sort_keys=True)
    digests = {}
    for path in notebooks:
        last = digests[path.stem] = hashlib.sha256(f"{last}{notebook.digest(path)}".encode()).hexdigest()[:12]
    return digests
