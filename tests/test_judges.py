"""Judges where it matters: a real model behind a real vLLM server, and training with one that misbehaves."""

import json
from collections import defaultdict
from itertools import cycle

from proactor_lib.artf.serving.completions import Output
from proactor_lib.artf.training.job import Job
from proactor_lib.artf.training.rollouts import RolloutWorker
from proactor_lib.artf.training.training_log import Records
from proactor_lib.rewards import make_reward

from support.fake_endpoint import FakeEndpoint, Reply
from support.judges import FAULTS, WORTH
from support.reward_cases import GARBAGE, RIGHT, SILENCE, WAITING, WRONG, group, reward, scores
from support.runs import opened


def test_a_random_model_scores_every_label(tiny_server):
    """What it says means nothing; that each output has its marks, in range, is the schema's doing."""
    groups = [group(RIGHT, WAITING, WRONG, SILENCE, GARBAGE, turn=t) for t in range(1, 7)]
    asking = {"judge": "policy", "judge_url": f"{tiny_server.url}/v1", "judge_temperature": 1.0, "judge_timeout": 300}
    seen = set()
    for name in ("general_ruler", "custom_ruler"):
        ruler = reward(name, **asking)
        found = scores(ruler, *groups)
        values = [[s.value for s in one] for one in found]
        assert all(one[4] == 0 and all(0 <= v <= 1 for v in one) for one in values)
        seen |= {v for one in values for v in one[:4]}
        told = ruler.counters
        assert told["judge_calls"] == len(groups) and told["ruler_missing"] == 0 and told["judge_output_tokens"] > 0
        assert not [k for k in told if "fault" in k or "failed" in k]
    assert len(seen) > 2  # it is no constant


class Sampled:
    """In place of the policy: the same K outputs at every turn."""

    TEXTS = (RIGHT, WAITING, WRONG, SILENCE)

    async def warm(self, model, prompt, session):
        pass

    async def sample(self, model, prompt, k, session):
        return [Output(text, [1, 2], [-1.0, -1.0], truncated=False) for text in self.TEXTS[:k]]

    async def finish(self, session):
        pass

    async def close(self):
        pass


WAYS = {
    **{kind: answer for kind, answer in FAULTS.items()},
    "slow": lambda r: Reply("late", delay=20),
    "busy": lambda r: Reply(status=429),
    "down": lambda r: Reply(status=500),
    "no key": lambda r: Reply(status=401),
    "no chat": lambda r: Reply(body="[]"),
    "cut": lambda r: Reply("x" * 50, cut_body=True),
}


def test_training_goes_on_whatever_a_judge_does_and_every_failure_is_counted(tmp_path):
    """12 steps of 2 groups, 13 ways to misbehave in turn: no step is lost, no score is a silent 0."""
    ways, seen = cycle(WAYS), {}

    def judge(request, n):
        first = json.dumps(request["messages"][:2])
        if first not in seen:  # what is asked again goes the same way
            seen[first] = next(ways)
        return WAYS[seen[first]](request)

    with FakeEndpoint(judge) as server:
        asking = {"judge": "judge-1", "judge_url": server.url, "judge_timeout": 1.5, "judge_retries": 0}
        run = opened(tmp_path, reward="custom_ruler", num_generations=4, max_steps=12, **asking)
        steps = trained(run)
    assert [s["step"] for s in steps] == list(range(1, 13)) and sum(s["groups"] for s in steps) >= 24
    assert set(seen.values()) == set(WAYS)
    last = {k.removeprefix("judge/"): v for k, v in steps[-1].items() if k.startswith("judge/")}
    assert {k.removeprefix("judge_fault_") for k in last if "fault" in k} == set(FAULTS)
    failed = ("timeout", "rate_limit", "server", "refused", "garbled", "unreachable")
    assert {k.removeprefix("judge_failed_") for k in last if "failed" in k} == set(failed)
    lines = [json.loads(line) for line in (run.training / "samples.jsonl").read_text().splitlines()]
    values = [v for line in lines for v in line["rewards"]]
    assert last["ruler_missing"] == sum(s["outputs_unscored"] for s in steps) == values.count(None) > 24
    assert {round(v, 9) for v in values if v is not None} <= set(WORTH.values())
    pairs = [p for line in lines for p in zip(line["advantages"], line["rewards"], strict=True)]
    assert all((advantage is None) == (value is None) for advantage, value in pairs)
    assert sum(s["reward_mean"] is None for s in steps) < len(steps)


def trained(run):
    """The lines of metrics.jsonl of a training whose policy is `Sampled` and whose trainer does nothing."""
    p, job, reward = run.params, Job(run), make_reward(run.params)
    worker = RolloutWorker(
        job.visits(p.turns_per_dialogue), job.dialogue_tokens, Sampled(), reward, lambda version: "policy",
        k=p.num_generations, visits_per_step=p.dialogues_per_step, max_steps=p.max_steps, max_staleness=0,
    )  # fmt: skip
    record, nothing = Records(run, reward, 0), defaultdict(float)
    worker.start()
    try:
        for step in range(p.max_steps):
            worker.update_model_version(step)
            record(worker.next_step(), nothing)
    finally:
        worker.stop()
    return [json.loads(line) for line in (run.training / "metrics.jsonl").read_text().splitlines()]
