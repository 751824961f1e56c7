"""A sweep file: a notebook, base parameters, axes, conditions, and what a cell may use."""

import itertools
import math
import random
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import jinja2
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from proactor_lib.errors import UserError
from proactor_lib.files import first_error, shipped
from proactor_lib.schema import LocalPath
from proactor_lib.yaml_text import read_yaml

Values = Annotated[list[Any], Field(min_length=1)]
Point = dict[str, Any]  # parameter -> value


class Part(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Draw(Part):
    """How one parameter is drawn: uniformly from [low, high] (`log`: its logarithm), or from `choices`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False  # round to a whole number
    choices: Values | None = None

    @model_validator(mode="after")
    def _one_way(self):
        ranged = self.low is not None and self.high is not None
        if ranged == (self.choices is not None):
            raise ValueError("a draw needs either low and high, or choices")
        if ranged and not (0 < self.low <= self.high if self.log else self.low <= self.high):
            raise ValueError(f"a draw needs low <= high (and low > 0 with log), got {self.low} and {self.high}")
        return self

    def value(self, dice: random.Random) -> Any:
        """One draw."""
        if self.choices is not None:
            return dice.choice(self.choices)
        drawn = (
            math.exp(dice.uniform(math.log(self.low), math.log(self.high)))
            if self.log
            else dice.uniform(self.low, self.high)
        )
        return round(drawn) if self.integer else float(f"{drawn:.4g}")


class RandomAxis(Part):
    """`count` points drawn with `seed`: the same file gives the same points."""

    count: Annotated[int, Field(ge=1)]
    seed: int = 0
    draw: Annotated[dict[str, Draw], Field(min_length=1)]

    def drawn(self) -> list[Point]:
        """The points."""
        dice = random.Random(self.seed)
        return [{name: draw.value(dice) for name, draw in self.draw.items()} for _ in range(self.count)]


class Axes(Part):
    """What varies. A cell is one point of every part here, combined with all points of the others."""

    grid: dict[str, Values] = {}  # every value with every other
    zip: list[dict[str, Values]] = []  # in each group the values move together
    points: list[Point] = []  # written out
    random: RandomAxis | None = None
    seeds: int | Values | None = None  # a number n: seeds 0 to n - 1; or the seeds

    @model_validator(mode="after")
    def _consistent(self):
        if isinstance(self.seeds, int) and self.seeds < 1:
            raise ValueError(f"seeds: a number of at least 1, or a list of seeds, got {self.seeds}")
        for group in self.zip:
            if len({len(values) for values in group.values()}) > 1:
                raise ValueError(f"the values that zip moves together differ in number: {', '.join(group)}")
        names = [n for part in self.parts() for n in {name for point in part for name in point}]
        if twice := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"{sorted(twice)[0]!r} varies in two parts of the axes")
        return self

    def parts(self) -> list[list[Point]]:
        """The points of each part."""
        seeds = range(self.seeds) if isinstance(self.seeds, int) else self.seeds
        parts = [[{name: v} for v in values] for name, values in self.grid.items()]
        parts += [[dict(zip(g, vs, strict=True)) for vs in zip(*g.values(), strict=True)] for g in self.zip]
        parts += [self.points] if self.points else []
        parts += [self.random.drawn()] if self.random else []
        return parts + ([[{"seed": s} for s in seeds]] if seeds is not None else [])

    def combined(self) -> list[Point]:
        """All combinations, in order."""
        return [{k: v for part in chosen for k, v in part.items()} for chosen in itertools.product(*self.parts())]


class Sweep(Part):
    """A sweep file. Paths in it are relative to it."""

    name: str
    question: str = ""
    notebook: LocalPath
    params: LocalPath | None = None  # the base parameters' file
    set: Point = {}  # over the base, the same for every cell
    axes: Axes = Axes()
    where: list[str] = []  # conditions that a cell must meet, e.g. "reward != 'rac' or seed == 0"
    cpus: Annotated[float, Field(ge=0)] = 1  # of a cell
    gpus: Annotated[float, Field(ge=0)] = 0
    retries: Annotated[int, Field(ge=0)] = 1  # of a cell that fails; a user's mistake is not tried again
    time_limit: Annotated[float, Field(gt=0)] | None = None  # seconds of an attempt
    cpu_hour_price: float | None = None  # in any currency; for the column `cost`
    gpu_hour_price: float | None = None
    metrics: list[str] = ["summary.json", "rewards/summary.json"]  # JSON files that a cell leaves in its folder
    headline: str | None = None  # the metric that the live table and the report put first
    show: list[str] = []  # the metrics of the report's table; none: the headline and what varies
    meanings: dict[str, str] = {}  # what a metric is, in a line for the report's reader

    def chosen(self, names: dict[str, Any], place: str) -> bool:
        """Whether a cell with these parameter values meets all conditions. UserError, naming `place`, if one fails."""
        return all(_holds(c, names, place) for c in self.where)


def read_sweep(path: Path) -> Sweep:
    """The file as a Sweep, its paths resolved. UserError names the file, the key, the value and what is accepted."""
    path = shipped(path)
    try:
        sweep = Sweep.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(f"{path}: {first_error(error)}; accepted keys: {', '.join(Sweep.model_fields)}") from None
    here = Path(path).resolve().parent
    given = sweep.params and (here / sweep.params).resolve()
    return sweep.model_copy(update={"notebook": (here / sweep.notebook).resolve(), "params": given})


@lru_cache
def _sandbox() -> SandboxedEnvironment:
    return SandboxedEnvironment(undefined=jinja2.StrictUndefined)


def _condition(text: str):
    return _sandbox().compile_expression(text, undefined_to_none=False)


def _holds(text: str, names: dict[str, Any], place: str) -> bool:
    try:
        return bool(_condition(text)(**names))
    except (TypeError, ValueError, ArithmeticError, LookupError, jinja2.TemplateError) as error:
        raise UserError(f"{place}: condition {text!r}: {error}") from None


def check_condition(text: str, known: set[str]) -> None:
    """UserError if the condition is not an expression over known names."""
    try:
        unknown = find_undeclared_variables(_sandbox().parse("{{ " + text + " }}")) - known
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"condition {text!r} is not an expression: {error.message}") from None
    if unknown:
        raise UserError(f"condition {text!r} names {sorted(unknown)[0]!r}, which is no parameter")
