"""The inspect task: its numbers are ours, on kept predictions and on a model's."""

import json
import logging

import pytest
from proactor_lib.errors import UserError
from proactor_lib.evaluate import evaluate_run, load_or_score
from proactor_lib.files import write_jsonl
from proactor_lib.schema import TurnPrediction

from support.late import Late
from support.runs import opened

inspect_ai, models, interop = Late("inspect_ai"), Late("inspect_ai.model"), Late("proactor_lib.interop.inspect")


@pytest.fixture(autouse=True)
def logging_as_before():
    """Inspect sets the root logger up; other tests of this process read what it says."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose fixed policies were evaluated at every turn."""
    made = opened(tmp_path_factory.mktemp("inspected"), policies=["random"], evaluation_turns=0)
    evaluate_run(made)
    return made


def evaluated(task, tmp_path, model, **more):
    quiet = {"display": "none", "log_level": "error", "log_model_api": False}
    [log] = inspect_ai.eval(task, model=model, log_dir=str(tmp_path), **quiet, **more)
    assert log.status == "success", log.error
    return log, {name: m.value for name, m in log.results.scores[0].metrics.items()}


def test_kept_predictions_have_the_numbers_of_evaluate(run, tmp_path):
    policy = "random"
    task = interop.proactor(str(run.out), predictions=str(run.predictions / f"{policy}.jsonl"))
    log, found = evaluated(task, tmp_path, "mockllm/model")
    ours = load_or_score(run).as_json()[policy]
    for metric, figures in ours.items():
        if metric != "pri" and figures[0] is not None:  # a ranking inside one table
            expected = [float("nan") if end is None else end for end in figures]
            theirs = [found[metric], found[f"{metric}_low"], found[f"{metric}_high"]]
            assert theirs == pytest.approx(expected, nan_ok=True)
    assert {s.id for s in log.samples} == {d.id for d in run.dialogues("test")}


def test_a_model_is_asked_at_every_turn_with_our_prompt(run, tmp_path):
    asked = []

    def answer(messages, tools, tool_choice, config):
        asked.append((messages[0].text, messages[1].text, config.temperature, config.max_tokens))
        text = "ready: pull_credit" if messages[1].text.count("\n") == 5 else "none"
        output = models.ModelOutput.from_content("mockllm", text)
        output.usage = models.ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # it would ask the net else
        return output

    model = models.get_model("mockllm/model", custom_outputs=answer)
    log, found = evaluated(interop.proactor(str(run.out)), tmp_path, model, limit=1)
    turns = [len(d.turns) for d in run.dialogues("test")][:1]
    assert len(asked) == sum(turns) and {a[2:] for a in asked} == {(0.0, run.params.max_completion_tokens)}
    assert "pull_credit(" in asked[0][0] and all(text.startswith("[1] ") for _, text, *_ in asked)
    said = [json.loads(json.dumps(p)) for s in log.samples for p in s.metadata["predictions"]]
    assert [(p["turn"], p["actions"][0]["name"]) for p in said if p["actions"]] == [(5, "pull_credit")] * len(turns)
    assert found["rar"] == 1.0


def test_a_prompt_that_there_is_not_is_one_sentence(run):
    with pytest.raises(UserError, match="prompt 'clever'; accepted: non_reasoning, reasoning"):
        interop.proactor(str(run.out), prompt="clever")


@pytest.mark.parametrize(
    ("split", "turn", "says"), [("dev", 1, "unknown dialogue"), ("test", 999, "at turn 999; accepted: 1 to")]
)
def test_predictions_that_the_split_does_not_have_are_refused(run, tmp_path, split, turn, says):
    """Of another split's dialogue, and beyond the end of one of this split's."""
    line = TurnPrediction(dialogue_id=run.dialogues(split)[0].id, turn=turn)
    write_jsonl(tmp_path / "said.jsonl", [line])
    with pytest.raises(UserError, match=rf"said.jsonl, line 1, on split 'test': .*{says}"):
        interop.proactor(str(run.out), predictions=str(tmp_path / "said.jsonl"))
