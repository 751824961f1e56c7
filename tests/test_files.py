"""Text from anywhere, and files that are written where they are wanted: the cases of ../shared/docs/CASES.md."""

import errno
import gzip
import json
import os
import subprocess
import sys
import threading

import pytest
from proactor_lib import cli
from proactor_lib.errors import UserError
from proactor_lib.files import atomic, numbered_jsonl, read_json, read_jsonl, read_text, write_jsonl
from proactor_lib.schema import Catalog, Dialogue, DialogueReferences, TurnPrediction
from proactor_lib.yaml_text import parse_yaml, read_yaml

LINE = '{"id": "a", "domain": "bakery", "turns": [{"speaker": "user", "text": "Grüße"}]}\n'
CATALOG = '{"domain": "bakery", "actions": [{"name": "order_cake", "params": [{"name": "size"}]}]}'
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def proactor(monkeypatch, capsys):
    """Runs the command line: (exit status, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["proactor", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "data",
    [LINE.encode(), BOM + LINE.encode(), gzip.compress(LINE.encode()), LINE.replace("\n", "\r\n").encode()],
    ids=["plain", "BOM", "gzip", "CRLF"],
)
def test_text_is_read_whatever_wrote_it(tmp_path, data):
    path = tmp_path / "train.jsonl"
    path.write_bytes(data)
    (dialogue,) = read_jsonl(path, Dialogue)
    assert (dialogue.id, dialogue.turns[0].text) == ("a", "Grüße") and read_text(path) == LINE


def test_two_files_with_marks_may_be_joined(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(BOM + LINE.encode() + BOM + LINE.replace('"a"', '"b"').encode())
    assert [d.id for d in read_jsonl(tmp_path / "a.jsonl", Dialogue)] == ["a", "b"]


def test_a_catalog_a_parameter_file_and_a_document_with_a_mark(tmp_path):
    (tmp_path / "catalog.json").write_bytes(BOM + CATALOG.encode())
    (tmp_path / "p.yaml").write_bytes(BOM + b"seed: 3\n")
    assert read_json(tmp_path / "catalog.json", Catalog).domain == "bakery" and read_yaml(tmp_path / "p.yaml") == {
        "seed": 3
    }


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (LINE.encode() + LINE.encode("latin-1"), "train.jsonl, line 2: not UTF-8"),
        (LINE.encode("utf-16"), r"train.jsonl, line 1: not UTF-8 \(it begins as UTF-16 does\)"),
        (gzip.compress(LINE.encode())[:-12], "cannot read .*train.jsonl"),
    ],
    ids=["Latin-1", "UTF-16", "a torn gzip"],
)
def test_what_is_not_utf8_is_named_with_its_line(tmp_path, data, says):
    path = tmp_path / "train.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError, match=says):
        list(read_jsonl(path, Dialogue))
    with pytest.raises(UserError, match=says):
        read_text(path)


def test_a_folder_in_place_of_a_file_is_a_sentence(tmp_path):
    for read in (read_text, lambda p: list(numbered_jsonl(p, Dialogue))):
        with pytest.raises(UserError, match="cannot read .*: Is a directory"):
            read(tmp_path)
    with pytest.raises(UserError, match="it is a folder"):
        write_jsonl(tmp_path, [])


def test_a_split_may_be_gzipped(tmp_path, proactor):
    (tmp_path / "catalog.json.gz").write_bytes(gzip.compress(CATALOG.encode()))
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(LINE.encode()))
    status, out, _ = proactor("data", "stats", "--dataset", "jsonl", "--data-dir", tmp_path, "--json")
    assert status == 0 and json.loads(out)["here"]["dialogues"] == 1


def test_the_command_ends_with_one_sentence_and_status_2(tmp_path, proactor):
    (tmp_path / "catalog.json").write_text(CATALOG)
    (tmp_path / "train.jsonl").write_bytes(LINE.encode() + LINE.encode("latin-1"))
    status, _, said = proactor("data", "stats", "--dataset", "jsonl", "--data-dir", tmp_path)
    assert status == 2 and said == f"proactor: {tmp_path / 'train.jsonl'}, line 2: not UTF-8\n"


def test_null_means_absent(tmp_path):
    catalog = {"domain": "b", "version": None, "actions": [{"name": "a", "params": [{"name": "p", "values": None}]}]}
    (tmp_path / "catalog.json").write_text(json.dumps(catalog))
    read = read_json(tmp_path / "catalog.json", Catalog)
    assert (read.version, read.actions[0].params[0].values) == ("1", ())
    said = {"dialogue_id": "d", "turn": 1, "text": None, "actions": [{"name": "a", "params": {"p": None, "q": 1}}]}
    (tmp_path / "p.jsonl").write_text(json.dumps(said))
    (prediction,) = read_jsonl(tmp_path / "p.jsonl", TurnPrediction)
    assert prediction.actions[0].params == {"q": "1"} and prediction.text is None


def test_null_where_something_is_needed_is_a_missing_key(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"dialogue_id": null, "turn": 1}')
    with pytest.raises(UserError, match="p.jsonl, line 1: dialogue_id: Field required"):
        list(read_jsonl(tmp_path / "p.jsonl", TurnPrediction))


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "real.jsonl").write_text("before")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    write_jsonl(tmp_path / "link.jsonl", [DialogueReferences(dialogue_id="d")])
    assert (tmp_path / "link.jsonl").is_symlink() and '"d"' in (tmp_path / "real.jsonl").read_text()
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "link.jsonl") as f:
        f.write(str(1 / 0))
    assert '"d"' in (tmp_path / "real.jsonl").read_text()
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "new" / "file.jsonl")
    write_jsonl(tmp_path / "gone.jsonl", [])
    assert (tmp_path / "new" / "file.jsonl").exists()


def test_a_pipe_is_written_through_and_read(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.extend(read_jsonl(pipe, DialogueReferences)))
    reader.start()
    write_jsonl(pipe, [DialogueReferences(dialogue_id="d"), DialogueReferences(dialogue_id="e")])
    reader.join()
    assert [line.dialogue_id for line in read] == ["d", "e"] and pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_what_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/x.jsonl: (Not a directory|File exists)"):
        write_jsonl(tmp_path / "file" / "x.jsonl", [])


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, proactor):
    from proactor_lib.params import load_params
    from proactor_lib.run import Run

    monkeypatch.setenv("HOME", str(tmp_path))
    params = load_params(None, {"dataset": "jsonl", "data_dir": "~/x", "adapters": {"mine": "~/a"}})
    assert params.data_dir == tmp_path / "x" and params.adapters == {"mine": tmp_path / "a"}
    assert Run.open(params, "~/run").out == tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    status, *_ = proactor("data", "export", "--dataset=homeloan", "--limit=1", "--out=~/mine")
    assert status == 0 and (tmp_path / "mine" / "train.jsonl").exists() and not (tmp_path / "~").exists()


def test_yaml_is_read_as_json_would_say_it():
    text = "[on, NO, 12:30, 2024-01-01, 010, 1e1, 1e-1, 2E3, 1.5, ~, '', 0x1F, true, -.inf, 1_000]"
    assert parse_yaml(text, "t") == [
        *("on", "NO", "12:30", "2024-01-01", 10, 10, 0.1, 2000, 1.5, None, "", 31, True, float("-inf"), "1_000")
    ]  # fmt: skip
    assert parse_yaml("200: a\non: b\n~: c\n", "t") == {"200": "a", "on": "b", "~": "c"}
    assert parse_yaml("enum: [on, NO, 010, 1.50, true, ~]\nconst: 12:30", "t") == {
        "enum": ["on", "NO", "010", "1.50", "true", None],
        "const": "12:30",
    }
    assert parse_yaml("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}", "t")["b"] == {"k": 3, "l": 2}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("reward: rac\nseed: 1\nreward: rac\n", "p.yaml, line 3: the key 'reward' is there already, at line 1"),
        ("{a: 1, a: 2}", "the key 'a' is there already"),
        ("axes:\n  grid: {a: [1]}\n  grid: {b: [1]}\n", "line 3: the key 'grid' is there already, at line 2"),
        ("[a, b]: 1", "line 1: a key must be text"),
        ("a: [", "is not YAML"),
        ("a: !!python/name:os.system x", "constructor"),
    ],
)
def test_yaml_that_would_lose_something_is_refused(text, says):
    with pytest.raises(UserError, match=says):
        parse_yaml(text, "p.yaml")


def test_the_accepted_keys_are_those_of_the_object_that_is_wrong(tmp_path):
    action = {"name": "a", "params": [{"name": "p", "kind": "x"}]}
    (tmp_path / "catalog.json").write_text(json.dumps({"domain": "b", "actions": [action]}))
    with pytest.raises(UserError, match="params.0.kind: .*; accepted keys: name, type, description, required"):
        read_json(tmp_path / "catalog.json", Catalog)


def test_standard_output_that_a_shell_leads_to_a_file_is_added_to(tmp_path):
    code = "from proactor_lib.files import write_jsonl as w; print('before', flush=True); w('/dev/stdout', [{'a': 1}])"
    with open(tmp_path / "out", "a") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == 'before\n{"a": 1}\n'


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write a file: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), "cannot write /x/y: Read-only file system"),
        (RuntimeError("[enforce fail at inline_container.cc:1] . broken\nframe #0"), "cannot write a file: [enforce"),
    ],
)
def test_a_full_disk_is_one_sentence_and_status_1(proactor, monkeypatch, error, sentence):
    def fail():
        raise error

    monkeypatch.setattr(cli, "app", fail)
    status, _, said = proactor("report")
    assert status == 1 and said.startswith(f"proactor: {sentence}") and len(said.splitlines()) == 1


def test_an_error_that_is_not_the_disks_stays_what_it_is(monkeypatch):
    monkeypatch.setattr(cli, "app", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize("command", [("serve", "run"), ("cluster", "up", "--out", "x")])
def test_a_port_that_there_cannot_be_is_refused(proactor, command):
    status, _, said = proactor(*command, "--port", "70000")
    assert status == 2 and "Traceback" not in said and "65535" in said
