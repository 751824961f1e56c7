"""One side of a comparison of training loops, in a process of its own: `python -m proactor_lib.bench.sides SIDE OUT`.

artf: this project's loop, serving and training side by side. sync: OpenPipe ART's order of things (generate all, score
all, then train while serving waits), padded. grouped: the same, the outputs of a turn sharing their prompt. trl: TRL's
GRPOTrainer, which generates with transformers on a CPU. All start from the same adapter and see the same turns.
"""

import hashlib
import json
import logging
import signal
import sys
from pathlib import Path

from proactor_lib.artf.serving.server import Server
from proactor_lib.artf.training.job import Job
from proactor_lib.artf.training.train import reinforce, train
from proactor_lib.artf.training.training_log import read_steps
from proactor_lib.artf.training.warm_start import copy_start_adapter, warm_start
from proactor_lib.bench.isolated import peak_gb
from proactor_lib.params import Params
from proactor_lib.rewards import Group, Reward, Score, make_reward
from proactor_lib.run import Run


class Spread(Reward):
    """The run's reward, moved apart inside each group by at most 0.01: every group trains, on every side [ours].

    For measuring time. Groups without variance would be skipped, and two sides' work would differ by chance.
    """

    name = "spread"

    def __init__(self, params: Params):
        super().__init__(params)
        self._plain = make_reward(params)

    async def score(self, group: Group) -> list[Score]:
        """The plain scores, in hundredths of their order of sampling."""
        plain = await self._plain.score(group)
        return [Score(0.99 * (s.value or 0.0) + 0.01 * i / len(plain), s.components) for i, s in enumerate(plain)]


def run_side(side: str, run: Run, reward: Reward, server: Server | None = None) -> dict:
    """Train the run by that side's loop: seconds (the first request to the last optimiser step), and what was done.

    server: one that holds the run's model; none: one is started, and ended.
    """
    if side == "trl":
        from proactor_lib.bench.trl_grpo import train_with_trl

        done = train_with_trl(Job(run), reward)
    else:
        if server is None:
            train(run, trainer_class=_trainer(side), reward=reward)
        else:
            copy_start_adapter(Job(run))
            reinforce(Job(run), server, trainer_class=_trainer(side), reward=reward)
        done = _summary(run)
    return done | {"peak_gb": round(peak_gb(), 2), "same": same_start(Job(run))}


def _trainer(side: str):
    from proactor_lib.artf.training.trainer import DialogueTrainer
    from proactor_lib.bench import layouts

    if side == "artf":
        return DialogueTrainer
    layouts.register()
    layout = layouts.LAYOUTS["padded" if side == "sync" else "grouped"]

    class Synchronous(DialogueTrainer):
        attention = layout.attention

        def rows(self, samples):
            return layout.rows(samples, self.args.token_budget)

    return Synchronous


def _summary(run: Run) -> dict:
    steps = read_steps(run)
    total = {k: int(steps[k].sum()) for k in ("groups", "groups_skipped", "outputs", "output_tokens")}
    spent = {k: round(float(steps[k].sum()), 2) for k in ("rollout_s", "rollout_wait_s", "train_s", "sync_s")}
    return {
        "seconds": round(float(steps.elapsed_s.iloc[-1]), 2),
        "steps": len(steps),
        **total,
        "tokens_forwarded": int(steps.tokens_packed.sum()),
        **spent,
        "reward_mean": [None if r != r else r for r in steps.reward_mean.astype(float)],
    }


def same_start(job: Job) -> str:
    """A digest of what every side must share: dialogues, references, the base model and the adapter it starts from."""
    digest = hashlib.sha256(Path(job.base, "config.json").read_bytes())
    weights = [*sorted(Path(job.base).glob("*.safetensors")), *sorted(job.sft_adapter.glob("*.safetensors"))]
    data = [job.run.data / "train.jsonl", job.run.annotations / "train.jsonl"]
    for file in [*weights, *data]:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def main(side: str, out: str, spread: str) -> dict:
    """Run one side in its folder, made by `asynchronous.open_side`; `start`: the warm start that all share."""
    run = Run.read(Path(out))
    if side == "start":
        warm_start(Job(run))
        return {}
    return run_side(side, run, Spread(run.params) if spread == "spread" else make_reward(run.params))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds: the server is stopped
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
