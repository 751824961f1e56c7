"""Whether asynchronous training learns what synchronous training learns: mean reward by step, side by side.

Both sides visit the same dialogues in the same order; their samples differ (a seed in a request kills vLLM's CPU
engine), and a step whose groups all lack variance visits one more, so that means over seeds are compared, with an
interval.
"""

from pathlib import Path

import numpy as np

from proactor_lib.bench import asynchronous
from proactor_lib.metrics import statistics

SIDES = ("artf", "sync")
WINDOW = 10  # steps


def benchmark(out: Path, dataset: str, data_dir: Path | None, seeds: int, steps: int, shape: str) -> dict:
    """`compare` of as many seeds' runs, seconds and groups that trained; a killed bench goes on from OUT/seed-N.

    UserError as `asynchronous.benchmark`.
    """
    found = [
        asynchronous.benchmark(out / f"seed-{seed}", dataset, data_dir, SIDES, shape, steps, {"seed": seed}, False)
        for seed in range(seeds)
    ]
    rewards = {side: np.array([run["sides"][side]["reward_mean"] for run in found], dtype=float) for side in SIDES}
    seconds = {f"seconds_{side}": round(sum(run[f"seconds_{side}"] for run in found), 1) for side in SIDES}
    # Groups that trained: were they few, then equal rewards would say nothing.
    trained = {f"trained_{side}": sum(r["sides"][side]["groups"] - r["sides"][side]["groups_skipped"] for r in found)
               for side in SIDES}  # fmt: skip
    return {"seeds": seeds, "steps": steps, **compare(rewards["artf"], rewards["sync"]), **seconds, **trained}


def compare(artf: np.ndarray, sync: np.ndarray) -> dict:
    """Rewards (seeds, steps) of two sides -> their means by step and how far these differ, artf less sync.

    difference: the mean over seeds of their means over steps, with Student's 95% interval over seeds (none for one
    seed); largest: of one step's mean over seeds; largest_of_10: of the mean over that many steps in a row, which
    sampling moves less. A step without a score (NaN) is left out.
    """
    apart = artf - sync
    by_seed = np.nanmean(apart[~np.isnan(apart).all(axis=1)], axis=1)
    interval = statistics.t_interval(by_seed) if len(by_seed) > 1 else None
    by_step = np.nanmean(apart, axis=0)
    width = min(WINDOW, len(by_step))
    smooth = np.convolve(by_step, np.full(width, 1 / width), mode="valid")
    return {
        "difference": round(float(by_seed.mean()), 4),
        "interval": interval and [round(x, 4) for x in interval],
        "largest": round(float(np.nanmax(np.abs(by_step))), 4),
        "largest_of_10": round(float(np.nanmax(np.abs(smooth))), 4),
        "reward_artf": np.nanmean(artf, axis=0).round(4).tolist(),
        "reward_sync": np.nanmean(sync, axis=0).round(4).tolist(),
    }
