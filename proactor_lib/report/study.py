"""A study: does training gain over the best of its opponents? From one small file per run, small enough to commit."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from proactor_lib.errors import UserError
from proactor_lib.files import read_json, write_json
from proactor_lib.metrics import statistics
from proactor_lib.params import Params
from proactor_lib.report.run import read_record
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import Record

TRAINED, OPPONENTS = "trained", "sft"  # the policy that is asked about; what its opponents' names begin with
COLUMNS = ["study", "dataset", "opponent", "seeds", "difference", "low", "high", "above", "verdict"]


class Figures(Record):
    """What a study needs of one run. `primary`: as its summary.json has it, with utilities on dev."""

    study: str  # the parameters' name
    dataset: str
    seed: int
    primary: dict[str, Any]
    dialogues: int  # held out
    minutes: dict[str, float]  # by stage
    commit: str | None
    dirty: bool | None
    machine: dict[str, Any]


def figures(folder: Path) -> Figures:
    """Of a run's folder. UserError where it has no report yet, or none with the opponents' utilities on dev."""
    if not (folder / "summary.json").exists():
        raise UserError(f"{folder} has no summary.json: `proactor report {folder}` writes it")
    params, summary = read_json(folder / "params.json", Params), json.loads((folder / "summary.json").read_text())
    primary, origin = summary["primary"] or {}, read_record(RunFolder(params, folder))["provenance"] or {}
    missing = set(_opponents(primary)) - set(primary.get("dev", ())) or {TRAINED} - set(primary.get("policies", ()))
    if missing:
        raise UserError(f"{folder}: no utility on dev of {', '.join(sorted(missing))}: evaluate with dev at all turns")
    return Figures(
        study=params.name, dataset=params.dataset, seed=params.seed, primary=primary, dialogues=summary["dialogues"],
        minutes={stage: round(s / 60, 2) for stage, s in summary["stage_seconds"].items()},
        commit=origin.get("commit"), dirty=origin.get("dirty"), machine=origin.get("hardware", {}),
    )  # fmt: skip


def keep(runs: Iterable[Path], out: Path) -> list[Path]:
    """One JSON file per run in `out`. Raises as `figures`."""
    written = []
    for found in map(figures, runs):
        written.append(out / f"{found.study}-{found.dataset}-{found.seed}.json")
        write_json(written[-1], found.model_dump(mode="json"))
    return written


def read(folder: Path) -> list[Figures]:
    """All that is kept in a folder, by study, dataset and seed."""
    return sorted((read_json(p, Figures) for p in folder.glob("*.json")), key=lambda f: (f.study, f.dataset, f.seed))


def verdicts(kept: Sequence[Figures]) -> pd.DataFrame:
    """A row per study and dataset, COLUMNS: the trained policy's utility less its best opponent's, on test.

    The opponent is the one with the greatest mean utility on dev, over the seeds that have it, which alone are
    compared: a strong one that ran beside one seed is not forgotten for the others' sake. low, high: the 95% interval
    of Student's t over seeds (NaN for one); above: seeds with a difference above 0.
    """
    groups: dict[tuple[str, str], list[Figures]] = {}
    for found in kept:
        groups.setdefault((found.study, found.dataset), []).append(found)
    return pd.DataFrame([(*key, *_verdict(group)) for key, group in groups.items()], columns=COLUMNS)


def _opponents(primary: dict[str, Any]) -> list[str]:
    return [name for name in primary.get("policies", ()) if name.startswith(OPPONENTS)]


def _verdict(group: list[Figures]) -> tuple[str, int, float, float, float, int, str]:
    dev = pd.DataFrame([{name: f.primary["dev"][name] for name in _opponents(f.primary)} for f in group])
    best = dev.mean().idxmax()
    values = [f.primary["policies"] for f in group if best in f.primary["policies"]]
    differences = np.array([v[TRAINED][0] - v[best][0] for v in values])
    low, high = statistics.t_interval(differences)
    mean, above = float(differences.mean()), int((differences > 0).sum())
    return best, len(values), mean, low, high, above, _said(low, high)


def _said(low: float, high: float) -> str:
    if np.isnan(low):
        return "one seed tells nothing of others"
    return "training gains" if low > 0 else "training loses" if high < 0 else "cannot be told"
