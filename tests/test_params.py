"""Parameter files: what they extend, numbers as people write them, and the mistakes that papermill makes easy."""

import re

import pytest
from proactor_lib import report
from proactor_lib.errors import UserError
from proactor_lib.params import hide_keys, load_params
from proactor_lib.run import Run
from proactor_lib.sweep.definition import read_sweep


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def test_a_file_extends_one_file_and_that_another(tmp_path):
    path = write(tmp_path, a="extends: b.yaml\nseed: 1\n", b="extends: c.yaml\nmax_steps: 7\n", c="seed: 2\nname: c\n")
    params = load_params(path)
    assert (params.seed, params.max_steps, params.name) == (1, 7, "c")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("extends: b.yaml", "extends itself: a.yaml extends b.yaml extends a.yaml"),
        ("extends: a.yaml", "extends itself: a.yaml extends a.yaml"),
        ("extends: [c.yaml, d.yaml]", r"extends: \['c.yaml', 'd.yaml'\] is not the path of one file"),
        ("extends: ~/missing.yaml", "cannot read .*missing.yaml"),
        ("2: x\nseed: 1", "unknown parameter '2'"),
        ("on: true\nseed: 1", "unknown parameter 'on'"),
        ("on: true\n2: 1", "unknown parameter '2'"),
        ("seed: 1\nseed: 2", "the key 'seed' is there already"),
        ("- seed", "must hold `name: value` lines"),
    ],
)
def test_what_a_file_cannot_extend_or_say_is_a_sentence(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        load_params(write(tmp_path, a=text, b="extends: a.yaml"))


@pytest.mark.parametrize("name", ["oracle", "few_shot", "a_tuned", "runs/a", "runs\\a", "a b", ".a", ""])
def test_an_adapter_that_is_named_like_another_policy_or_unlike_a_file_is_refused(name):
    with pytest.raises(UserError, match=f"adapters.{re.escape(name)}: .*accepted: .*, got {re.escape(repr(name))}"):
        load_params(None, {"adapters": {name: "a"}})
    assert load_params(None, {"adapters": {"trained": "a", "a-v1.2": "b"}}).adapters.keys() == {"trained", "a-v1.2"}


@pytest.mark.parametrize("name", ["loan/v2", "loan\\v2", "..", " loan", ""])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(UserError, match="name: files are named by it; accepted: a name without /"):
        load_params(None, {"name": name})
    assert load_params(None, {"name": "the loan, v2.1", "question": "Is it a/b?"}).name == "the loan, v2.1"


def test_keys_are_hidden_and_what_only_names_them_is_not():
    given = {
        "oracle_headers": {"api-key": "sk-1", "x-key": "$KEY"}, "judge_headers": {}, "policy_url": None,
        "oracle_url": "https://me:sk-2@a.com/v1?api-version=2024-06&api-key=sk-3,http://b.com/v1?key=sk-4&x=1",
    }  # fmt: skip
    assert hide_keys(given) == given | {
        "oracle_headers": {"api-key": "(hidden)", "x-key": "$KEY"},
        "oracle_url": "https://(hidden)@a.com/v1?api-version=2024-06&api-key=(hidden),"
        "http://b.com/v1?key=(hidden)&x=(hidden)",
    }
    assert hide_keys({"oracle_url": "serve", "name": "a?b=c"}) == {"oracle_url": "serve", "name": "a?b=c"}


def test_a_run_says_that_keys_lie_open_and_shows_none(tmp_path, caplog):
    params = load_params(None, {"policy_headers": {"api-key": "sk-1"}})
    Run.open(load_params(None, {"policy_headers": {"api-key": "$KEY"}}), tmp_path / "named")
    assert not caplog.text
    run = Run.open(params, tmp_path / "open")
    assert "open/params.json holds headers' values" in caplog.text
    assert "sk-1" in run.params_file.read_text() and "sk-1" not in report.build(run.out).read_text()
    with pytest.raises(UserError, match="policy_headers was .*hidden") as refused:
        Run.open(load_params(None, {"policy_headers": {"api-key": "sk-2"}}), tmp_path / "open")
    assert "sk-" not in str(refused.value)


def test_a_mistake_is_told_of_what_holds_it_and_one_of_several_keys_without_their_values(tmp_path):
    path = write(tmp_path, a="max_steps: 7\ncredit: counterfactual\nreward: utility\nturns_per_dialogue: 0\n")
    for overrides in ({"max_step": 3}, {"max_steps": "three"}):
        with pytest.raises(UserError, match="^the overrides: .*max_step"):
            load_params(path, overrides)
    with pytest.raises(UserError, match="a.yaml: credit 'counterfactual' needs reward 'utility' and [^{]*all turns$"):
        load_params(path, {"reward": "rac"})
    with pytest.raises(UserError, match="b.yaml: max_steps: "):
        load_params(write(tmp_path, b="max_steps: three"), {"seed": 1})


def test_extends_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sub").mkdir()
    write(tmp_path, base="seed: 9")
    assert load_params(write(tmp_path / "sub", a="extends: ~/base.yaml")).seed == 9


def test_numbers_as_people_write_them(tmp_path):
    text = "learning_rate: 1e-4\nsft_learning_rate: 2E-3\nmax_steps: 1e3\n"
    params = load_params(write(tmp_path, a=text + "oracle_sampling: {temperature: 1e-1, max_tokens: 2e3}\n"))
    assert (params.learning_rate, params.sft_learning_rate, params.max_steps) == (1e-4, 2e-3, 1000)
    assert params.oracle_sampling == {"temperature": 0.1, "max_tokens": 2000}
    assert isinstance(params.oracle_sampling["max_tokens"], int)
    sweep = "name: s\nnotebook: n.ipynb\naxes: {grid: {learning_rate: [1e-4, 0.0001], max_steps: [1e2]}}\n"
    assert read_sweep(write(tmp_path, s=sweep)).axes.grid == {"learning_rate": [1e-4, 1e-4], "max_steps": [100]}


@pytest.mark.parametrize("overrides", ["{seed: 1}", 3, ["seed"]])
def test_overrides_that_are_no_pairs_name_papermills_option(overrides):
    with pytest.raises(UserError, match=r"the overrides must be .*-y 'overrides: "):
        load_params(None, overrides)


def test_a_folder_that_papermill_made_a_number_names_its_option(tmp_path):
    with pytest.raises(
        UserError, match=r"""out must be the name of a folder, got the int 20261128; .*-y 'out: "20261128"'"""
    ):
        Run.open(load_params(), 20261128)


def test_a_core_may_be_given_as_a_number():
    assert load_params(None, {"server_cores": 1, "trainer_cores": "0"}).server_cores == "1"
