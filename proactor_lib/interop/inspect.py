"""An inspect task: a run's held-out dialogues with their windows, for any model that inspect knows, in its viewer.

    inspect eval proactor_lib/interop/inspect.py -T run=outputs/demo --model openai/some-model
    inspect eval proactor_lib/interop/inspect.py -T run=outputs/demo -T predictions=FILE --model none

A sample is a dialogue: the model is asked at every turn, with the prompt and the parser of `proactor evaluate`. What
inspect shows is what `proactor evaluate` says of the same predictions, intervals included.
"""

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, Model, ModelOutput, get_model
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from proactor_lib import agent, metrics
from proactor_lib.agent import Parsed, parse
from proactor_lib.errors import UserError
from proactor_lib.files import numbered_jsonl
from proactor_lib.metrics.scores import Checked
from proactor_lib.metrics.utility import utility_at
from proactor_lib.replies import after_thinking
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import Case, TurnPrediction

PROMPTS = {"non_reasoning": "agent.system.j2", "reasoning": "reasoning.system.j2"}


@task
def proactor(run: str, predictions: str | None = None, prompt: str = "non_reasoning", split: str = "test") -> Task:
    """`run`: a folder with data/ and references/; `predictions`: a file to score in place of asking a model.

    UserError for a prompt that there is not, a run that is not annotated, and predictions that `replay` refuses.
    """
    if prompt not in PROMPTS:
        raise UserError(f"prompt {prompt!r}; accepted: {', '.join(PROMPTS)}")
    opened = _opened(run)
    cut = opened.params.max_completion_tokens if prompt == "non_reasoning" else opened.params.reasoning_tokens
    samples = [_sample(case) for case in opened.split(split)]
    asked = replay(run, split, predictions) if predictions else ask(run, split, prompt)
    return Task(
        MemoryDataset(samples, name=f"{opened.params.name}-{split}"),
        solver=asked,
        scorer=executions(run, split),
        metrics=[evaluated(run, split)],
        config=GenerateConfig(temperature=0.0, max_tokens=cut),
    )


def _opened(run: str) -> RunFolder:
    return RunFolder.read(Path(run))


def _sample(case: Case) -> Sample:
    """The transcript as input, what was needed as target."""
    d = case.dialogue
    needed = [
        f"{r.name} in turns {r.window.open}-{r.window.close}, ready from {r.window.ready}" for r in case.references
    ]
    return Sample(id=d.id, input=agent.transcript(d, len(d.turns)), target=needed or ["none"])


def _cases(run: str, split: str) -> dict[str, Case]:
    return {c.dialogue.id: c for c in _opened(run).split(split)}


@solver
def ask(run: str, split: str, prompt: str) -> Solver:
    """Asks the model at every turn of the sample's dialogue."""
    cases = _cases(run, split)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        case, model = cases[str(state.sample_id)], get_model()
        turns = range(1, len(case.dialogue.turns) + 1)
        return _told(state, await asyncio.gather(*(_turn(model, case, turn, PROMPTS[prompt]) for turn in turns)))

    return solve


async def _turn(model: Model, case: Case, turn: int, template: str) -> TurnPrediction:
    system = ChatMessageSystem(content=agent.system_text(case.catalog, template))
    output = await model.generate([system, ChatMessageUser(content=agent.transcript(case.dialogue, turn))])
    text = None if output.stop_reason in ("max_tokens", "model_length") else after_thinking(output.completion)
    parsed = Parsed((), unreadable=True) if text is None else parse(text)
    return TurnPrediction(dialogue_id=case.dialogue.id, turn=turn, actions=parsed.actions, text=output.completion,
                          unreadable=parsed.unreadable)  # fmt: skip


@solver
def replay(run: str, split: str, predictions: str) -> Solver:
    """Says what a predictions file says. UserError for a dialogue or a turn that the split does not have.

    A prediction does not tell its split: where two splits share an id, the other's pass as this one's up to its end.
    """
    checked, said = Checked(_opened(run).dialogues(split)), defaultdict(list)
    for number, line in numbered_jsonl(Path(predictions), TurnPrediction):
        try:
            said[line.dialogue_id].append(checked.prediction(line))
        except UserError as error:
            raise UserError(f"{predictions}, line {number}, on split {split!r}: {error}") from None

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return _told(state, said[str(state.sample_id)])

    return solve


def _told(state: TaskState, lines: list[TurnPrediction]) -> TaskState:
    """The predictions for the scorer, and as text for whoever looks."""
    state.metadata["predictions"] = [line.model_dump(mode="json") for line in lines]
    shown = "\n".join(f"[{line.turn}] {agent.render(line.actions)}" for line in lines)
    state.output = ModelOutput.from_content(str(state.model), shown)
    return state


@metric
def evaluated(run: str, split: str) -> Metric:
    """The metrics of `proactor evaluate` with their intervals: name, name_low, name_high."""

    def calculate(scores: list[SampleScore]) -> dict[str, float]:
        opened = _opened(run)
        table = metrics.table({"model": _scored(opened, split, scores)}, opened.params.bootstrap, opened.params.seed)
        return {f"{r.metric}{end}": getattr(r, name) for r in table.itertuples()
                for end, name in (("", "value"), ("_low", "low"), ("_high", "high"))}  # fmt: skip

    return calculate


def _scored(run: RunFolder, split: str, scores: list[SampleScore]) -> Any:
    said = [TurnPrediction.model_validate(p) for s in scores for p in (s.score.metadata or {})["predictions"]]
    ids, p = {str(s.sample_id) for s in scores}, run.params
    dialogues = [d for d in run.dialogues(split) if d.id in ids]
    references = [r for r in run.references(split) if r.dialogue_id in ids]
    turns = _asked(said) if p.evaluation_turns else None
    return metrics.score_predictions(dialogues, references, said, p.theta, evaluated_turns=turns,
                                     price=p.execution_price).dialogues  # fmt: skip


def _asked(said: list[TurnPrediction]) -> dict[str, set[int]]:
    turns: dict[str, set[int]] = {}
    for line in said:
        turns.setdefault(line.dialogue_id, set()).add(line.turn)
    return turns


@scorer(metrics=[])
def executions(run: str, split: str) -> Scorer:
    """A dialogue's utility; the whole by `evaluated`."""
    opened = _opened(run)

    async def score(state: TaskState, target: Target) -> Score:
        said = state.metadata["predictions"]
        mine = Score(value=0.0, answer=state.output.completion, metadata={"predictions": said})
        table = _scored(opened, split, [SampleScore(score=mine, sample_id=state.sample_id)])
        utility = float(utility_at(table, [opened.params.execution_price])[0, 0])
        return mine.model_copy(update={"value": utility, "explanation": "U of this dialogue; nan: nothing was needed"})

    return score
