"""A rank of a smoke run whose servers are a test's own: `python ranks_job.py OUT PORT`; see test_ranks.

Before it the recorded steps of ddp_step, in OUT/recorded: starting two ranks takes twenty processor-seconds.
"""

import logging
import sys
from contextlib import nullcontext
from pathlib import Path

import ddp_step
from proactor_lib.artf.serving.server import Server
from proactor_lib.artf.training import ranks, train
from proactor_lib.cli.train import _leave
from proactor_lib.params import load_params
from proactor_lib.run import Run


def main(out: Path, port: int) -> None:
    import signal

    import torch

    signal.signal(signal.SIGTERM, _leave)
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    train.serve = lambda *_, **__: Server(model="", log_path=out / "training" / "server.log", port=port)
    with ranks.group(gpu=False):
        ddp_step.main(out / "recorded")
        train.ranks.group = lambda gpu: nullcontext()  # they have met
        train.train(Run(load_params(out / "params.json"), out))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
