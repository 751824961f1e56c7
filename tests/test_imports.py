"""What becomes of imported conversations: splits, times, an earlier import, the page that says so."""

import errno
import json

import pytest
from proactor_lib import datasets
from proactor_lib.annotate import evidence
from proactor_lib.cli import app
from proactor_lib.comparison import agreement
from proactor_lib.datasets import imported
from proactor_lib.datasets.conversations import seconds
from proactor_lib.errors import UserError
from proactor_lib.schema import Dialogue, Turn
from typer.testing import CliRunner

from support.imports import BLOCKS, CHAT, written
from support.shared import SHARED, needs_shared


@pytest.mark.parametrize(
    "text, value",
    [
        ("01:02.5", 62.5),
        ("1:00:00,25", 3600.25),
        ("7", 7.0),
        (3, 3),
        ("", None),
        (float("nan"), None),
        ("inf", None),
        ("1970-01-02T00:00:01", 86401.0),
        *[(1_764_331_200 * 1000**n, 1_764_331_200.0) for n in range(4)],  # since 1970, down to nanoseconds
        ("1764331200500000", 1_764_331_200.5),
    ],
)
def test_time_stamps(text, value):
    assert seconds(text) == value


def test_splits_are_drawn_by_seed_and_what_is_the_same_stays_together():
    made = [Dialogue(id=f"d{i}", domain="x", turns=[Turn(speaker="u", text=f"t{i % 9}")]) for i in range(18)]
    parts = imported.split(made, (0.8, 0.1, 0.1), 0)
    assert [len(parts[name]) for name in ("train", "dev", "test")] == [14, 2, 2]
    assert parts["dev"][0].turns == parts["dev"][1].turns
    back = imported.split(made[::-1], (0.8, 0.1, 0.1), 0)
    assert [sorted(d.id for d in p) for p in parts.values()] == [sorted(d.id for d in p) for p in back.values()]
    assert parts["test"] != imported.split(made, (0.8, 0.1, 0.1), 1)["test"]
    assert [len(p) for p in imported.split(made[:3], (0.8, 0.1, 0.1), 0).values()] == [1, 1, 1]
    for shares in [(0.8, 0.1), (0.8, 0.1, 0.2), (1.1, 0, -0.1), (float("nan"),) * 3, (0.5, float("nan"), 0.5)]:
        with pytest.raises(UserError, match="three shares"):
            imported.split(made, shares, 0)


def test_an_import_replaces_an_earlier_one_and_nothing_else(tmp_path):
    def run(value, out):
        path = written(tmp_path, "a.json", value)
        return CliRunner().invoke(app, ["data", "import", str(path), "--from", "chat", "--out", str(out)])

    out = tmp_path / "out"
    assert run(CHAT, out).exit_code == 0 and run(BLOCKS, out).exit_code == 0
    assert "guest.name" not in (out / "catalog.json").read_text()
    (out / "import.md").unlink()
    assert "holds another domain" in str(run(CHAT, out).exception)


def import_(chats, out, *further):
    return CliRunner().invoke(app, ["data", "import", str(chats), "--from", "chat", "--out", str(out), *further])


def test_an_import_that_finds_the_disk_full_leaves_the_earlier_one(tmp_path, monkeypatch):
    """Its catalog may have been corrected by hand; once there is room, a split without dialogues is no more there."""
    out, chats = tmp_path / "out", written(tmp_path, "a.jsonl", "\n".join(json.dumps(chat_of(n)) for n in "abc"))
    assert import_(chats, out).exit_code == 0 and (out / "dev.jsonl").exists()
    (out / "catalog.json").write_text((out / "catalog.json").read_text().replace('"version": "1"', '"version": "7"'))
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with monkeypatch.context() as full:
        full.setattr("proactor_lib.datasets.jsonl.write_jsonl", no_room)
        assert import_(chats, out).exception.errno == errno.ENOSPC
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    again = import_(chats, out, "--tools", str(out / "catalog.json"), "--split", "1,0,0")
    assert again.exit_code == 0, again.exception
    assert sorted(p.name for p in out.iterdir()) == ["catalog.json", "import.md", "train.jsonl"]
    assert (out / "catalog.json").read_bytes() == before["catalog.json"]  # left as it was, its version too


def chat_of(word):
    call = {"function": {"name": "find", "arguments": {"word": word}}}
    return [{"role": "user", "content": word}, {"role": "assistant", "tool_calls": [call]}]


def no_room(path, records):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


@pytest.mark.parametrize("command", ["data import", "assess"])
@pytest.mark.parametrize("below, reason", [("", "it is a file"), ("x", "Not a directory")])
def test_a_file_where_the_folder_should_be_is_named(tmp_path, cli, command, below, reason):
    chats, out = written(tmp_path, "a.json", CHAT), written(tmp_path, "out", "mine") / below
    ran = cli(*command.split(), chats, "--from", "chat", "--out", out)
    assert (ran.returncode, ran.stdout) == (2, "") and (tmp_path / "out").read_text() == "mine"
    (sentence,) = ran.stderr.splitlines()
    assert sentence.startswith(f"proactor: cannot write into {out}") and "the name of a folder is wanted" in sentence
    assert reason in sentence or command == "assess"


@pytest.mark.parametrize("name, marked", [("train.jsonl", False), ("train.jsonl", True), ("other.jsonl", False)])
def test_an_import_never_replaces_what_it_reads_nor_anothers_splits(tmp_path, name, marked):
    """A folder with the chats in it, one that an earlier import has marked too, and one with another's test split."""
    chats = written(tmp_path, name, json.dumps({"messages": CHAT}))
    foreign = written(tmp_path, "test.jsonl" if name == "other.jsonl" else "notes.txt", "mine")
    if marked:
        written(tmp_path, imported.PAGE, "")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    command = ["data", "import", str(chats), "--from", "chat", "--out", str(tmp_path)]
    error = CliRunner().invoke(app, command).exception
    said = "train.jsonl is what is imported" if chats.name == "train.jsonl" else f"a {foreign.name} without import.md"
    assert isinstance(error, UserError) and said in str(error)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@needs_shared
def test_the_airlines_chats_keep_every_call(tmp_path):
    """137 calls in 24 chats without tools: every one is an observed action, and its arguments are compared by parts."""
    path = SHARED / "data" / "tau" / "airline-chat.jsonl"
    done = CliRunner().invoke(app, ["data", "import", str(path), "--from", "chat", "--out", str(tmp_path), "--json"])
    counts = json.loads(done.stdout)
    assert (counts["dialogues"], counts["observed_actions"], counts["actions"]) == (24, 137, 12)
    assert counts["splits"] == {"train": 19, "dev": 3, "test": 2}
    corpora = [datasets.load("jsonl", tmp_path, split) for split in counts["splits"]]
    tally = evidence.Tally()
    lines = [evidence.annotate(d, c.catalog, tally) for c in corpora for d in c.dialogues]
    assert sum(len(line.references) for line in lines) == 137 and tally.share_not_found < 0.1
    booked = next(r for line in lines for r in line.references if r.name == "book_reservation")
    catalog = corpora[0].catalog.by_name["book_reservation"]
    described = {p.name: p.description for p in catalog.params}
    assert described["flights"] == "a list of objects with flight_number, date" and not described["cabin"]
    flights = booked.params["flights"].value
    first = json.loads(flights)[0]
    assert first.keys() == {"flight_number", "date"}
    # Two keys of one flight, of which one agrees: 2 * 1 / (2 + 2).
    assert agreement(json.dumps([first]), json.dumps([first | {"date": "2023-01-01"}])) == 0.5


@needs_shared
@pytest.mark.parametrize("folder, form", [("04-openai-ft", "chat"), ("06-whisper", "whisper")])
def test_other_forms_in_an_own_domain_point_to_the_import(folder, form):
    with pytest.raises(UserError, match=f"line 1: id: .*; `proactor data import .*--from {form}` reads such files"):
        datasets.load("jsonl", SHARED / "cases" / folder, "train")
