"""Gridspace-Stanford Harper Valley, calls of a bank's callers to its agents, in its public raw format.

A folder with `metadata/*.json` and `transcript/*.json` (or `data/` with both), one call each. What the agent submitted
(`agent.responses[].data`) is a logged action at its true moment; it belongs to the last turn that began by then. The
catalog is the bank's eight tasks, with what calls submit beside them. Each segment is a turn, in the words of the
transcribers (`human`) or of the recogniser; noises are nobody's words. A call's id draws its split: there are none.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from proactor_lib.catalog.json_schema import clean
from proactor_lib.datasets import Transcript
from proactor_lib.datasets.conversations import Call, Notices
from proactor_lib.datasets.inferred import completed
from proactor_lib.datasets.raw import parsed, reason
from proactor_lib.errors import UserError
from proactor_lib.schema import Action, Catalog, Dialogue, ObservedAction, Parameter, Turn

log = logging.getLogger(__name__)

KEYS = {"human": "human_transcript", "recogniser": "transcript"}
SPLITS = {"train": range(8), "dev": range(8, 9), "test": range(9, 10)}  # tenths of the calls
TASK = "task_type"
NOISE = re.compile(r"\[[^\]]*\]|<[^>]*>")
ACCOUNTS = {"values": ("checking", "savings")}
CARDS = {"values": ("debit", "credit")}
ADDRESS = {"match": "text"}
# Task -> whether it reads or writes, and what agents submit for it [ours, after the calls].
TASKS: dict[str, tuple[str, dict[str, dict]]] = {
    "get branch hours": ("read", {}),
    "check balance": ("read", {"balance check account type": ACCOUNTS}),
    "replace card": ("write", {"replacement card type": CARDS}),
    "reset password": ("write", {"phone": {}}),
    "order checks": ("write", {"home address": ADDRESS}),
    "pay bill": ("write", {"company name": {}, "company address": ADDRESS, "money amount": {"type": "number"}}),
    "schedule appointment": ("write", {"day": {}, "time": {}}),
    "transfer money": (
        "write",
        {
            "transfer source account": ACCOUNTS,
            "transfer destination account": ACCOUNTS,
            "transfer amount": {"type": "number"},
        },
    ),
}


def read(folder: Path, split: str, transcript: Transcript = "human") -> tuple[Catalog, Iterator[Dialogue]]:
    """The catalog and the split's calls, by id. UserError names the file, and what is missing in it."""
    if split not in SPLITS:
        raise UserError(f"Harper Valley has no split {split!r}; a call's id draws one of: {', '.join(SPLITS)}")
    if transcript not in KEYS:
        raise UserError(f"unknown transcript {transcript!r}; accepted: {', '.join(KEYS)}")
    inner = folder / "data" if (folder / "data").is_dir() else folder
    files = sorted((inner / "metadata").glob("*.json"))
    if not (files and (inner / "transcript").is_dir()):
        raise UserError(f"{folder} is not Harper Valley's folder: it has no metadata/*.json beside transcript/*.json")
    submitted = {path: _submitted(path) for path in files}
    made = catalog([call for calls in submitted.values() for _, call in calls])
    chosen = (path for path in files if tenth(path.stem) in SPLITS[split])
    found = (_read(path, inner / "transcript" / path.name, submitted[path], KEYS[transcript]) for path in chosen)
    return made, filter(None, found)


def tenth(id: str) -> int:
    """Which tenth of the calls the id belongs to, from 0: the same whatever else is in the folder."""
    return int(hashlib.sha256(f"harper {id}".encode()).hexdigest(), 16) % 10


def catalog(calls: Sequence[Call]) -> Catalog:
    """The bank's tasks; what `calls` submit beside these is optional."""
    actions = [
        Action(
            name=clean(task),
            description=task,
            effect=effect,
            params=tuple(Parameter(name=clean(p), description=p, required=True, **how) for p, how in params.items()),
        )
        for task, (effect, params) in TASKS.items()
    ]
    return Catalog(domain="harper", actions=completed(actions, calls, Notices(), {a.name for a in actions}))


def _submitted(path: Path) -> list[tuple[float, Call]]:
    """What the agent submitted, each with its moment in seconds since 1970."""
    try:
        calls = []
        for response in parsed(path)["agent"]["responses"]:
            data = {k: v for k, v in (response.get("data") or {}).items() if v not in (None, "")}
            if TASK in data:
                values = {clean(k): v for k, v in data.items() if k != TASK}
                calls.append((response["submit_time_ms"] / 1000, Call(clean(data[TASK]), values)))
            else:
                log.warning("%s: a response without a %s is left out", path, TASK)
        return calls
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is not Harper Valley's metadata of a call: {reason(error)}") from None


def _read(metadata: Path, transcript: Path, submitted: list[tuple[float, Call]], key: str) -> Dialogue | None:
    """The call; None, with a line in the log, where nobody speaks or what was said is missing."""
    if not transcript.exists():
        log.warning("%s is left out: %s is not there", metadata, transcript)
        return None
    try:
        origin = parsed(metadata)["start_time_ms"] / 1000
        segments = sorted(parsed(transcript), key=lambda s: (s["start_timestamp_ms"], s["index"]))
        turns = tuple(turn for s in segments if (turn := _turn(s, key, origin)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{transcript} is not Harper Valley's transcript of a call: {reason(error)}") from None
    if not turns:
        log.warning("%s is left out: nobody speaks in it", transcript)
        return None
    observed = tuple(_observed(call, time - origin, turns) for time, call in submitted)
    return Dialogue(id=f"harper-{metadata.stem}", domain="harper", turns=turns, observed=observed)


def _turn(segment: dict, key: str, origin: float) -> Turn | None:
    """The segment as a turn, in seconds from the call's start; None where it has no words."""
    text = " ".join(NOISE.sub(" ", segment[key] or "").split())
    start = max(0.0, segment["start_timestamp_ms"] / 1000 - origin)
    end = start + segment["duration_ms"] / 1000
    return Turn(speaker=segment["speaker_role"], text=text, start=round(start, 3), end=round(end, 3)) if text else None


def _observed(call: Call, time: float, turns: Sequence[Turn]) -> ObservedAction:
    turn = max(1, sum(t.start <= time for t in turns))
    return ObservedAction(turn=turn, name=call.name, params=call.arguments, time=round(max(0.0, time), 3))
