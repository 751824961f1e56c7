"""Run folders that tests start from."""

from pathlib import Path

from proactor_lib.files import write_jsonl
from proactor_lib.params import Params, load_params
from proactor_lib.policies import POLICIES
from proactor_lib.run import Run, annotate_run, prepare_data

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "params" / "smoke.yaml"
STEPS = 20  # of the metrics file that make_run writes


def opened(out, **overrides):
    """A smoke run with its data and windows; policies are asked at two turns of each dialogue."""
    run = Run.open(load_params(SMOKE, {"evaluation_turns": 2} | overrides), out)
    prepare_data(run)
    annotate_run(run)
    return run


def make_run(folder, **settings) -> Run:
    """A run's folder without its model: simulated dialogues, fixed policies as predictions, a made-up metrics file."""
    settings = {"train_dialogues": 2, "dev_dialogues": 2, "test_dialogues": 6, "bootstrap": 200} | settings
    run = Run.open(
        Params(name="a run", question="Does it move?", policies=("silent", "random", "oracle_late"), **settings), folder
    )
    prepare_data(run)
    annotate_run(run)
    for name in run.params.policies:
        lines = [p for c in run.split("test") for p in POLICIES[name](c, 0)]
        write_jsonl(run.predictions / f"{name}.jsonl", lines)
    write_jsonl(run.training / "metrics.jsonl", map(step, range(1, STEPS + 1)))
    return run


def step(number):
    """A line of the trainer's metrics; the reward grows by 0.01 a step from 0.3, two groups 0.1 around it."""
    mean = 0.3 + 0.01 * number
    groups = [mean - 0.1, mean + 0.1]
    return {"step": number, "reward_mean": mean, "reward_groups": groups, "kl": 0.002, "clipped_share": 0.01}
