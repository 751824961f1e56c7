"""A run's folder, and the overlay of corrections that it honours."""

import json
from collections import Counter
from pathlib import Path

import pytest
from proactor_lib import datasets, files
from proactor_lib.annotate import agreement, evidence
from proactor_lib.errors import UserError
from proactor_lib.evaluate import evaluate_run
from proactor_lib.files import write_json, write_jsonl
from proactor_lib.params import load_params
from proactor_lib.report import run as report
from proactor_lib.run import SPLITS, Run, annotate_run, prepare_data
from proactor_lib.schema import DialogueReferences, ReferenceAction, Window
from proactor_lib.widgets import Explorer, Watch

from support.fake_endpoint import FakeEndpoint, Reply
from support.runs import opened
from support.truthful_oracle import Truthful


def test_open_again_with_the_same_parameters(tmp_path):
    first = Run.open(load_params(overrides={"seed": 3}), tmp_path / "r")
    again = Run.open(load_params(overrides={"seed": 3}), tmp_path / "r")
    assert first == again and load_params(first.params_file).seed == 3


def test_other_parameters_are_refused_by_name(tmp_path):
    Run.open(load_params(), tmp_path)
    with pytest.raises(
        UserError, match=r"seed was 0, now 1; learning_rate|learning_rate was 1e-05, now 0.1; .*seed was 0"
    ):
        Run.open(load_params(overrides={"seed": 1, "learning_rate": 0.1}), tmp_path)


def test_a_run_that_has_begun_may_ask_for_more_to_compare_with(tmp_path):
    begun = {"sft_steps": 4, "max_steps": 2, "policies": ["sft", "trained"]}
    more = begun | {"policies": ["sft", "sft_equal_time", "trained"], "sft_equal_time": True}
    Run.open(load_params(overrides=begun), tmp_path)
    Run.open(load_params(overrides=more), tmp_path)
    assert load_params(tmp_path / "params.json").sft_equal_time
    with pytest.raises(UserError, match="policies was .*; sft_equal_time was true, now false"):
        Run.open(load_params(overrides=begun), tmp_path)


def test_a_folder_that_is_no_runs_is_called_that(tmp_path):
    with pytest.raises(UserError, match="is not a run's folder: it has no params.json"):
        Run.read(tmp_path)


def test_a_stage_that_has_not_run_says_which_notebook_makes_it(tmp_path):
    run = Run.open(load_params(), tmp_path)
    for ask in (lambda: run.catalog, lambda: run.dialogues("train"), lambda: run.references("dev")):
        with pytest.raises(UserError, match="01_annotation"):
            ask()


def test_references_honour_the_runs_overlay(tmp_path):
    run = Run.open(load_params(), tmp_path)
    line = DialogueReferences(
        dialogue_id="d", references=(ReferenceAction(id="r", name="a", window=Window(open=1, ready=2, close=3)),)
    )
    write_jsonl(run.annotations / "dev.jsonl", [line])
    assert run.references("dev") == [line]
    run.overlay.write_text('{"dialogue_id": "d", "name": "a", "window": {"open": 2, "ready": 2, "close": 2}}\n')
    assert run.references("dev")[0].references[0].window == Window(open=2, ready=2, close=2)


def test_a_correction_made_in_the_explorer_moves_no_window_of_another_split(tmp_path):
    """SGD's train and dev share ids."""
    run = Run.open(load_params(), tmp_path)
    turns = ({"speaker": "user", "text": "Hello."},) * 3
    needed = ReferenceAction(id="r", name="a", window=Window(open=1, ready=2, close=3))
    line = DialogueReferences(dialogue_id="1_00000", references=(needed,))
    for split in ("train", "dev"):
        write_jsonl(run.data / f"{split}.jsonl", [{"id": "1_00000", "domain": "own", "turns": turns}])
        write_jsonl(run.annotations / f"{split}.jsonl", [line])
    Explorer.of(run, "dev").withdraw.click()
    assert run.references("train") == [line] and run.references("dev")[0].references == ()


def test_a_named_overlay_must_be_there(tmp_path):
    run = Run.open(load_params(overrides={"overlay": str(tmp_path / "mine.jsonl")}), tmp_path / "r")
    write_jsonl(run.annotations / "dev.jsonl", [DialogueReferences(dialogue_id="d")])
    with pytest.raises(UserError, match="mine.jsonl"):
        run.references("dev")


def test_a_split_joins_dialogues_references_and_the_catalog_that_each_is_shown(tmp_path):
    run = Run.open(load_params(), tmp_path)
    turns = ({"speaker": "user", "text": "Hello."},)
    dialogues = [{"id": i, "domain": "own", "turns": turns, "actions": a} for i, a in (("d", ["b"]), ("e", []))]
    write_jsonl(run.data / "dev.jsonl", dialogues)
    write_json(run.data / "catalog.json", {"domain": "own", "actions": [{"name": "a"}, {"name": "b"}]})
    needed = ReferenceAction(id="r", name="b", window=Window(open=1, ready=1, close=1))
    write_jsonl(run.annotations / "dev.jsonl", [DialogueReferences(dialogue_id="d", references=(needed,))])
    first, second = run.split("dev")
    assert (first.dialogue, first.references) == (run.dialogues("dev")[0], (needed,)) and second.references == ()
    assert [[a.name for a in c.catalog.actions] for c in (first, second)] == [["b"], ["a", "b"]]
    assert first.line == run.references("dev")[0]


def test_a_split_is_read_once_a_process_and_again_only_when_its_file_has_changed(tmp_path, monkeypatch):
    """Policies, tables, report and widgets, each with a `Run` of its own."""
    reads = Counter()

    def counted(path, model, read=files.numbered_jsonl):
        reads[Path(path).relative_to(tmp_path).as_posix()] += 1
        return read(path, model)

    monkeypatch.setattr(files, "numbered_jsonl", counted)
    run = opened(tmp_path, policies=["oracle", "silent"], bootstrap=10)
    evaluate_run(run)
    report.build(run.out)
    Explorer.of(Run(run.params, tmp_path), "test")
    Watch.of(Run(run.params, tmp_path))
    assert reads["data/test.jsonl"] == reads["references/test.jsonl"] == 1
    write_jsonl(run.data / "test.jsonl", run.dialogues("test")[:1])
    assert len(run.split("test")) == 1 and reads["data/test.jsonl"] == 2


def line_of(number):
    turns = [{"speaker": "user", "text": f"Hello {number}."}, {"speaker": "agent", "text": "Hello."}]
    return json.dumps({"id": f"d{number}", "domain": "own", "turns": turns}) + "\n"


def prepared(tmp_path, lines, **sizes):
    """A run of a corpus in one file, without splits."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "catalog.json").write_text('{"domain": "own", "version": "1", "actions": [{"name": "a"}]}')
    (tmp_path / "dialogues.jsonl").write_text("".join(map(line_of, range(lines))))
    run = Run.open(load_params(overrides={"dataset": "jsonl", "data_dir": str(tmp_path), **sizes}), tmp_path / "run")
    prepare_data(run)
    return {split: [d.id for d in run.dialogues(split)] for split in SPLITS}


def test_no_dialogue_is_in_two_splits(tmp_path):
    """A corpus without splits: what is held out is taken first, and a larger training set does not move it."""
    sizes = {"train_dialogues": 3, "dev_dialogues": 1, "test_dialogues": 2}
    drawn = {"test": ["d7", "d5"], "dev": ["d6"], "train": ["d4", "d0", "d2"]}  # by the SHA-256 of "0 d0", "0 d1", ...
    assert prepared(tmp_path / "a", 9, **sizes) == drawn
    more = prepared(tmp_path / "b", 9, **sizes | {"train_dialogues": 5})
    assert more == drawn | {"train": ["d4", "d0", "d2", "d3", "d8"]}


def test_too_few_dialogues_for_three_splits(tmp_path):
    with pytest.raises(UserError, match="split 'train' has no dialogue left over by the other splits"):
        prepared(tmp_path, 3, train_dialogues=3, dev_dialogues=1, test_dialogues=2)


def asked_twice(tmp_path, second, **more):
    """A run of simulated calls whose oracle answers the truth when first asked, and half of it when asked again."""
    sizes = {f"{s}_dialogues": 3 for s in ("train", "dev", "test")}
    loaded = [datasets.load("homeloan", None, s, limit=3, max_turns=50) for s in ("train", "dev", "test")]
    answers = Truthful([d for c in loaded for d in c.dialogues], [t for c in loaded for t in c.truth])

    def answer(request, n):
        return answers(request) if n == 1 else Reply(json.dumps(half(json.loads(answers(request).text))))

    with FakeEndpoint(answer) as server:
        asked = {"annotator": "oracle", "oracle_url": server.url, "oracle_model": "m", "second_annotator": second}
        run = Run.open(load_params(None, sizes | asked | more), tmp_path / "run")
        prepare_data(run)
        annotate_run(run)
        count = len(server.requests)
        annotate_run(run)
        assert len(server.requests) == count  # what was paid for stays
    return run, count


def half(answer):
    kept = {name for name in list(answer)[::2]}
    return {name: items if name in kept else [] for name, items in answer.items()}


def test_a_second_annotator_is_compared_with_and_stays_out_of_what_follows(tmp_path, monkeypatch):
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))
    run, count = asked_twice(tmp_path, "evidence")
    assert count == 9 and run.second("train") != run.truth("train")
    assert run.second("train") == [evidence.annotate(d, run.catalog) for d in run.dialogues("train")]
    alpha = agreement.agreement(run.dialogues("train"), run.references("train"), run.second("train")).value.iloc[-1]
    assert 0.5 < alpha < 1  # the evidence annotator is near the truth, not on it
    assert [x.window for r in run.references("dev") for x in r.references] == [
        x.window
        for t in run.truth("dev")
        for x in sorted(t.references, key=lambda x: tuple(x.window.model_dump().values()))
    ]


def test_nothing_is_paid_for_where_the_second_annotator_refuses_the_corpus(tmp_path):
    with FakeEndpoint(lambda r, n: Reply("no")) as server:
        asked = {"annotator": "oracle", "oracle_url": server.url, "oracle_model": "m", "second_annotator": "evidence"}
        run = Run.open(load_params(None, {"train_dialogues": 2, "homeloan_log": False} | asked), tmp_path / "run")
        prepare_data(run, splits=("train",))
        with pytest.raises(UserError, match="no log of triggers"):
            annotate_run(run, splits=("train",))
        assert not server.requests


def test_an_oracle_is_asked_anew_as_its_own_second_and_filtered_by_that(tmp_path, monkeypatch):
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))
    run, count = asked_twice(tmp_path, "oracle", quality_filter={"iou": 0.75})
    assert count == 18 and run.second("test") != run.annotated("test")
    found = agreement.pairs(run.annotated("test"), run.second("test"))
    assert set(found.iou) == {0.0, 1.0}  # what is left of the second asking is the first's
    means = found.groupby("dialogue_id").iou.mean()
    assert {d.id for d in run.dialogues("test")} == set(means.index[means >= 0.75])
    assert all("second annotator" in reason for reason in run.removed("test").values())


def test_an_oracle_is_asked_about_dialogues_that_came_or_changed_later_and_about_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))

    def nothing(request, n):
        return Reply(json.dumps(dict.fromkeys(request["response_format"]["json_schema"]["schema"]["properties"], [])))

    with FakeEndpoint(nothing) as server:
        asked = {"annotator": "oracle", "oracle_url": server.url, "oracle_model": "m"}
        run = Run.open(load_params(None, asked), tmp_path / "run")
        write_json(run.data / "catalog.json", {"domain": "own", "actions": [{"name": "a"}]})

        def annotated(*lines):
            """How often the oracle is asked about these dialogues, and which of them have references after it."""
            (run.data / "train.jsonl").write_text("".join(lines))
            before = len(server.requests)
            annotate_run(run, splits=("train",))
            return len(server.requests) - before, [r.dialogue_id for r in run.annotated("train")]

        corrected = line_of(1).replace("Hello 1", "Goodbye")
        assert annotated(line_of(0), line_of(1)) == (2, ["d0", "d1"])
        assert annotated(line_of(0), line_of(1)) == (0, ["d0", "d1"])
        assert annotated(line_of(0), line_of(1), line_of(2)) == (1, ["d0", "d1", "d2"])
        assert annotated(line_of(0), corrected) == (1, ["d0", "d1"])
        (run.annotations / "train.made.json").unlink()  # as an older version left it
        assert annotated(line_of(5)) == (0, ["d0", "d1"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"second_annotator": "oracle"}, "needs oracle_model and oracle_url"),
     ({"second_annotator": "evidence"}, "always says the same"),
     ({"quality_filter": {"iou": 0.5}}, "'iou' needs a second_annotator"),
     ({"oracle_sampling": {"seed": 1}}, "no request may carry a seed")],
)  # fmt: skip
def test_annotation_parameters_that_cannot_be(settings, says):
    with pytest.raises(UserError, match=says):
        load_params(None, settings)


def test_a_filter_keeps_what_it_removes_from_every_later_stage(tmp_path):
    """Corrections by hand withdraw one of d0's two references, and move d1's off its trigger."""
    log = lambda *turns: [{"turn": t, "name": "a"} for t in turns]  # noqa: E731
    rows = [json.loads(line_of(i)) | {"observed": log(1, 2) if i == 0 else log(2)} for i in range(4)]
    (tmp_path / "catalog.json").write_text('{"domain": "own", "version": "1", "actions": [{"name": "a"}]}')
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    settings = {"dataset": "jsonl", "data_dir": str(tmp_path), "quality_filter": {"coverage": 0.6, "logged": 1}}
    run = Run.open(load_params(overrides=settings), tmp_path / "run")
    prepare_data(run, splits=("train",))
    said = []
    annotate_run(run, said.append, splits=("train",))
    assert "took out 0 dialogues and 0 references" in said[-1] and len(run.references("train")) == 4
    run.overlay.write_text(
        '{"dialogue_id": "d0", "name": "a", "occurrence": 1, "window": null}\n'
        '{"dialogue_id": "d1", "reference_id": "r1", "window": {"open": 1, "ready": 1, "close": 1}}\n'
    )
    annotate_run(run, said.append, splits=("train",))
    assert run.removed("train") == {
        ("d0", None): "windows hold 0.50 of its logged triggers, below 0.6",
        ("d1", None): "windows hold 0.00 of its logged triggers, below 0.6",
    }
    assert [d.id for d in run.dialogues("train")] == [r.dialogue_id for r in run.references("train")] == ["d2", "d3"]
    assert "took out 2 dialogues and 0 references" in said[-1] and len(run.conversations("train")) == 4
    run.overlay.unlink()
    annotate_run(run, said.append, splits=("train",))  # judged again, with every dialogue
    assert len(run.dialogues("train")) == 4 and not run.removed("train")
