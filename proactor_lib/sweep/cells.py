"""The cells of a sweep: checked before anything runs, and named by what they are."""

import difflib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proactor_lib import models, notebook, provenance
from proactor_lib.errors import UserError
from proactor_lib.params import FILLED, Params, read_layers, validate
from proactor_lib.rewards.params import SERVE
from proactor_lib.sweep.definition import Point, Sweep, check_condition

RUNNER_GIVES = ("params_file", "out", "overrides")


@dataclass(frozen=True)
class Cell:
    """One execution of the sweep's notebook. Equal parameters, notebook and code give an equal id."""

    id: str  # 12 hex digits
    point: Point  # what the axes gave it
    params: Params
    own: Point  # parameters of the notebook's own parameters cell, as given
    defaults: Point  # all of that cell's, as they stand there

    @property
    def values(self) -> Point:
        """All parameters by name, as JSON."""
        return {**self.params.model_dump(mode="json"), **self.defaults, **self.own}


def make_cells(sweep: Sweep, source: Path | str = "the sweep") -> list[Cell]:
    """The sweep's cells in the order of its axes, each once. UserError, naming `source` and the point, on a mistake."""
    defaults = notebook.parameters(sweep.notebook)
    known = set(defaults) - set(RUNNER_GIVES)
    base = read_layers(sweep.params) if sweep.params else {}
    for condition in sweep.where:
        check_condition(condition, known | set(Params.model_fields))
    salt = [notebook.digest(sweep.notebook), provenance.code_digest()]
    cells = {}
    for point in sweep.axes.combined():
        where = f"{source}, {label(point)}" if point else str(source)
        cell = _make_cell({**base, **sweep.set, **point}, point, defaults, known, salt, where)
        if sweep.chosen(cell.values, where):
            cells.setdefault(cell.id, cell)
    if not cells:
        raise UserError(f"{source}: no cell is left; its conditions rule out every point of its axes")
    return list(cells.values())


def _make_cell(values: Point, point: Point, defaults: Point, known: set[str], salt: list[str], where: str) -> Cell:
    own = {k: _typed(k, v, defaults[k], where) for k, v in values.items() if k in known}
    ours = {k: v for k, v in values.items() if k not in known}
    if ours and "overrides" not in defaults:
        name = next(iter(ours))
        near = difflib.get_close_matches(name, known, n=1)
        accepted = f"did you mean {near[0]!r}?" if near else f"its parameters cell has: {', '.join(known) or 'none'}"
        raise UserError(f"{where}: unknown parameter {name!r}; {accepted}")
    params = _absolute(validate(ours, where))
    identity = json.dumps([_contents(params), own, *salt], sort_keys=True, default=str)
    stand = {k: v for k, v in defaults.items() if k in known}
    return Cell(hashlib.sha256(identity.encode()).hexdigest()[:12], point, params, own, stand)


def label(point: Point) -> str:
    """`reward=rac, seed=0`."""
    return ", ".join(f"{k}={v}" for k, v in point.items())


def _typed(name: str, value: Any, default: Any, where: str) -> Any:
    """The value, if it is of the default's type (whole numbers are numbers too); anything where the default is None."""
    number = isinstance(default, float) and type(value) in (int, float)
    if default is None or type(value) is type(default) or number:
        return value
    raise UserError(f"{where}: {name} must be a {type(default).__name__} like {default!r}, got {value!r}")


def _absolute(params: Params) -> Params:
    """Paths as seen from anywhere: a cell may run in another folder."""
    paths = {k: _with_paths(v, Path.resolve) for k, v in params}
    return params.model_copy(update=paths | _model_folders(params))


def _model_folders(params: Params) -> dict[str, str]:
    """The whole paths of models that are named by their folder: elsewhere the same name is one of the hub."""
    named = {"model": params.model}
    named |= {"judge": params.judge} if params.judge_url == SERVE else {}
    named |= {"oracle_model": params.oracle_model} if params.oracle_url == SERVE and params.oracle_model else {}
    own = (models.EMBEDDED, models.TINY)
    return {
        k: str(models.folder(name).resolve()) for k, name in named.items()
        if name not in own and models.folder(name).is_dir()
    }  # fmt: skip


def _contents(params: Params) -> Point:
    """The parameters, with what stands in files and folders in place of where they are; without what a run fills."""
    values = params.model_dump(exclude=set(FILLED))
    values["model"] = models.folder_fingerprint(params.model) or params.model
    return {k: _with_paths(v, provenance.fingerprint) for k, v in values.items()}


def _with_paths(value: Any, of: Callable[[Path], Any]) -> Any:
    """The value with `of` each path in it."""
    if isinstance(value, dict):
        return {k: _with_paths(v, of) for k, v in value.items()}
    return of(value) if isinstance(value, Path) else value


def varying(cells: list[Cell]) -> list[str]:
    """Names of the parameters in which cells differ: the axes' in their order, then others."""
    first = cells[0].values
    names = [*dict.fromkeys(name for c in cells for name in c.point), *first]
    return [n for n in dict.fromkeys(names) if any(c.values.get(n) != first.get(n) for c in cells)]
