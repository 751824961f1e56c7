"""ART-F against two synchronous loops: the same model, adapter, dialogues, turns, K and optimiser steps, one run.

`OUT/<dataset>/start` holds what all sides share, `OUT/<dataset>/<side>` a side's run, `<side>.json` its result: a bench
that was killed goes on with the sides that are missing.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from proactor_lib import models, processes
from proactor_lib.bench import isolated
from proactor_lib.errors import UserError
from proactor_lib.files import read_text, write_json
from proactor_lib.params import load_params
from proactor_lib.run import Run, annotate_run, prepare_data

SIDES = ("artf", "trl", "sync", "grouped")
_CHILD = "proactor_lib.bench.sides"

# What a shape sets of a run's parameters; `full`: every turn of a dialogue, K = 8.
SHAPES = {
    "full": {"max_completion_tokens": 48, "sft_steps": 30, "num_generations": 8, "turns_per_dialogue": 0},
    "medium": {"max_completion_tokens": 48, "sft_steps": 8, "num_generations": 8, "turns_per_dialogue": 5},
    "turns8": {"max_completion_tokens": 48, "sft_steps": 50, "sft_learning_rate": 2e-3, "learning_rate": 1e-4,
               "num_generations": 4, "turns_per_dialogue": 0, "max_turns": 8, "train_dialogues": 60},
    "tiny": {"max_completion_tokens": 6, "sft_steps": 1, "num_generations": 2, "turns_per_dialogue": 2,
             "sft_dialogues_per_step": 1, "train_dialogues": 2, "model": models.TINY, "quantization": "none",
             "max_num_seqs": 8, "max_context": 4096},
}  # fmt: skip


def benchmark(out: Path, dataset: str, data_dir: Path | None, sides: tuple[str, ...], shape: str, steps: int,
              overrides: dict | None = None, spread: bool = True) -> dict:  # fmt: skip
    """`steps`, and for every side `seconds_<side>` of that many optimiser steps and its whole record.

    `spread`: every group trains (see sides.Spread). UserError for an unknown side or shape, for a side that fails, and
    if two sides did not start from the same weights and data.
    """
    _accept("side", sides, SIDES)
    _accept("shape", (shape,), SHAPES)
    given = {"dataset": dataset, "data_dir": data_dir and str(data_dir), "max_steps": steps, **SHAPES[shape]}
    start = _start(out / "start", given | (overrides or {}))
    found = {side: _result(side, start, out, spread) for side in sides}
    if len({result["same"] for result in found.values()}) > 1:
        raise UserError(
            f"{out}: the sides did not start from the same weights and data; delete the folder, and begin again"
        )
    measured = {"steps": steps, **{f"seconds_{side}": result["seconds"] for side, result in found.items()}}
    ratios = {f"{s}_over_artf": round(r["seconds"] / found["artf"]["seconds"], 2)
              for s, r in found.items() if "artf" in found and s != "artf"}  # fmt: skip
    return measured | ratios | {"sides": found}


def _accept(what: str, names: tuple[str, ...], known) -> None:
    if unknown := set(names) - set(known):
        raise UserError(f"{what} {min(unknown)!r}: there is none of that name; accepted: {', '.join(known)}")


def _start(folder: Path, given: dict) -> Run:
    """Data, references and the warm start that all sides share."""
    run = Run.open(load_params(None, DEFAULTS | given | _cores("start")), folder)
    if not (run.annotations / "train.jsonl").exists():
        prepare_data(run, splits=("train",))
        annotate_run(run, splits=("train",))
    if not (run.training / "sft").exists():
        isolated.call(_CHILD, "start", str(folder), "plain", log=folder / "log.txt")
    return run


DEFAULTS = {
    "train_dialogues": 24,
    "max_context": 4096,
    "sft_dialogues_per_step": 1,
    "dialogues_per_step": 1,
    "learning_rate": 5e-5,
    "token_budget": 4096,
    "save_steps": 1000,
    "kv_cache_gb": 1.0,
}


def _cores(side: str) -> dict:
    """ART-F splits the machine's cores between server and trainer; a synchronous loop gives all to whoever works."""
    cores = range(processes.cores())
    half = max(1, len(cores) // 2)
    if side == "artf":
        return {"trainer_cores": _listed(cores[:half]), "server_cores": _listed(cores[half:] or cores)}
    return {"trainer_cores": _listed(cores), "server_cores": _listed(cores)}


def _listed(cores: Sequence[int]) -> str:
    return ",".join(map(str, cores))


def _result(side: str, start: Run, out: Path, spread: bool) -> dict:
    """The side's record; measured now, if it is not there."""
    kept = out / f"{side}.json"
    if not kept.exists():
        run = open_side(side, start, out / side)
        mode = "spread" if spread else "plain"
        write_json(kept, isolated.call(_CHILD, side, str(run.out), mode, log=run.out / "log.txt"))
    return json.loads(read_text(kept))


def open_side(side: str, start: Run, folder: Path) -> Run:
    """A side's run folder with the shared data and warm start; what a killed measurement left there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    own = {"start_from": start.training / "sft", "sft_steps": 0, "max_staleness": 1 if side == "artf" else 0}
    run = Run.open(start.params.model_copy(update=own | _cores(side)), folder)
    for part in ("data", "references"):
        shutil.copytree(start.out / part, folder / part)
    if side == "trl":
        shutil.copytree(start.training / "sft", run.training / "sft")
    return run
