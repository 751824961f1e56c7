"""What a run's steps and the benchmarks' files say of speed."""

import json
from pathlib import Path

import pandas as pd

from proactor_lib.errors import UserError
from proactor_lib.files import read_text

BENCHES = {
    "packing": "proactor bench packing --shape laptop --json",
    "async": "proactor bench async --datasets homeloan --json",
    "learning": "proactor bench learning --data-dir ../shared/data/sgd --json",
    "router": "proactor bench router --json",
    "adaptivity": "proactor bench adaptivity --json",
    "gpu-train": "proactor bench gpu-train --json",
}
LAYOUTS = {"padded": "padded", "trl": "TRL's batcher", "ours": "ours"}


def with_rest(steps: pd.DataFrame) -> pd.DataFrame:
    """Steps with `rest_s`: what a step took besides waiting, training and sync; NaN where its wall time is unknown."""
    return steps.assign(rest_s=(steps.wall_s - steps.rollout_wait_s - steps.train_s - steps.sync_s).clip(lower=0))


def summary(steps: pd.DataFrame) -> pd.Series:
    """Means over steps, in seconds and tokens; shares are of the steps' wall time where that is known."""
    wall = steps.wall_s.fillna(steps.rollout_wait_s + steps.train_s + steps.sync_s).sum()
    return pd.Series({
        "steps": len(steps),
        "seconds a step": wall / len(steps),
        "waiting for rollouts, share": steps.rollout_wait_s.sum() / wall,
        "training, share": steps.train_s.sum() / wall,
        "sync, share": steps.sync_s.sum() / wall,
        "packing, times fewer tokens": steps.tokens_padded.sum() / steps.tokens_packed.sum(),
        "trained tokens a second": steps.tokens_packed.sum() / steps.train_s.sum(),
        "sampled tokens a second": steps.output_tokens.sum() / steps.rollout_s.sum(),
        "groups an hour": 3600 * steps.groups.sum() / wall,
    })  # fmt: skip


def alarms(steps: pd.DataFrame) -> pd.DataFrame:
    """The steps at which an alarm held: step, alarms (comma separated)."""
    if "alarms" not in steps:
        return pd.DataFrame(columns=["step", "alarms"])
    held = steps[steps.alarms.map(bool)]
    return held.assign(alarms=held.alarms.map(", ".join))[["step", "alarms"]].reset_index(drop=True)


def benches(folder: Path | str) -> dict[str, dict]:
    """What the files of the benchmarks in a folder hold, by name. UserError for one that is no JSON object."""
    found = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            found[path.stem] = dict(json.loads(read_text(path)))
        except (ValueError, TypeError):
            raise UserError(f"{path} is not the JSON object that `proactor bench ... --json` prints") from None
    return found


def missing(found: dict[str, dict], folder: Path | str) -> str:
    """Which benchmarks have left nothing, and the commands that would, seen from the project; empty when all have."""
    there = Path(folder).resolve()
    lacking = [f"  {command} > {there}/{name}.json" for name, command in BENCHES.items() if name not in found]
    made = [] if there.exists() else [f"  mkdir -p {there}"]
    return "\n".join(["Not measured yet:", *made, *lacking]) if lacking else ""


def seconds(found: dict[str, dict]) -> dict[str, dict[str, float | None]]:
    """The async benchmark's seconds, by dataset and side."""
    sides = {"seconds_artf": "ART-F", "seconds_trl": "TRL GRPOTrainer", "seconds_sync": "synchronous loop"}
    return {d: {label: got.get(key) for key, label in sides.items()} for d, got in found.get("async", {}).items()}


def tokens(found: dict[str, dict]) -> dict[str, dict[str, float | None]]:
    """The packing benchmark's forwarded tokens, by layout."""
    keys = {"padded": "padded_tokens", "trl": "library_tokens", "ours": "packed_tokens"}
    got = found.get("packing")
    return {"packing": {label: got.get(keys[layout]) for layout, label in LAYOUTS.items()}} if got else {}


def layout_seconds(found: dict[str, dict]) -> dict[str, dict[str, float | None]]:
    """The packing benchmark's seconds of a training step, by layout; empty where no layout was timed."""
    timed = {label: found.get("packing", {}).get(f"{layout}_seconds") for layout, label in LAYOUTS.items()}
    return {"packing": timed} if any(timed.values()) else {}


def learning(found: dict[str, dict]) -> dict[str, pd.DataFrame]:
    """The learning benchmark's mean reward by step, a frame a side (step, reward_mean); empty where it did not run."""
    sides = {"reward_artf": "ART-F", "reward_sync": "synchronous loop"}
    rewards = {label: found["learning"][key] for key, label in sides.items()} if "learning" in found else {}
    return {
        label: pd.DataFrame({"step": range(1, len(values) + 1), "reward_mean": values})
        for label, values in rewards.items()
    }
