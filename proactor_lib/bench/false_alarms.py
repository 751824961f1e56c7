"""What the report says of trainings that cannot teach: each group's rewards are dealt anew to its outputs.

`python -m proactor_lib.bench.false_alarms OUT` trains one in its folder.
"""

import json
import logging
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from proactor_lib.artf.training.rollouts import Crediting, ScoredGroup
from proactor_lib.artf.training.train import train
from proactor_lib.bench import isolated
from proactor_lib.errors import UserError
from proactor_lib.evaluate.policy_set import SFT, TRAINED
from proactor_lib.evaluate.run import ask_on
from proactor_lib.files import read_text
from proactor_lib.params import Params, load_params
from proactor_lib.run import Run

log = logging.getLogger(__name__)
MODULE = "proactor_lib.bench.false_alarms"
QUESTION = "Each group's rewards were dealt anew to its outputs, so that nothing could be learnt: is that said?"


class Shuffled(Crediting):
    """Rewards of the right sizes, to the wrong outputs: on the average no output is better than its neighbours."""

    def scores(self, groups: list[ScoredGroup]) -> list[ScoredGroup]:
        """As Crediting, dealt anew inside each group, by the visit and turn."""
        return [
            replace(g, scores=random.Random(f"{g.visit.session}/{g.turn}").sample(g.scores, len(g.scores)))
            for g in super().scores(groups)
        ]


def benchmark(params: Path | None, seeds: Sequence[int], out: Path, overrides: dict[str, Any]) -> dict:
    """By seed, the trained policy's primary difference from its start, with its interval; `false`: those above 0.

    None where it is not known. A bench that was killed goes on. UserError where the parameters cannot tell, and as a
    run's.
    """
    chosen = [_checked(load_params(params, overrides | {"seed": seed})) for seed in seeds]
    found = {p.seed: _difference(p, out / f"seed-{p.seed}") for p in chosen}
    return {"differences": found, "false": sum(known[1] > 0 for known in found.values() if known)}


def _checked(p: Params) -> Params:
    if not (p.max_steps and (p.sft_steps or p.start_from)):
        raise UserError("a training that cannot teach needs max_steps, and a start: sft_steps or start_from")
    if p.anchor:
        raise UserError("anchor teaches by the references, whatever becomes of the rewards: it must be 0")
    return p.model_copy(update={"question": QUESTION, "name": "no-teaching", "policies": (SFT, TRAINED)})


def _difference(params: Params, out: Path) -> list[float] | None:
    run = Run.open(params, out)
    run.prepare(log.info)
    run.annotate(log.info)
    run.training.mkdir(exist_ok=True)
    isolated.call(MODULE, str(out), log=run.training / "train.log")
    run.evaluate(log=log.info)
    run.report()
    found = json.loads(read_text(out / "summary.json"))["primary"]["against"].get(SFT, [None])
    return None if None in found else found


def main(out: str) -> dict:
    """Train and ask the run in its folder."""
    run = Run.read(Path(out))
    train(run, partial(ask_on, run), crediting=Shuffled)
    return {}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds: the server is stopped
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
