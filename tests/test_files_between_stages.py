"""Files between stages: each is written and read by one module, and read as it was written."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from proactor_lib import progress
from proactor_lib.agent import Parsed
from proactor_lib.artf.training import training_log
from proactor_lib.params import Params
from proactor_lib.rewards import Score
from proactor_lib.run_folder import RunFolder

PACKAGE = Path(__file__).parents[1] / "proactor_lib"
OWNERS = {
    "metrics.jsonl": "artf/training/training_log.py",
    "samples.jsonl": "artf/training/training_log.py",
    "progress.jsonl": "progress.py",
    "results.json": "evaluate/results.py",
    "provenance.json": "run_folder.py",
}


def code_of(path):
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


@pytest.mark.parametrize("name", OWNERS)
def test_a_file_is_named_by_its_owner_alone(name):
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "notebooks").glob("*.ipynb")]
    texts = {p: [n.value for n in ast.walk(ast.parse(code_of(p))) if isinstance(n, ast.Constant)] for p in files}
    assert {p for p, values in texts.items() if name in values} == {PACKAGE / OWNERS[name]}


def test_text_is_read_as_it_is_written_whatever_the_machines_own_encoding_is():
    """All that is written is UTF-8, which is not what `read_text` takes by itself on Windows."""
    calls = [(p, n) for p in PACKAGE.rglob("*.py") for n in ast.walk(ast.parse(code_of(p))) if isinstance(n, ast.Call)]
    reads = [(p, n) for p, n in calls if getattr(n.func, "attr", None) == "read_text"]
    assert reads and {p for p, n in reads if "encoding" not in {k.arg for k in n.keywords}} == set()


def batch():
    """One group of two outputs at turn 3, of which the judge scored one."""
    group = SimpleNamespace(
        visit=SimpleNamespace(dialogue=SimpleNamespace(id="d"), session="d-0", references=()), turn=3,
        kind="ready", weight=2.0,
        outputs=[SimpleNamespace(text="none – é", tokens=[1, 2], truncated=False),
                 SimpleNamespace(text="ready: pay", tokens=[1, 2, 3], truncated=True)],
        parsed=[Parsed((), unreadable=False), Parsed((), unreadable=True)],
        scores=[Score(0.5, {"rac": 0.5}), Score(None)],
        advantages=[0.0, None], mean_reward=0.5, mean_steady=0.5, trainable=False,
    )  # fmt: skip
    group.sampled = group.outputs
    return SimpleNamespace(step=4, version=3, groups=[group], samples=[], prompts_too_long=0, seconds=1.5)


def test_training_is_read_as_it_was_written(tmp_path):
    run = RunFolder(Params(max_steps=9), tmp_path)
    assert training_log.read_steps(run).empty and training_log.read_groups(run) == []
    records = training_log.Records(run, SimpleNamespace(counters={"calls": 7.0}), first_step=0)
    records(batch(), {"kl": 0.001})
    steps = training_log.read_steps(run)
    assert steps[["step", "staleness", "reward_mean", "outputs_unscored", "kl", "judge/calls"]].to_dict("records") == [
        {"step": 5, "staleness": 1, "reward_mean": 0.5, "outputs_unscored": 1, "kl": 0.001, "judge/calls": 7.0}
    ]
    (line,) = training_log.read_groups(run)
    assert (line.step, line.dialogue_id, line.turn, line.kind, line.weight) == (5, "d", 3, "ready", 2.0)
    assert (line.texts, line.rewards) == (("none – é", "ready: pay"), (0.5, None))
    assert (line.components, line.advantages, line.truncated) == (({"rac": 0.5}, {}), (0.0, None), (False, True))
    samples = training_log.read_samples(run)
    assert samples.text.tolist() == ["none – é", "ready: pay"] and samples.reward.tolist() == [0.5, None]
    (event,) = progress.read(tmp_path)
    assert (event.stage, event.done, event.total, event.text) == ("grpo", 5, 9, "reward 0.500")


def test_whole_lines_of_kept_steps_stay_whatever_is_said_in_them(tmp_path):
    """U+2028 ends a line for some readers, not in JSON; a kill cuts anywhere, in the midst of a character too."""
    path, kept = tmp_path / "samples.jsonl", '{"step":1,"texts":["a\u2028b\u0085c"]}\n'.encode()
    path.write_bytes(kept + b'{"step":2}\n' + '{"step":1,"texts":["é'.encode()[:-1])
    training_log.keep_steps(path, 1)
    assert path.read_bytes() == kept


def test_a_line_of_an_older_run_has_fewer_keys(tmp_path):
    run = RunFolder(Params(), tmp_path)
    run.training.mkdir()
    (run.training / "samples.jsonl").write_text(
        '{"step": 1, "dialogue_id": "d", "turn": 2, "texts": ["none"], "x": 1}\n'
    )
    (line,) = training_log.read_groups(run)
    assert (line.rewards, line.kind, line.weight) == ((), None, 1.0)
