"""RULER: judges score the K outputs of a turn relative to each other (the OpenPipe ART idea) [paper]."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from statistics import fmean, pstdev
from typing import ClassVar

from proactor_lib.errors import UserError
from proactor_lib.files import read_text
from proactor_lib.rewards.base import Group, Judge, Marks, Reward, Score
from proactor_lib.rewards.params import SERVE, RewardParams
from proactor_lib.rewards.rubric_judge import RubricJudge


class Ruler(Reward):
    """What General and Custom RULER share; they differ in `rubric_file`, in `criteria` and in how marks are mixed.

    Outputs that say the same are judged once; unreadable ones score 0 and are not shown. Several judges are asked at
    once: the value is the mean over those that marked all outputs; each one's value and their standard deviation are
    kept.
    """

    judged = True
    rubric_file: ClassVar[str]
    criteria: ClassVar[tuple[str, ...]]

    def __init__(self, params: RewardParams, judges: Sequence[Judge] | None = None):
        super().__init__(params)
        self._judges = tuple(judges or make_judges(params, self.rubric_file))
        self._counts: Counter[str] = Counter()

    @property
    def judges(self) -> Sequence[Judge]:
        """All of them are asked for each group."""
        return self._judges

    def mix(self, marks: Marks) -> float:
        """One value in [0, 1] of an output's marks."""
        return fmean(marks[c] for c in self.criteria)

    async def score(self, group: Group) -> list[Score]:
        """K scores; None where no judge gave a usable mark."""
        distinct = {text: o for text, o in zip(group.said, group.sets, strict=True) if text is not None}
        known: dict[str | None, Score] = {None: Score(0.0, {"unreadable": 1.0})}
        if distinct:
            asked = [judge.mark(group, list(distinct.values()), self.criteria) for judge in self.judges]
            given = zip(*comparable(await asyncio.gather(*asked)), strict=True)
            known |= {text: self._one(marks) for text, marks in zip(distinct, given, strict=True)}
        scores = [known[text] for text in group.said]
        self._counts.update(groups=1, outputs=len(scores), judged=len(distinct))
        self._counts["missing"] += sum(s.value is None for s in scores)
        return scores

    def _one(self, given: Sequence[Marks | None]) -> Score:
        by_judge = {j.name: m for j, m in zip(self.judges, given, strict=True) if m is not None}
        if not by_judge:
            return Score(None)
        if len(self.judges) == 1:
            marks = by_judge[self.judges[0].name]
            return Score(self.mix(marks), {c: marks[c] for c in self.criteria})
        values = {name: self.mix(marks) for name, marks in by_judge.items()}
        components = {c: fmean(m[c] for m in by_judge.values()) for c in self.criteria}
        components |= {f"judge_{name}": v for name, v in values.items()}
        return Score(fmean(values.values()), components | {"disagreement": pstdev(values.values())})

    @property
    def counters(self) -> dict[str, float]:
        """Groups, outputs, distinct outputs judged, scores that stayed missing, and the sums over the judges."""
        total = Counter({f"ruler_{k}": float(v) for k, v in self._counts.items()})
        for judge in self.judges:
            total.update(judge.counters)
        return dict(total)

    async def close(self) -> None:
        """Let go of the judges' connections."""
        for judge in self.judges:
            await judge.close()


def comparable(given: Sequence[Sequence[Marks | None]]) -> list[Sequence[Marks | None]]:
    """By judge, the marks of a group's outputs that may be compared: of the judges that marked all of them.

    Marks are relative within one answer, and one judge's scale is not another's. Where no judge marked all outputs, the
    one that marked most stands alone.
    """
    marked = [sum(m is not None for m in marks) for marks in given]
    whole = [count == len(marks) for count, marks in zip(marked, given, strict=True)]
    used = whole if any(whole) else [n == marked.index(max(marked)) for n in range(len(given))]
    return [marks if use else [None] * len(marks) for marks, use in zip(given, used, strict=True)]


def own_rubric(rubric_file: str) -> str:
    """The package's text of that name."""
    return read_text(files("proactor_lib") / "prompts" / rubric_file)


def make_judges(params: RewardParams, rubric_file: str) -> list[Judge]:
    """The judges that the parameters name; UserError for a rubric file that is not there or a missing API key."""
    if params.judge == "rubric":
        return [RubricJudge(params.reward_theta)]
    if params.judge_url == SERVE:
        raise UserError(
            f"judge_url {SERVE!r}: only a training starts its judge's server; name the address of one that runs, or "
            "judge: rubric, the programmatic stand-in"
        )
    from proactor_lib.endpoint import Endpoint  # slow to import
    from proactor_lib.rewards.endpoint_judge import EndpointJudge

    rubric = read_text(params.rubric) if params.rubric else own_rubric(rubric_file)
    models = [m.strip() for m in params.judge.split(",")]
    urls = _one_each(params.judge_url, "judge_url", "addresses", models)
    variables = _one_each(params.judge_key_variable, "judge_key_variable", "variables", models)
    if len(set(models)) < len(models):
        raise UserError(f"judge names {max(models, key=models.count)!r} twice; several judges must be different models")
    asking = {
        "concurrency": params.judge_concurrency,
        "timeout": params.judge_timeout,
        "retries": params.judge_retries,
        "cache": params.judge_cache,
        "prices": params.judge_prices,
        "form": params.judge_form,
        "headers": params.judge_headers,
    }
    heat = {} if params.judge_temperature is None else {"temperature": params.judge_temperature}
    return [
        EndpointJudge(Endpoint(url, model, key_variable=key, **asking), rubric, sampling=heat | params.judge_sampling)
        for model, url, key in zip(models, urls, variables, strict=True)
    ]


def _one_each(text: str, name: str, what: str, models: Sequence[str]) -> list[str]:
    """The parts of a comma separated text, one per model; a single one is for all."""
    given = [part.strip() for part in text.split(",")]
    if len(given) not in (1, len(models)):
        raise UserError(f"{name} names {len(given)} {what} for {len(models)} judges; one for all or one each")
    return given * (len(models) // len(given))
