"""What is wrong with a training run while it runs: said in the log when it begins and when it ends, and in each line.

`drift`: trainer and servers hold different weights; `collapse`: no group has variance, so there is nothing to learn
from; `unscored`: most outputs get no score, as when the judge is down.
"""

import logging
import statistics
from collections import deque

from proactor_lib.errors import ProcessError

log = logging.getLogger(__name__)

WINDOW = 3  # steps
KL_LIMIT = 0.01  # nats a token, mean over steps without stale samples; a matched trainer and server have 0.002
STALE_KL_LIMIT = 0.1  # the same of stale samples, whose policy is a few steps older; a guess, not measured
UNSCORED_LIMIT = 0.5  # of the outputs
GIVE_UP = 20  # steps in a row with `unscored`, after which a run that learns nothing ends


class Alarms:
    """Called with each step's line (training_log.step_line), in order; gives the names of the alarms that hold."""

    def __init__(self):
        self._lines: deque[dict] = deque(maxlen=WINDOW)
        self._kl: dict[bool, deque[float]] = {stale: deque(maxlen=WINDOW) for stale in (False, True)}
        self._held: dict[str, str] = {}
        self._in_vain = 0

    def __call__(self, line: dict) -> list[str]:
        self._lines.append(line)
        if line.get("kl") is not None:  # None: nothing was trained
            self._kl[line["staleness"] > 0].append(line["kl"])
        found = {name: said for name, said in self._all() if said}
        for name in found.keys() - self._held.keys():
            log.warning("step %d: %s: %s", line["step"], name, found[name])
        for name in self._held.keys() - found.keys():
            log.info("step %d: %s is over", line["step"], name)
        self._held = found
        return sorted(found)

    def give_up(self) -> None:
        """Called after each step of this process. ProcessError where `unscored` has held at GIVE_UP steps in a row."""
        self._in_vain = self._in_vain + 1 if "unscored" in self._held else 0
        if self._in_vain >= GIVE_UP:
            said = f"{GIVE_UP} steps in a row learnt nothing: {self._held['unscored']}"
            raise ProcessError(f"{said} The same command goes on from the last checkpoint")

    def _all(self):
        yield "drift", drift(self._kl[False], KL_LIMIT, "without") or drift(self._kl[True], STALE_KL_LIMIT, "with")
        yield "collapse", collapse(self._lines)
        yield "unscored", unscored(self._lines)


def drift(kl: deque[float], limit: float, samples: str) -> str:
    """Whether the mean of the last steps' KL (nats a token) is above the limit; samples: `with` or `without` stale."""
    mean = statistics.fmean(kl) if len(kl) == WINDOW else 0.0
    if mean <= limit:
        return ""
    return f"KL {mean:.3g} nats a token over {WINDOW} steps {samples} stale samples, limit {limit}: the servers " \
           "hold other weights than the trainer"  # fmt: skip


def collapse(lines: deque[dict]) -> str:
    """Whether no group of the last steps had variance: no gradient."""
    if len(lines) < WINDOW or any(line["groups_skipped"] < line["groups"] for line in lines):
        return ""
    return (
        f"none of the {sum(line['groups'] for line in lines)} groups of {WINDOW} steps has variance: nothing is learnt"
    )


def unscored(lines: deque[dict]) -> str:
    """Whether most outputs of the last step have no score."""
    last = lines[-1]
    if last["outputs_unscored"] <= UNSCORED_LIMIT * last["outputs"]:
        return ""
    return f"{last['outputs_unscored']} of {last['outputs']} outputs have no score; is the judge there?"
