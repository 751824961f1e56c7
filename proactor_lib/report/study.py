"""A study: does training gain over the best of its opponents? From one small file per run, small enough to commit."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from proactor_lib.errors import UserError
from proactor_lib.evaluate.predictions import DEV
from proactor_lib.evaluate.stale import stale
from proactor_lib.files import read_json, read_text, write_json
from proactor_lib.metrics import statistics
from proactor_lib.params import Params, ServingParams
from proactor_lib.plots.summary import over_seeds
from proactor_lib.report.run import read_record
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import Record
from proactor_lib.sweep_folder.store import Store
from proactor_lib.sweep_folder.table import read_definition

TRAINED, OPPONENTS = "trained", "sft"  # the policy that is asked about; what its opponents' names begin with
COLUMNS = ["study", "dataset", "opponent", "best_on_dev", "seeds", "difference", "low", "high", "above", "verdict"]
# Runs of one study may differ in these: who and where they are, how they are reached, and which opponents they have.
FREE = {
    "name", "question", "seed", "dataset", "data_dir", "overlay", "start_from", "rubric", "judge_cache", "trackers",
    *ServingParams.model_fields, "trainers", "device", "gradient_checkpointing", "save_steps",
    *(f"{role}_{what}" for role in ("oracle", "judge", "policy") for what in ("url", "headers", "key_variable")),
    "judge_concurrency", "judge_timeout", "judge_retries", "judge_prices",
    "policies", "adapters", "sft_equal_time",
}  # fmt: skip


class Figures(Record):
    """What a study needs of one run. `primary`: as its summary.json has it, with utilities on dev."""

    study: str  # the parameters' name
    dataset: str
    seed: int
    params: str | None = None  # `digest` of the run's; none in files that were kept before there was one
    catalog: str | None = None  # the corpus's, by its digest; none in files that were kept before, and without data
    primary: dict[str, Any]
    dialogues: int  # held out
    minutes: dict[str, float]  # by stage
    commit: str | None
    dirty: bool | None
    machine: dict[str, Any]


def digest(params: Params) -> str:
    """Of the parameters that all runs of a study share: those that are not FREE, where they differ from the defaults.

    A parameter that a later version adds changes no digest while it has its default.
    """
    values = params.model_dump(mode="json", exclude=FREE, exclude_defaults=True)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def figures(folder: Path) -> Figures:
    """Of a run's folder. UserError where it has no report yet, no utility or no opponent, where one of several
    opponents has no utility on dev, and where what one of the policies said is not of what the folder has now.
    """
    if not (folder / "summary.json").exists():
        raise UserError(f"{folder} has no summary.json: `proactor report {folder}` writes it")
    params, summary = read_json(folder / "params.json", Params), json.loads(read_text(folder / "summary.json"))
    run = RunFolder(params, folder)
    primary, record = summary["primary"] or {}, read_record(run)
    origin, seconds = record["provenance"] or {}, summary["stage_seconds"] or record["stage_seconds"]
    _refuse_incomparable(folder, primary)
    if old := {TRAINED, *_opponents(primary)} & {*stale(run), *(stale(run, DEV) if primary.get("dev") else ())}:
        raise UserError(
            f"{folder}: what {', '.join(sorted(old))} said is of other dialogues, windows or weights: evaluate"
        )
    return Figures(
        study=params.name, dataset=params.dataset, seed=params.seed, params=digest(params),
        catalog=run.catalog.digest if (run.data / "catalog.json").exists() else None, primary=primary,
        dialogues=summary["dialogues"],
        minutes={stage: round(s / 60, 2) for stage, s in seconds.items()},
        commit=origin.get("commit"), dirty=origin.get("dirty"), machine=origin.get("hardware", {}),
    )  # fmt: skip


def _refuse_incomparable(folder: Path, primary: dict[str, Any]) -> None:
    names, opponents = list(primary.get("policies", ())), _opponents(primary)
    if TRAINED not in names or not opponents:
        raise UserError(
            f"{folder}: the policies evaluated are {', '.join(names) or 'none'}; "
            f"accepted: {TRAINED} and at least one whose name begins with {OPPONENTS}"
        )
    if primary.get("reason"):
        raise UserError(f"{folder}: the utility is not known: {primary['reason']}")
    missing = set(opponents) - set(primary.get("dev", ()))
    if missing and len(opponents) > 1:
        raise UserError(f"{folder}: no utility on dev of {', '.join(sorted(missing))}: evaluate with dev at all turns")


def keep(runs: Iterable[Path], out: Path) -> list[Path]:
    """One JSON file per run in `out`; a sweep's folder stands for its cells that are done.

    Raises as `figures` and `verdicts`, for two runs of one seed, and where other figures of the seed are kept: what was
    found once is not replaced by a later try.
    """
    by_file: dict[Path, tuple[Path, Figures]] = {}
    for run in (run for folder in runs for run in _runs(folder)):
        f = figures(run)
        file = out / f"{f.study}-{f.dataset}-{f.seed}.json"
        if file in by_file:
            other = by_file[file][0]
            raise UserError(f"{run} and {other} are both seed {f.seed} of study {f.study!r} on {f.dataset}: name one")
        by_file[file] = run, f
    _refuse_mixed([*read(out), *(f for _, f in by_file.values())])
    for file, (run, f) in by_file.items():
        if file.exists() and read_json(file, Figures).primary != f.primary:
            raise UserError(f"{file} has other figures than {run}: delete it if these shall stand in their place")
    for file, (_, f) in by_file.items():
        write_json(file, f.model_dump(mode="json"))
    return list(by_file)


def remarks(runs: Iterable[Path], kept: Sequence[Figures]) -> list[str]:
    """What a reader must know beside the verdicts, a sentence each: cells left out, runs of several commits."""
    found = []
    for folder in (folder for folder in runs if (folder / "sweep.json").exists()):
        cells = len(read_definition(Store(folder))["cells"])
        if missing := cells - len(_runs(folder)):
            found.append(f"{missing} of {cells} cells of {folder} are not done: they are left out.")
    for (name, dataset), group in _grouped(kept).items():
        commits = list(dict.fromkeys(f.commit[:7] for f in group if f.commit))
        dirty = sum(bool(f.dirty) for f in group)
        if len(commits) > 1 or dirty:
            changed = f", {dirty} of {len(group)} with uncommitted changes" if dirty else ""
            found.append(f"{name} on {dataset} ran on {' and '.join(commits) or 'no known commit'}{changed}.")
    return found


def _runs(folder: Path) -> list[Path]:
    """A run's folder itself; of a sweep the cells that it has now and that are done, not those of earlier code."""
    if not (folder / "sweep.json").exists():
        return [folder]
    cells, store = read_definition(Store(folder))["cells"], Store(folder)
    done = [c["id"] for c in cells if (store.read(store.cell(c["id"])) or {}).get("state") == "done"]
    return [store.local(store.cell(id, "")) for id in done]


def read(folder: Path) -> list[Figures]:
    """All that is kept in a folder, by study, dataset and seed."""
    return sorted((read_json(p, Figures) for p in folder.glob("*.json")), key=lambda f: (f.study, f.dataset, f.seed))


def verdicts(kept: Sequence[Figures]) -> pd.DataFrame:
    """COLUMNS: the trained policy's utility less an opponent's, on test, over the seeds that have it.

    Of a study on a dataset the first row is the comparison that was chosen: with the opponent that is `best_on_dev`,
    by its mean utility there over its seeds, each less what the opponents of all seeds have at that seed. So a strong
    one that ran beside one seed is not forgotten for the others' sake, nor weak for a seed that was hard. Where there
    is but one, dev need not say. low, high: the 95% interval of Student's t over seeds (NaN for one); above: seeds
    with a difference above 0. UserError where runs of a study on a dataset differ in more than is FREE, in price or in
    catalog, as far as that is kept, and where several opponents share no seed on dev.
    """
    _refuse_mixed(kept)
    rows = [(*key, *row) for key, group in _grouped(kept).items() for row in _compared(group)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _grouped(kept: Iterable[Figures]) -> dict[tuple[str, str], list[Figures]]:
    groups: dict[tuple[str, str], list[Figures]] = {}
    for found in kept:
        groups.setdefault((found.study, found.dataset), []).append(found)
    return groups


def _refuse_mixed(kept: Iterable[Figures]) -> None:
    for (name, dataset), group in _grouped(kept).items():
        told = {
            "parameters": [f.params for f in group],
            "prices": [f.primary.get("price") for f in group],
            "catalogs": [f.catalog for f in group],
        }
        for what, values in told.items():
            if len(set(values) - {None}) > 1:
                raise UserError(
                    f"runs of study {name!r} on {dataset} have other {what} than one another: "
                    "give one study another name, or keep it elsewhere"
                )


def by_seed(kept: Sequence[Figures]) -> pd.DataFrame:
    """study, dataset, opponent, seed, difference, low, high: what `verdicts` rests on, paired over test dialogues."""
    rows = [
        (f.study, f.dataset, name, f.seed, *f.primary["against"][name])
        for f in kept for name in _opponents(f.primary)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["study", "dataset", "opponent", "seed", "difference", "low", "high"])


def draw(kept: Sequence[Figures], folder: Path) -> list[Path]:
    """A figure of each study on each dataset, `<study>-<dataset>.png` in `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds, written = by_seed(kept), []
    for (name, dataset), means in verdicts(kept).groupby(["study", "dataset"], sort=False):
        own = seeds[(seeds.study == name) & (seeds.dataset == dataset)]
        written.append(folder / f"{name}-{dataset}.png")
        over_seeds(own, means).savefig(written[-1], dpi=200)
    return written


def _opponents(primary: dict[str, Any]) -> list[str]:
    return [name for name in primary.get("policies", ()) if name.startswith(OPPONENTS)]


def _compared(group: list[Figures]) -> list[tuple[str, bool, int, float, float, float, int, str]]:
    """The best opponent on dev, then the others, by their values there."""
    dev = pd.DataFrame(
        [{n: f.primary.get("dev", {}).get(n, np.nan) for n in _opponents(f.primary)} for f in group], dtype=float
    )
    asked = dev[dev.notna().any(axis=1)]  # one that had a single opponent need not have been asked there
    shared = asked.columns[asked.notna().all()]
    if len(asked) > 1 and not len(shared):
        raise UserError(
            f"study {group[0].study!r} on {group[0].dataset}: no opponent has a utility on dev at all seeds"
        )
    of_all = dev[shared].mean(axis=1)
    ordered = dev.sub(of_all, axis=0).mean().fillna(-np.inf).sort_values(ascending=False, kind="stable").index
    return [(name, n == 0, *_against(group, name)) for n, name in enumerate(ordered)]


def _against(group: list[Figures], opponent: str) -> tuple[int, float, float, float, int, str]:
    values = [f.primary["policies"] for f in group if opponent in f.primary["policies"]]
    differences = np.array([v[TRAINED][0] - v[opponent][0] for v in values])
    low, high = statistics.paired_interval(differences)
    mean, above = float(differences.mean()), int((differences > 0).sum())
    return len(values), mean, low, high, above, _said(low, high)


def _said(low: float, high: float) -> str:
    if np.isnan(low):
        return "one seed tells nothing of others"
    return "training gains" if low > 0 else "training loses" if high < 0 else "cannot be told"
