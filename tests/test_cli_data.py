"""The commands on data as a user runs them: what they print, what they write, how they refuse."""

import json

from proactor_lib import datasets
from proactor_lib.files import read_json, read_jsonl
from proactor_lib.schema import Catalog, DialogueReferences

from support.shared import SHARED, needs_shared


@needs_shared
def test_export_then_annotate_an_own_domain(tmp_path, cli):
    sgd = ("--dataset", "sgd", "--data-dir", SHARED / "data" / "sgd", "--split", "dev", "--limit", 25)
    assert cli("data", "export", *sgd, "--out", tmp_path).returncode == 0
    assert len(datasets.load("jsonl", tmp_path, "dev").dialogues) == 25
    own = ("--dataset", "jsonl", "--data-dir", tmp_path, "--split", "dev")
    direct = cli("annotate", *sgd, "--annotator", "evidence", "--out", tmp_path / "a" / "refs.jsonl")
    ran = cli("annotate", *own, "--out", tmp_path / "b" / "refs.jsonl", "--json")
    assert direct.returncode == ran.returncode == 0 and direct.stdout == ""
    lines = [list(read_jsonl(tmp_path / d / "refs.jsonl", DialogueReferences)) for d in "ab"]
    assert lines[0] == lines[1] and len(lines[0]) == 25
    count = sum(len(line.references) for line in lines[0])
    assert json.loads(ran.stdout)["references"] == count
    assert f"{count} references; 0 of" in ran.stderr


def test_the_simulators_truth_is_exported_apart(tmp_path, cli):
    assert cli("data", "export", "--dataset", "homeloan", "--limit", 3, "--out", tmp_path).returncode == 0
    truth = list(read_jsonl(tmp_path / "truth" / "train.jsonl", DialogueReferences))
    assert tuple(truth) == datasets.load("homeloan", None, "train", limit=3).truth
    assert "truth" not in (tmp_path / "train.jsonl").read_text()


@needs_shared
def test_stats_stand_beside_the_published_ones(cli):
    ran = cli("data", "stats", "--dataset", "abcd", "--data-dir", SHARED / "data" / "abcd", "--json")
    found = json.loads(ran.stdout)
    assert found["here"]["dialogues"] == 3 and found["here"]["logged_actions"] == 9
    assert found["published"] == {"dialogues": 5647, "annotated_actions": 114978, "turns_mean": 21.2, "turns_sd": 7.2}


@needs_shared
def test_catalog_there_and_back(tmp_path, cli):
    made, list_, back = (tmp_path / f"{n}.json" for n in ("made", "list", "back"))
    source = SHARED / "data" / "abcd" / "ontology.json"
    assert cli("catalog", "import", source, "--from", "abcd", "--out", made).returncode == 0
    ran = cli("catalog", "export", made, "--to", "mcp", "--out", list_, "--json")
    assert any("preconditions are lost" in note for note in json.loads(ran.stdout)["not_expressed"])
    assert cli("catalog", "import", list_, "--from", "mcp", "--out", back).returncode == 0
    assert list(read_json(back, Catalog).by_name) == list(read_json(made, Catalog).by_name)


def test_mistakes_end_with_one_sentence_and_nothing_written(tmp_path, cli):
    out = tmp_path / "refs.jsonl"
    (tmp_path / "catalog.json").write_text('{"domain": "d", "actions": []}')
    (tmp_path / "dialogues.jsonl").write_text('{"id": "a"}\n')
    for arguments, said in [
        (("annotate", "--dataset", "homeloan", "--no-log", "--limit", 2, "--out", out), "oracle annotator"),
        (("annotate", "--dataset", "jsonl", "--data-dir", tmp_path, "--out", out), "dialogues.jsonl, line 1: domain"),
        (("annotate", "--dataset", "homeloan", "--annotator", "magic", "--out", out), "accepted: evidence, oracle"),
        (("annotate", "--dataset", "homeloan", "--annotator", "oracle", "--out", out), "--model and --url"),
        (("annotate", "--dataset", "homeloan", "--dry-run", "--out", out), "--dry-run: annotator 'evidence' asks no"),
        (("annotate", "--dataset", "homeloan", "--model", "m", "--out", out), "the oracle is --annotator oracle"),
        (("data", "export", "--dataset", "sgd", "--data-dir", tmp_path, "--out", tmp_path / "x"), "no schema.json"),
        (("data", "fetch", "sgd", "--out", tmp_path / "x"), "accepted: abcd"),
        (
            ("catalog", "import", tmp_path / "catalog.json", "--from", "mcp", "--out", tmp_path / "x"),
            "there is no list of tools",
        ),
    ]:
        ran = cli(*arguments)
        last = ran.stderr.strip().splitlines()[-1]
        assert ran.returncode == 2 and said in last and ran.stdout == "", (arguments, ran.stderr)
        assert "Traceback" not in ran.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["catalog.json", "dialogues.jsonl"]
