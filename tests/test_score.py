"""`proactor score` and `proactor bench metrics` through the command line's own entry point."""

import json
import math
from types import SimpleNamespace

import pytest
from proactor_lib import cli
from proactor_lib.bench import check
from proactor_lib.cli import evaluate
from proactor_lib.files import write_jsonl
from proactor_lib.metrics import METRICS

from support.metric_cases import candidate, dialogue, needs, ready, reference, says

KEYS = list(METRICS)


@pytest.fixture
def proactor(monkeypatch, capsys):
    """Runs the command line in this process; returns returncode, stdout and stderr."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["proactor", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=end.value.code, stdout=out, stderr=err)

    return run


@pytest.fixture
def files(tmp_path):
    """Paths of the three files: one dialogue, one reference, two turns."""
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("dialogues", "references", "predictions")}
    write_jsonl(paths["dialogues"], [dialogue()])
    write_jsonl(paths["references"], [needs(reference(window=(3, 3, 4), observed=4, day="friday"))])
    write_jsonl(paths["predictions"], says({3: ready(day="Friday"), 5: [candidate(), ready("pay")]}))
    return paths


@pytest.fixture
def score(proactor):
    return lambda paths, *options: proactor("score", *(w for n, p in paths.items() for w in (f"--{n}", p)), *options)


def test_one_object_of_values_with_intervals(score, files):
    result = score(files, "--json")
    found = json.loads(result.stdout)
    assert result.returncode == 0 and list(found) == KEYS
    assert all(list(v) == ["value", "low", "high"] for v in found.values())
    values = {k: v["value"] for k, v in found.items()}
    by_turn = {"ac": 1 / 3, "max_ac": 1 / 3, "difference": 0, "pt": 1 / 3, "ftr": 1 / 2, "rar": 2 / 3}
    by_reference = {"opportunity_timing": 1, "lead": 1, "missed": 0, "late": 0, "premature": 0}
    executed = {"utility": 0.75, "false_executions": 1}  # `book` at 3 is right, `pay` at 5 false
    executed |= {"execution_precision": 1 / 2, "execution_recall": 1, "execution_f1": 2 / 3}
    needed = {"missed_needs": 1 / 2, "false_needs": 1 / 8, "balanced_accuracy": (1 / 2 + 7 / 8) / 2}
    timed = {"lead_seconds": None, "wait_seconds": None}
    expected = by_turn | by_reference | executed | needed | {"argument_accuracy": 1} | timed
    assert values == pytest.approx(expected)  # scored turns 3, 4, 5: AC 1, 0, 0
    assert found["ac"]["low"] is None  # one dialogue


def test_what_rests_on_one_dialogue_has_no_interval_in_the_tables(score, files):
    assert "nan" not in score(files).stdout
    assert evaluate._cell(SimpleNamespace(value=0.5, low=math.nan, high=math.nan)) == "0.500\n[dim]-[/dim]"


def test_the_price_of_a_false_execution_is_given(score, files):
    assert json.loads(score(files, "--json", "--price", "1").stdout)["utility"]["value"] == 0


FRIDAY = reference(window=(3, 5, 7), observed=7, day="friday")
LATER = reference(window=(8, 8, 9), observed=9, day="friday")


@pytest.mark.parametrize(
    "references, outputs, expected",
    [
        # Window 3 to 7, ready from 5: worth 1 up to turn 5, then 2/3 and 1/3, and 0 at 8. Five turns are open, a
        # trigger outside adds a sixth; s is 1 where it fits.
        pytest.param([FRIDAY], {2: ready(day="friday")},
                     {"opportunity_timing": 0, "premature": 1, "late": 0, "missed": 0, "lead": 5, "ftr": 1, "ac": 0},
                     id="before open"),
        pytest.param([FRIDAY], {3: ready(day="friday")},
                     {"opportunity_timing": 1, "premature": 0, "lead": 4, "ftr": 0, "ac": 1 / 5, "pt": 1 / 5},
                     id="at open"),
        pytest.param([FRIDAY], {5: ready(day="friday")}, {"opportunity_timing": 1, "lead": 2}, id="at ready"),
        pytest.param([FRIDAY], {6: ready(day="friday")}, {"opportunity_timing": 2 / 3, "lead": 1}, id="after ready"),
        pytest.param([FRIDAY], {7: ready(day="friday")},
                     {"opportunity_timing": 1 / 3, "lead": 0, "late": 0, "ftr": 0}, id="at close"),
        pytest.param([FRIDAY], {8: ready(day="friday")},
                     {"opportunity_timing": 0, "lead": -1, "late": 1, "missed": 0, "ftr": 1, "pt": 0}, id="close + 1"),
        pytest.param([FRIDAY], {},
                     {"ac": 0, "max_ac": 0, "pt": 0, "difference": None, "ftr": None, "rar": None, "lead": None,
                      "opportunity_timing": 0, "missed": 1}, id="no predictions"),
        pytest.param([], {3: [ready(), candidate("pay")]},
                     {"ac": 0, "max_ac": 0, "pt": 0, "difference": None, "ftr": 1, "rar": 1 / 2,
                      "opportunity_timing": None, "missed": None, "lead": None}, id="no references"),
        pytest.param([], {}, dict.fromkeys(KEYS) | {"false_needs": 0}, id="neither"),
        # Two needs of one name and value, the first met at its ready turn and said on: the second is met when only it
        # is open. Turns 3 to 9 are open, s is 1 at 5 to 9.
        pytest.param([FRIDAY, LATER], {t: ready(day="friday") for t in range(5, 10)},
                     {"opportunity_timing": 1, "lead": 3 / 2, "ac": 5 / 7, "ftr": 0, "missed": 0},
                     id="two of one name"),
        pytest.param([FRIDAY, LATER], {5: ready(day="friday")},
                     {"opportunity_timing": 1 / 2, "missed": 1 / 2, "ac": 1 / 7}, id="one prediction, two references"),
        # Said twice in a turn beside a fault, which counts once: AC and PT (1 + 0) / 2 of one turn of five.
        pytest.param([FRIDAY], {5: [ready(day="friday"), ready(day="friday"), ready("pay")]},
                     {"opportunity_timing": 1, "ac": 1 / 10, "max_ac": 1 / 5, "difference": 1, "pt": 1 / 10,
                      "ftr": 1 / 2, "rar": 1, "missed": 0, "utility": 0.75}, id="duplicates"),
        pytest.param([reference(window=(4, 4, 4))], {4: ready()},
                     {"opportunity_timing": 1, "ac": 1, "pt": 1, "lead": None}, id="a window of one turn"),
        pytest.param([reference(window=(4, 4, 4))], {5: ready()},
                     {"opportunity_timing": 0, "late": 1, "ac": 0, "ftr": 1}, id="a turn after it"),
        # A candidate is held to what is known by its turn (nothing at 4), a trigger to all.
        pytest.param([reference(window=(4, 6, 6), day=("friday", 6))], {4: candidate(), 5: ready()},
                     {"ac": (1 + 1 / 2 + 0) / 3, "rar": 1 / 2, "ftr": 1, "pt": 0, "missed": 1}, id="known by then"),
    ],
)  # fmt: skip
def test_hand_worked_numbers(score, files, references, outputs, expected):
    write_jsonl(files["references"], [needs(*references)])
    write_jsonl(files["predictions"], says(outputs))
    found = json.loads(score(files, "--json", "--bootstrap", "20").stdout)
    values = {k: found[k]["value"] for k in expected}
    assert {k for k, v in values.items() if v is None} == {k for k, v in expected.items() if v is None}
    assert {k: v for k, v in values.items() if v is not None} == pytest.approx(
        {k: v for k, v in expected.items() if v is not None}
    )


def test_options_change_what_they_say(score, files):
    exact = json.loads(score(files, "--json", "--exact").stdout)
    assert exact["missed"]["value"] == 1 and exact["lead"] == {"value": None, "low": None, "high": None}
    loose = json.loads(score(files, "--json", "--exact", "--theta", "0.5").stdout)
    assert loose["missed"]["value"] == 0


def test_without_json_a_table(score, files):
    shown = score(files).stdout
    assert all(key in shown for key in KEYS) and "0.3333" in shown


@pytest.mark.parametrize(
    "file, line, message",
    [
        ("predictions", '{"dialogue_id": "d", "turn": 3}', "predictions.jsonl, line 3: dialogue 'd' has turn 3 twice"),
        ("predictions", '{"dialogue_id": "e", "turn": 3}', "predictions.jsonl, line 3: unknown dialogue 'e'"),
        ("predictions", '{"dialogue_id": "d", "turn": 11}', "predictions.jsonl, line 3: dialogue 'd': a prediction"),
        ("predictions", '{"dialogue_id": "d", "turn": 0}', "predictions.jsonl, line 3: turn: "),
        ("predictions", '{"dialogue_id": "d"}', "predictions.jsonl, line 3: turn: Field required"),
        ("predictions", "{oops", "predictions.jsonl, line 3: "),
        ("references", '{"dialogue_id": "d"}', "references.jsonl, line 2: dialogue 'd' has the references twice"),
        ("references", '{"dialogue_id": "e"}', "references.jsonl, line 2: unknown dialogue 'e'"),
        ("dialogues", dialogue().model_dump_json(), "dialogues.jsonl, line 2: dialogue 'd' is there twice"),
    ],
)
def test_bad_lines_end_with_one_sentence(score, files, file, line, message):
    with open(files[file], "a") as f:
        f.write(line + "\n")
    result = score(files, "--json")
    assert result.returncode == 2 and result.stdout == "" and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_file_that_is_not_there(score, files, tmp_path):
    result = score(files | {"references": tmp_path / "none.jsonl"})
    assert result.returncode == 2 and "none.jsonl" in result.stderr


def test_predictions_without_a_line_of_references_are_counted_aloud(score, files):
    files["references"].write_text("")
    result = score(files, "--json")
    assert (
        json.loads(result.stdout)["ftr"]["value"] == 1 and "1 dialogues have predictions and no line" in result.stderr
    )


def test_bench_metrics_says_what_it_measured(cli):
    said = cli("bench", "metrics", "--methods", 2, "--dialogues", 6, "--bootstrap", 20, "--json")
    assert set(json.loads(said.stdout)) == {"seconds", "cpu_seconds", "peak_mb"}


def test_bench_check_prints_what_falls_short(cli, monkeypatch):
    found = [check.Bound("speed, per second", 12, least=10), check.Bound("size, GB", 0.25, most=0.3)]
    monkeypatch.setattr(check, "CHECKS", (lambda: found,))
    said = cli("bench", "check")
    assert (said.returncode, said.stdout.splitlines()) == (
        0,
        ["ok    speed, per second: 12 (at least 10)", "ok    size, GB: 0.25 (at most 0.3)"],
    )
    found[1] = check.Bound("size, GB", 0.5, most=0.3)
    said = cli("bench", "check")
    assert said.returncode == 1 and said.stdout.splitlines()[1] == "SHORT size, GB: 0.5 (at most 0.3)"
