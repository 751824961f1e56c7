"""What training leaves to read: a run's lines, and lines made to be read."""

import json
from pathlib import Path

import numpy as np

from support.runs import opened


def metrics(out: Path) -> list[dict]:
    """The run's lines."""
    return [json.loads(line) for line in (out / "training" / "metrics.jsonl").read_text().splitlines()]


def write_records(out, count=12, staleness=0):
    """A run whose steps took what these times make of their tokens."""
    run = opened(out, max_staleness=staleness, num_generations=8, turns_per_dialogue=2, dialogues_per_step=1)
    rng, now, records, events = np.random.default_rng(1), 100.0, [], []
    for step in range(1, count + 1):
        output, packed = int(rng.integers(100, 120)), int(rng.integers(1000, 1300))
        rollout, train = 2.0 + 0.02 * output, 0.5 + 0.004 * packed
        now += rollout + train + 0.3 + 0.1
        records.append({
            "step": step, "staleness": 0, "groups": 2, "groups_skipped": 0, "outputs": 16, "output_tokens": output,
            "tokens_padded": 16 * 900 + output, "tokens_packed": packed, "rollout_s": rollout,
            "rollout_wait_s": rollout - 0.05, "train_s": train, "sync_s": 0.3,
        })  # fmt: skip
        events.append({"time": now, "stage": "grpo", "done": step, "total": count, "text": ""})
    run.training.mkdir(parents=True, exist_ok=True)
    for path, rows in ((run.training / "metrics.jsonl", records), (out / "progress.jsonl", events)):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return records
