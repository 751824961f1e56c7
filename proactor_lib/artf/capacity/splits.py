"""How a cluster's GPUs are best split between serving and training, and what is gained over the synchronous loop.

The clusters are presets with estimated service times; a file of measured ones takes their place (ServiceTimes as JSON).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from proactor_lib.artf.capacity.fit import Measured, measured
from proactor_lib.artf.capacity.simulate import Forecast, Plan, simulate
from proactor_lib.artf.capacity.workload import PAPER, ServiceTimes, Workload, estimate
from proactor_lib.errors import UserError
from proactor_lib.files import read_json


class GpuCluster(NamedTuple):
    """GPUs of one kind, what one of them takes, and a step's size that suits them."""

    gpus: int  # of a shard
    service: ServiceTimes
    workload: Workload  # of a shard
    shards: int = 1  # of so many equal parts, each with its share of the dialogues, one is simulated
    unit: int = 1  # GPUs of a shard that change sides together


class Check(NamedTuple):
    """A prediction beside what was measured, in seconds over `steps` steps."""

    steps: int
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """(predicted - measured) / measured."""
        return self.predicted_s / self.measured_s - 1


CLUSTERS = {
    "4xH200": lambda: GpuCluster(4, estimate("H200"), PAPER),
    "8xH100": lambda: GpuCluster(8, estimate("H100"), PAPER),
    "64-nodes": lambda: GpuCluster(32, estimate("H100"), PAPER.model_copy(update={"dialogues": 16}), shards=16, unit=4),
}


def cluster(name: str, service: Path | None = None, workload: Path | None = None) -> GpuCluster:
    """A preset by name, with service times and a workload from files where given. UserError for an unknown name."""
    if name not in CLUSTERS:
        raise UserError(f"there is no cluster {name!r}; accepted: {', '.join(CLUSTERS)}")
    made = CLUSTERS[name]()
    return made._replace(
        service=read_json(service, ServiceTimes) if service else made.service,
        workload=read_json(workload, Workload) if workload else made.workload,
    )


def splits(of: GpuCluster, staleness: int = 1, steps: int = 8) -> list[Forecast]:
    """ART-F on each split of the GPUs, by the number of servers, and of a judge's where the workload has one."""
    name, numbers = f"ART-F, staleness {staleness}", range(of.unit, of.gpus, of.unit)
    judges = numbers if of.workload.answer_tokens else [0]
    plans = (
        Plan(n, of.gpus - n - j, staleness, judges=j, name=name) for j in judges for n in numbers if n + j < of.gpus
    )
    return [simulate(of.service, of.workload, plan, steps) for plan in plans]


def fastest(predictions: list[Forecast]) -> Forecast:
    """The one with the shortest step; of equals, the one with fewer servers."""
    return min(predictions, key=lambda p: (round(p.step_s, 3), p.plan.servers))


def loops(of: GpuCluster, steps: int = 8) -> Iterator[Forecast]:
    """The synchronous loop (the same GPUs serve and train in turn; padded samples, then packed rows).

    A judge, where the workload has one, has the number of GPUs for itself that makes the loop fastest.
    """
    for packed in (False, True):
        name = f"synchronous, {'packed' if packed else 'padded'}"
        sizes = range(of.unit, of.gpus, of.unit) if of.workload.answer_tokens else [of.gpus]
        plans = (Plan(n, n, packed=packed, in_turn=True, judges=of.gpus - n, name=name) for n in sizes)
        yield fastest([simulate(of.service, of.workload, plan, steps) for plan in plans])


def compare(of: GpuCluster, staleness: tuple[int, ...] = (0, 1, 2), steps: int = 8) -> pd.DataFrame:
    """The synchronous loops, and ART-F at its fastest split for each staleness; `speedup`: over the padded loop."""
    made = [*loops(of, steps), *(fastest(splits(of, s, steps)) for s in staleness)]
    table = pd.DataFrame([p.as_dict() for p in made])
    return table.assign(speedup=table.step_s.iloc[0] / table.step_s)


def check(out: Path | str, fitted_on: int = 0) -> Check:
    """Fit service times to a run's first steps (0: half of them), predict how long the others took together.

    The others' tokens are given, their seconds are not. UserError for a run with fewer than four steps in one go.
    """
    count = int(measured(out).steps.index[-1]) + 1  # all of them, the cold ones too
    fitted_on = fitted_on or count // 2
    if min(fitted_on, count - fitted_on) < 2:
        raise UserError(f"{out} has {count} steps, at least 4 are needed: train for longer")
    known, rest = measured(out, 0, fitted_on), measured(out, fitted_on)
    walls = rest.steps.wall_s.dropna()
    predicted = len(walls) * predict(known._replace(workload=rest.workload), known.plan.staleness)
    return Check(len(walls), predicted, float(walls.sum()))


def predict(of: Measured, staleness: int, seeds: int = 3) -> float:
    """Seconds a step on the machine and with the servers of a measured run, at another staleness; mean over `seeds`."""
    plan, steps = replace(of.plan, staleness=staleness), 4 * len(of.workload.seen)
    return sum(simulate(of.service, of.workload, plan, steps, seed).step_s for seed in range(seeds)) / seeds
