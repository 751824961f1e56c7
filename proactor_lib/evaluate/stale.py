"""Predictions that were made of something else than is there now: `evaluate` would ask for them anew."""

import json
from pathlib import Path
from typing import Any

from proactor_lib import provenance
from proactor_lib.evaluate import predictions
from proactor_lib.evaluate.policy_set import PolicySet
from proactor_lib.evaluate.predictions import DEV, TEST
from proactor_lib.evaluate.splits import EvalSplit
from proactor_lib.files import read_text
from proactor_lib.policies import untuned
from proactor_lib.run_folder import RunFolder


def stale(run: RunFolder, split: str = TEST) -> list[str]:
    """The policies whose predictions are of other dialogues, windows or weights than the run has now, or lack some.

    Where it is not known of what they were made, and where their weights are not here, they count as good. A tuned
    policy is as old as the one that it is made of, on dev too.
    """
    names = predictions.policies(run, split)
    if not names:
        return []
    on, adapters = EvalSplit(run, split), PolicySet(run).adapters
    old = {name for name in names if _differs(on, name, adapters) or _lacks(on, name)}
    behind = old.union(stale(run, DEV) if split != DEV and any(map(untuned, names)) else ())
    return [name for name in names if name in old or untuned(name) in behind]


def _differs(on: EvalSplit, name: str, adapters: dict[str, Path | None]) -> bool:
    path = predictions.folder(on.run, on.split) / f"{name}.made.json"
    if not path.exists():
        return False
    made, now = json.loads(read_text(path)), _made_from(on, name, adapters.get(name))
    return any(made[key] != now[key] for key in made.keys() & now.keys())


def _made_from(on: EvalSplit, name: str, adapter: Path | None) -> dict[str, Any]:
    """What can be known here of what `evaluate` would make them from, as it notes it."""
    if own := untuned(name):
        return predictions.tuned_from(on.run, own, on.split)
    weights = adapter and provenance.fingerprint(adapter / "adapter_model.safetensors")
    return on.made_from(name) | ({"adapter": weights} if weights else {})


def _lacks(on: EvalSplit, name: str) -> bool:
    said = {(line.dialogue_id, line.turn) for line in predictions.read(on.run, name, on.split)}
    return any((case.dialogue.id, turn) not in said for case in on.cases for turn in case.turns)
