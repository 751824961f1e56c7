"""What a training run leaves to read: metrics.jsonl, a line per step, and samples.jsonl, a line per group.

The one module that writes and reads them. A step's line holds what `step_line` says, the trainer's statistics, and
`judge/` counters; a group's is a GroupLine.
"""

import json
import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from pydantic import BaseModel

from proactor_lib import events, progress
from proactor_lib.artf.training.alarms import Alarms
from proactor_lib.artf.training.counterfactual import sampled_utility
from proactor_lib.errors import UserError
from proactor_lib.files import atomic, read_jsonl, read_text
from proactor_lib.metrics.turn_kinds import TURN_KINDS
from proactor_lib.rewards import Reward
from proactor_lib.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proactor_lib.artf.training.counterfactual import Visit
    from proactor_lib.artf.training.rollouts import ScoredGroup, StepBatch

METRICS, SAMPLES, WARM_START = "metrics.jsonl", "samples.jsonl", "sft.jsonl"


def finished(run: RunFolder) -> bool:
    """Whether training has come to its end: adapters are written last."""
    wanted = ["adapter", *(["sft_equal_time"] if run.params.sft_equal_time else [])]
    return all((run.training / name).exists() for name in wanted)


class GroupLine(BaseModel):
    """The K outputs of one turn, as they were rewarded and trained on; further keys are let through."""

    step: int  # from 1
    dialogue_id: str
    turn: int
    texts: tuple[str, ...]
    rewards: tuple[float | None, ...] = ()  # None: not scored
    components: tuple[dict[str, float], ...] = ()  # what each output's reward was made of
    advantages: tuple[float | None, ...] = ()
    truncated: tuple[bool, ...] = ()
    kind: str | None = None  # of turn, as metrics.turn_kinds
    weight: float = 1.0  # of the group in the loss


def read_steps(run: RunFolder, file: str = METRICS) -> pd.DataFrame:
    """One row per optimiser step, in order, as the trainer wrote them; a step written twice (a resume) keeps its last
    line. Empty when the file is not there; UserError, with the line, for what is not a JSON object with a step.
    """
    rows, path = {}, run.training / file
    for number, line in enumerate(read_text(path).splitlines() if path.exists() else [], start=1):
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}, line {number}: not a JSON object with the key step") from None
    return pd.DataFrame([rows[step] for step in sorted(rows)])


def read_groups(run: RunFolder) -> list[GroupLine]:
    """The groups of all steps, in order; none before training has begun. UserError for a line that is none."""
    path = run.training / SAMPLES
    return list(read_jsonl(path, GroupLine)) if path.exists() else []


def read_samples(run: RunFolder) -> pd.DataFrame:
    """One row per sampled output: step, dialogue_id, turn, text, reward, advantage; none before training has begun."""
    columns = {"texts": "text", "rewards": "reward", "advantages": "advantage"}
    rows = [g.model_dump(include={"step", "dialogue_id", "turn", *columns}) for g in read_groups(run)]
    groups = pd.DataFrame(rows, columns=["step", "dialogue_id", "turn", *columns])
    return groups.explode(list(columns), ignore_index=True).rename(columns=columns)


class Records:
    """Called with each trained step. Lines of steps after `first_step` are of a run that died: they are removed."""

    def __init__(self, run: RunFolder, reward: Reward, first_step: int):
        self._run, self._reward, self._alarms = run, reward, Alarms()
        self._metrics, self._samples = run.training / METRICS, run.training / SAMPLES
        for path in (self._metrics, self._samples):
            keep_steps(path, first_step)
        if self._metrics.exists():  # what held before the run died may hold still
            for line in read_text(self._metrics).splitlines():
                self._alarms(json.loads(line))

    def __call__(self, batch: "StepBatch", trained: dict[str, float]) -> None:
        p = self._run.params
        line = step_line(batch, trained) | {f"judge/{k}": v for k, v in self._reward.counters.items()}
        whole = p.turns_per_dialogue == 0 and not batch.prompts_too_long
        line["utility"] = sampled_utility(_visits(batch.groups), p.theta, p.execution_price) if whole else None
        line["alarms"] = self._alarms(line)
        for group in batch.groups:
            events.emit(events.GroupSampled(self._run.out, line["step"], _group_line(batch, group)))
        events.emit(events.StepTrained(self._run.out, line["step"], line))
        mean = line["reward_mean"]
        note = "" if mean is None else f"reward {mean:.3f}"
        progress.report(self._run.out, "grpo", line["step"], self._run.params.max_steps, note)
        self._alarms.give_up()


@events.listens(events.GroupSampled)
def _keep_group(event: events.GroupSampled) -> None:
    _append(event.out / "training" / SAMPLES, [event.group.model_dump_json()])


@events.listens(events.StepTrained)
def _keep_step(event: events.StepTrained) -> None:
    _append(event.out / "training" / METRICS, [json.dumps(event.line, ensure_ascii=False)])


def step_line(batch: "StepBatch", trained: dict[str, float]) -> dict:
    """One step: rewards, counts, tokens, kl in nats per token, shares, seconds. `trained`: the trainer's statistics.

    reward_steady: the mean reward under one set of weights, where the reward moves with progress. groups_sure: those in
    which one output stands for all K; output_tokens are of the outputs_sampled, all else of K outputs a turn.
    """
    means = [g.mean_reward for g in batch.groups if g.mean_reward is not None]
    steady = [g.mean_steady for g in batch.groups if g.mean_steady is not None]
    return {
        "step": batch.step + 1,
        "version": batch.version,
        "staleness": batch.step - batch.version,
        "reward_mean": statistics.fmean(means) if means else None,
        "reward_steady": statistics.fmean(steady) if steady else None,
        "reward_groups": means,
        "groups": len(batch.groups),
        "groups_skipped": sum(not g.trainable for g in batch.groups),
        "groups_sure": sum(len(g.sampled) < len(g.outputs) for g in batch.groups),
        "outputs": sum(len(g.outputs) for g in batch.groups),
        "outputs_sampled": sum(len(g.sampled) for g in batch.groups),
        "outputs_unreadable": sum(p.unreadable for g in batch.groups for p in g.parsed),
        "outputs_unscored": sum(s.value is None for g in batch.groups for s in g.scores),
        "output_tokens": sum(len(o.tokens) for g in batch.groups for o in g.sampled),
        "tokens_padded": sum(len(s["input_ids"]) for s in batch.samples),
        "prompts_too_long": batch.prompts_too_long,
        **_by_kind(batch.groups),
        "rollout_s": batch.seconds,
        **trained,
    }


def _visits(groups: "Iterable[ScoredGroup]") -> "Iterable[Visit]":
    by_session: dict[str, list[ScoredGroup]] = {}
    for group in groups:
        by_session.setdefault(group.visit.session, []).append(group)
    return [(own[0].visit.references, [(g.turn, g.parsed) for g in own]) for own in by_session.values()]


def _by_kind(groups: "list[ScoredGroup]") -> dict[str, float | None]:
    """turns_KIND: the kind's share of the turns; ready_KIND: the share of its outputs that trigger something."""
    found = {}
    for kind in TURN_KINDS:
        own = [g for g in groups if g.kind == kind]
        triggers = [any(a.status == "ready" for a in p.actions) for g in own for p in g.parsed]
        found[f"turns_{kind}"] = len(own) / len(groups) if groups else None
        found[f"ready_{kind}"] = statistics.fmean(triggers) if triggers else None
    return found


def _group_line(batch: "StepBatch", group: "ScoredGroup") -> GroupLine:
    return GroupLine(
        step=batch.step + 1,
        dialogue_id=group.visit.dialogue.id,
        turn=group.turn,
        texts=tuple(o.text for o in group.outputs),
        rewards=tuple(s.value for s in group.scores),
        components=tuple(s.components for s in group.scores),
        advantages=tuple(group.advantages),
        truncated=tuple(o.truncated for o in group.outputs),
        kind=group.kind,
        weight=group.weight,
    )


def keep_steps(path: Path, last: int) -> None:
    """Remove lines of steps after `last`, and what is no whole line (a kill or a full disk cut it)."""
    if not path.exists():
        return
    with open(path, "rb") as lines, atomic(path, "wb") as f:
        f.writelines(line for line in lines if _step_of(line) <= last)


def _step_of(line: bytes) -> float:
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except ValueError:
        return math.inf


def _append(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as f:
        f.writelines(line + "\n" for line in lines)
