"""Conversations: what each reader makes of its corpus, against the raw files read independently, and bad input."""

import gzip
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from proactor_lib import agent, datasets
from proactor_lib.datasets import abcd, homeloan, jsonl, statistics
from proactor_lib.errors import UserError
from proactor_lib.params import load_params
from proactor_lib.run import Run, prepare_data
from proactor_lib.values import normalise

from support.shared import ABCD, SGD, needs_shared

# the simulator


def test_simulated_calls_have_the_shape_that_they_promise():
    corpus = datasets.load("homeloan", None, "train", limit=200)
    turns = [len(d.turns) for d in corpus.dialogues]
    assert min(turns) >= 30 and max(turns) <= 50
    assert len(corpus.catalog.actions) >= 12 and all(len(a.params) <= 3 for a in corpus.catalog.actions)
    assert {r.name for line in corpus.truth for r in line.references} == set(corpus.catalog.by_name)
    covered = [
        any(r.window.covers(t) for r in line.references)
        for d, line in zip(corpus.dialogues, corpus.truth, strict=True)
        for t in range(1, len(d.turns) + 1)
    ]
    assert 0.4 < sum(covered) / len(covered) < 0.6


def test_simulated_truth_agrees_with_the_log_and_the_preconditions():
    corpus = datasets.load("homeloan", None, "dev", limit=100)
    for dialogue, line in zip(corpus.dialogues, corpus.truth, strict=True):
        logged = [(o.turn, o.name, o.params) for o in dialogue.observed]
        assert logged == [(r.observed_turn, r.name, r.values()) for r in line.references]
        for r in line.references:
            for needed in corpus.catalog.by_name[r.name].preconditions:
                assert any(o.name == needed and o.turn <= r.window.ready for o in dialogue.observed)


def test_simulated_values_are_said_at_their_evidence_turn():
    corpus = datasets.load("homeloan", None, "train", limit=200)
    said = [
        f" {normalise(p.value)} " in f" {normalise(d.turns[p.turn - 1].text)} "
        for d, line in zip(corpus.dialogues, corpus.truth, strict=True)
        for r in line.references
        for p in r.params.values()
    ]
    assert sum(said) / len(said) > 0.99


def test_simulated_calls_come_from_seed_split_and_index():
    text = lambda d: tuple(t.text for t in d.turns)  # noqa: E731
    calls = {(s, n): text(homeloan.simulate(s, n)[0]) for s in ("train", "dev", "test") for n in range(100)}
    assert len(set(calls.values())) == 300
    assert text(homeloan.simulate("dev", 7)[0]) == calls["dev", 7]
    assert text(homeloan.simulate("dev", 7, seed=1)[0]) != calls["dev", 7]


def test_a_call_that_has_used_all_values_of_a_parameter_ends():
    call, truth = homeloan.simulate("train", 88, seed=22)  # five documents are asked for, and one is corrected
    said = [action.params["doc"] for action in call.observed if action.name == "request_docs"]
    assert len(said) == len(set(said)) == 3 and len(truth.references) == 4
    drawing = homeloan._Call("any")
    bureaus = [drawing.value("bureau") for _ in range(4)]
    assert sorted(bureaus[:3]) == ["Equifax", "Experian", "TransUnion"] and bureaus[3] is None
    assert {tuple(drawing._versions("bureau", "Equifax")) for _ in range(100)} == {("Equifax",)}  # no other is left


def test_simulated_log_can_be_left_out():
    with_log = datasets.load("homeloan", None, "test", limit=3)
    without = datasets.load("homeloan", None, "test", limit=3, log=False)
    assert with_log.logged and not without.logged
    assert [d.turns for d in without.dialogues] == [d.turns for d in with_log.dialogues]
    assert without.truth == with_log.truth == homeloan.truth("test", 3)


def test_withdrawn_wishes_have_no_reference():
    for index in range(100):
        dialogue, truth = homeloan.simulate("train", index)
        texts = [t.text for t in dialogue.turns]
        said = homeloan._says()["withdraw"]
        for turn in (i for i, text in enumerate(texts, start=1) if text in said):
            wished = next(n for n, a in homeloan._says()["actions"].items() if texts[turn - 3] in a["hedge"])
            assert wished not in {r.name for r in truth.references}


# Schema-Guided Dialogue


def raw_sgd(split: str) -> dict[str, dict]:
    dialogues = {}
    for path in sorted((SGD / split).glob("dialogues_*.json.gz")):
        with gzip.open(path) as f:
            dialogues |= {d["dialogue_id"]: d for d in json.load(f)}
    return dialogues


@pytest.fixture(scope="module")
def sgd_dev():
    return datasets.load("sgd", SGD, "dev")


@needs_shared
def test_sgd_service_calls_belong_to_the_user_turn_before(sgd_dev):
    raw, corpus = raw_sgd("dev"), sgd_dev
    assert [d.id for d in corpus.dialogues] == list(raw)
    for dialogue in corpus.dialogues:
        turns = raw[dialogue.id]["turns"]
        calls = [
            (i, f"{f['service']}.{f['service_call']['method']}", f["service_call"]["parameters"])
            for i, t in enumerate(turns)  # index i from 0 is the number, from 1, of the turn before
            for f in t["frames"]
            if "service_call" in f
        ]
        assert [(o.turn, o.name, o.params) for o in dialogue.observed] == calls
        assert all(dialogue.turns[o.turn - 1].speaker == "user" for o in dialogue.observed)
        assert {name.split(".")[0] for name in dialogue.actions} == set(raw[dialogue.id]["services"])


@needs_shared
def test_sgd_splits_describe_an_action_alike():
    train, dev = (datasets.read_catalog("sgd", SGD, s).by_name for s in ("train", "dev"))
    assert all(train[name] == dev[name] for name in train.keys() & dev.keys()) and train.keys() & dev.keys()


@needs_shared
def test_sgd_reads_plain_json_and_a_split_folder_itself(tmp_path, sgd_dev):
    for name in ("schema", "dialogues_001"):
        with gzip.open(SGD / "dev" / f"{name}.json.gz") as f, open(tmp_path / f"{name}.json", "wb") as plain:
            shutil.copyfileobj(f, plain)
    here, there = datasets.load("sgd", tmp_path, "dev"), sgd_dev
    assert here.dialogues == there.dialogues[: len(here.dialogues)] and len(here.dialogues) == 128
    assert here.catalog == there.catalog


@needs_shared
def test_a_limit_draws_from_all_of_a_split_and_a_greater_one_keeps_what_a_smaller_one_drew():
    """SGD's first 64 dialogues of train are all about Restaurants_1; of its 22 services here a draw has most."""
    whole, few = datasets.load("sgd", SGD, "train").dialogues, datasets.load("sgd", SGD, "train", limit=64).dialogues
    more, other = datasets.shuffled(whole, seed=0)[:80], datasets.shuffled(whole, seed=1)[:64]
    assert list(few) == more[:64] and {d.id for d in few} != {d.id for d in other}
    assert more == [d for d in datasets.shuffled(whole[::-1], seed=0) if d in more]
    for drawn in (few, other):
        assert len({s for d in drawn for s in d.services}) >= 16
        assert sum("Restaurants_1" in d.services for d in drawn) < 20  # 181 of 1,470
    assert whole[0].id == "1_00000"  # without a limit it is the corpus's order


# ABCD


@needs_shared
def test_abcd_action_lines_leave_the_transcript():
    corpus = datasets.load("abcd", ABCD, "train")
    raw = json.loads((ABCD / "abcd_sample.json").read_text())
    for dialogue, chat in zip(corpus.dialogues, raw, strict=True):
        spoken = [(s, text) for s, text in chat["original"] if s != "action"]
        assert [(t.speaker, t.text) for t in dialogue.turns] == spoken
        assert len(dialogue.observed) == len(chat["original"]) - len(spoken)


@needs_shared
def test_abcd_values_get_slot_names():
    first, second, third = datasets.load("abcd", ABCD, "train").dialogues
    assert [(o.turn, o.name, o.params) for o in first.observed] == [
        (6, "pull-up-account", {"customer_name": "crystal minh"}),
        (11, "validate-purchase", {"username": "cminh730", "email": "cminh730@email.com", "order_id": "3348917502"}),
        (20, "enter-details", {"details_slotval": "(977) 625-2661"}),
        (20, "notify-team", {"company_team": "manager"}),
    ]
    assert second.observed[1].params["order_id"] == "7916676427"
    assert [(o.turn, o.name, o.params) for o in third.observed] == [
        (13, "search-faq", {}),
        (13, "search-timing", {}),
        (13, "select-faq", {"storewide_query": "timing_4"}),
    ]


@pytest.mark.parametrize(
    "values, slots, expected",
    [
        (["3348917502", "joe doe", "12345"], ["customer_name", "account_id", "order_id", "zip_code"],
         {"customer_name": "joe doe", "order_id": "3348917502", "zip_code": "12345"}),
        (["gift card"], ["reason_slotval", "product", "refund_target"], {"refund_target": "gift card"}),
        (["something", "manager"], ["company_team", "note"], {"company_team": "manager", "note": "something"}),
        (["", "9kfy4aohgq"], ["customer_name", "account_id"], {"account_id": "9kfy4aohgq"}),
        (["a", "b"], ["only"], {"only": "a"}),
    ],
)  # fmt: skip
def test_values_find_their_slots(values, slots, expected):
    known = {"refund_target": {"gift card"}, "company_team": {"manager"}}
    assert abcd.named(values, slots, known) == expected


@needs_shared
def test_abcd_full_file_has_splits(tmp_path):
    chats = json.loads((ABCD / "abcd_sample.json").read_text())
    with gzip.open(tmp_path / "abcd_v1.1.json.gz", "wt") as f:
        json.dump({"train": chats[:2], "dev": chats[2:], "test": []}, f)
    shutil.copy(ABCD / "ontology.json", tmp_path)
    assert [d.id for d in datasets.load("abcd", tmp_path, "dev").dialogues] == ["abcd-" + str(chats[2]["convo_id"])]
    with pytest.raises(UserError, match="no split 'validation'; it has: train, dev, test"):
        datasets.load("abcd", tmp_path, "validation")
    with pytest.raises(UserError, match="split 'test' has no dialogue"):
        datasets.load("abcd", tmp_path, "test")


@needs_shared
def test_dialogues_that_are_too_long_are_left_out():
    corpus = datasets.load("abcd", ABCD, "train", max_turns=20)
    assert [len(d.turns) <= 20 for d in corpus.dialogues] == [True, True] and corpus.too_long == 1
    described = statistics.describe(corpus)
    assert described["left_out_too_long"] == 1 and described["logged_actions"] == 5 and described["windows"] is None
    assert statistics.published("abcd", "train")["dialogues"] == 5647
    assert statistics.published("sgd", "train") is None


def test_a_corpus_without_dialogues_has_no_means():
    described = statistics.describe(datasets.Corpus(datasets.load("homeloan", None, "train", limit=1).catalog, ()))
    assert (described["dialogues"], described["turns_mean"], described["turns_sd"]) == (0, None, None)


# own domain

DAY = {"name": "day", "type": "string", "description": "", "required": True, "values": [], "source": "user"}
VISIT = {"name": "book_visit", "description": "", "effect": "write", "preconditions": [], "params": [DAY]}
CATALOG = {"domain": "clinic", "version": "1", "actions": [VISIT]}
LINE = {
    "id": "a",
    "domain": "clinic",
    "turns": [{"speaker": "patient", "text": "Monday please"}],
    "observed": [{"turn": 1, "name": "book_visit", "params": {"day": "Monday"}}],
}


def own_domain(folder: Path, *lines: dict | str, name: str = "dialogues.jsonl") -> Path:
    (folder / "catalog.json").write_text(json.dumps(CATALOG))
    (folder / name).write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return folder


def test_own_domain(tmp_path):
    folder = own_domain(tmp_path, LINE, "", {**LINE, "id": "b", "observed": None})
    corpus = datasets.load("jsonl", folder, "train")
    assert [d.id for d in corpus.dialogues] == ["a", "b"] and not corpus.logged
    own_domain(folder, {**LINE, "id": "c"}, name="dev.jsonl")
    assert [d.id for d in datasets.load("jsonl", folder, "dev").dialogues] == ["c"]


@pytest.mark.parametrize(
    "lines, said",
    [
        (["{"], r"dialogues.jsonl, line 1: .*JSON"),
        ([LINE, {**LINE, "id": "b", "turns": []}], "line 2: turns: "),
        ([{k: v for k, v in LINE.items() if k != "domain"}], "line 1: domain: .*accepted keys: id, domain"),
        ([{**LINE, "speaker": "x"}], "line 1: speaker: "),
        ([{**LINE, "observed": [{"turn": 1, "name": "call"}]}], "unknown action 'call'; the catalog has: book_visit"),
        ([{**LINE, "observed": [{"turn": 1, "name": "book_visit", "params": {"hour": "9"}}]}],
         "'book_visit' has no parameter 'hour'; it has: day"),
        ([{**LINE, "observed": [{"turn": 2, "name": "book_visit"}]}], "at turn 2, the dialogue has 1 turns"),
        ([{**LINE, "actions": ["call"]}], "actions: unknown action 'call'"),
        ([{**LINE, "services": ["bank"]}], "services: no action of the catalog has the group 'bank'; it has: "),
        ([LINE, LINE], "line 2: the id 'a' was used at line 1 before"),
    ],
)  # fmt: skip
def test_bad_lines_are_named(lines, said, tmp_path):
    with pytest.raises(UserError, match=said):
        datasets.load("jsonl", own_domain(tmp_path, *lines), "train")


@pytest.mark.parametrize(
    ("action", "param", "refused"),
    [("book visit", "day", "book visit"), ("book=visit", "day", "book=visit"), ("book_visit", "from|to", "from|to"),
     ("book_visit", "a=b", "a=b"), ("", "day", ""), ("book_visit", "", ""), ("book_visit", "first day", None)],
)  # fmt: skip
def test_names_that_an_agent_cannot_write_are_refused(action, param, refused, tmp_path):
    folder = own_domain(tmp_path, {**LINE, "observed": []})
    described = {**VISIT, "name": action, "params": [{**DAY, "name": param}]}
    (folder / "catalog.json").write_text(json.dumps({**CATALOG, "actions": [described]}))
    if refused is None:
        assert agent.parse(f"ready: {action} | {param}=Monday").actions[0].params == {param: "Monday"}
        assert datasets.load("jsonl", folder, "train").catalog.actions[0].params[0].name == param
    else:
        with pytest.raises(UserError, match=f"catalog.json: an agent cannot write the name '{re.escape(refused)}'"):
            datasets.load("jsonl", folder, "train")


def test_bad_places_are_named(tmp_path):
    for arguments, said in [
        (("mwoz", tmp_path, "train"), f"unknown dataset 'mwoz'; accepted: {', '.join(datasets.DATASETS)}"),
        (("sgd", None, "train"), "needs a data folder"),
        (("sgd", tmp_path / "none", "train"), "none is not there"),
        (("sgd", tmp_path, "train"), "no schema.json"),
        (("abcd", tmp_path, "train"), "cannot read .*ontology.json: No such file"),
        (("jsonl", tmp_path, "train"), "is not an own domain: it has no catalog.json"),
        (("homeloan", None, "train", 3, 20), "30 turns or more"),
        (("homeloan", None, "tset", 3), "the simulator has no split 'tset'; accepted: train, dev, test"),
    ]:
        with pytest.raises(UserError, match=said):
            datasets.load(*arguments)
    with pytest.raises(UserError, match="unknown transcript 'robot'; accepted: human, recogniser"):
        datasets.load("homeloan", None, "train", 3, transcript="robot")
    (tmp_path / "catalog.json").write_text(json.dumps(CATALOG))
    with pytest.raises(UserError, match="neither dev.jsonl nor dialogues.jsonl; splits there: none"):
        datasets.load("jsonl", tmp_path, "dev")


@pytest.mark.parametrize(
    "dataset, folder",
    [
        ("homeloan", None),
        pytest.param("sgd", SGD, marks=needs_shared),
        pytest.param("abcd", ABCD, marks=needs_shared),
    ],
)
def test_what_is_exported_loads_the_same(dataset, folder, tmp_path):
    for split in ("train", "dev"):
        before = datasets.load(dataset, folder, split, limit=30)
        jsonl.write(tmp_path, split, before.catalog, before.dialogues)
        after = datasets.load("jsonl", tmp_path, split)
        assert after.dialogues == before.dialogues
        assert all(after.catalog.by_name[a.name] == a for a in before.catalog.actions)


def test_the_recipe_for_a_dataset_is_all_that_it_takes(tmp_path, monkeypatch):
    """CONTRIBUTING: a module with `read(folder, split)`, and its name in datasets/__init__.py."""
    corpus = datasets.load("homeloan", None, "train", limit=4)
    mine = SimpleNamespace(read=lambda folder, split: (corpus.catalog, corpus.dialogues))
    monkeypatch.setitem(sys.modules, "proactor_lib.datasets.mine", mine)
    monkeypatch.setattr(datasets, "DATASETS", (*datasets.DATASETS, "mine"))
    settings = {"dataset": "mine", "data_dir": str(tmp_path), "train_dialogues": 2}
    run = Run.open(load_params(None, settings), tmp_path / "run")
    prepare_data(run, splits=("train",))
    assert run.dialogues("train") == datasets.shuffled(corpus.dialogues, seed=0)[:2]
    with pytest.raises(UserError, match="dataset: there is no such dataset; accepted: homeloan, .*, mine, got 'other'"):
        load_params(None, settings | {"dataset": "other"})


def test_export_refuses_a_folder_of_another_catalog(tmp_path):
    folder = own_domain(tmp_path, LINE)
    other = json.loads(json.dumps(CATALOG))
    other["actions"][0]["effect"] = "read"
    corpus = datasets.load("jsonl", folder, "train")
    (folder / "catalog.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="describes 'book_visit' otherwise"):
        jsonl.write(folder, "dev", corpus.catalog, corpus.dialogues)
    assert not (folder / "dev.jsonl").exists()
