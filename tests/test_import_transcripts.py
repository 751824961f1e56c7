"""Subtitles, transcripts and tables as an own domain, with values worked out by hand."""

import json

import pytest
from proactor_lib import datasets
from proactor_lib.annotate import evidence
from proactor_lib.cli import app
from proactor_lib.datasets import forms, transcripts
from proactor_lib.errors import UserError
from typer.testing import CliRunner

from support.imports import BLOCKS, TOOL, observed, turns, written
from support.shared import SHARED, needs_shared

VTT = """WEBVTT - a call

NOTE nothing

1
00:01.000 --> 00:02.500 align:start
<v Customer>A <b>large</b> cake &amp; tea,

2
00:02.600 --> 00:03.000
<v Customer>please.</v> <v Clerk>Which day?</v>

01:00:04.500 --> 01:00:05.000
<v Customer>Friday.</v>
"""
SRT = """1
00:00:01,000 --> 00:00:02,000
Ann: A cake,

2
00:00:02,500 --> 00:00:03,000
please.

3
00:01:00,250 --> 00:01:02,000
Bob Lee: Which size?
"""
TRIGGERS = """dialogue,turn,time,action,size,day
call,,3605,order_cake,large,Friday
call,,0.5,greet,,
call,2,,ask_day,,
"""


def test_subtitles_with_voices_and_triggers_at_times(tmp_path):
    """The cues of one voice are one turn, from its first start; a trigger at 3605 s is after turn 3, at 0.5 s at 1."""
    triggers = written(tmp_path, "t.csv", TRIGGERS)
    found = forms.read([written(tmp_path, "call.vtt", VTT)], "vtt", trigger_file=triggers)
    (dialogue,) = found.dialogues
    assert turns(dialogue) == [
        ("Customer", "A large cake & tea, please.", 1.0),
        ("Clerk", "Which day?", 2.6),
        ("Customer", "Friday.", 3604.5),
    ]
    assert observed(dialogue) == [
        (1, "greet", {}),
        (2, "ask_day", {}),
        (3, "order_cake", {"size": "large", "day": "Friday"}),
    ]
    assert evidence.annotate(dialogue, found.catalog).references[2].values() == {"size": "large", "day": "Friday"}


def test_subtitles_with_names_before_a_colon(tmp_path):
    tools = written(tmp_path, "tools.json", [TOOL])
    options = transcripts.Options(speakers={"Ann": "customer"})
    found = forms.read([written(tmp_path, "call.srt", SRT)], "srt", tools, options=options)
    assert turns(found.dialogues[0]) == [("customer", "A cake, please.", 1.0), ("Bob Lee", "Which size?", 60.25)]
    assert found.dialogues[0].observed is None and not found.logged
    assert list(found.notes.guessed) == ["what stands before a colon is the speaker (call)"]


def test_cues_without_a_blank_line_between_them(tmp_path):
    """A number before the times is spoken where no cue has one, else the cue's."""
    tools = written(tmp_path, "tools.json", [TOOL])
    srt = SRT.replace("\n\n", "\n").replace("A cake,", "Cakes,\n12")
    vtt = "WEBVTT\n\n00:01.000 --> 00:02.000\n<v Ann>How many?\n00:03.000 --> 00:04.000\n<v Bob>\n12\n"
    vtt += "00:05.000 --> 00:06.000\n<v Ann>Fine\n"
    found = [forms.read([written(tmp_path, f"c.{f}", text)], f, tools) for f, text in (("srt", srt), ("vtt", vtt))]
    assert [turns(f.dialogues[0]) for f in found] == [
        [("Ann", "Cakes, 12 please.", 1.0), ("Bob Lee", "Which size?", 60.25)],
        [("Ann", "How many?", 1.0), ("Bob", "12", 3.0), ("Ann", "Fine", 5.0)],
    ]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["2026.11.28-call.vtt", "2026.11.29-call.vtt"], ["2026.11.28-call", "2026.11.29-call"]),
        (["call.wav.vtt", "dr.smith.VTT"], ["call", "dr.smith"]),
    ],
)
def test_dots_in_a_files_name_belong_to_its_dialogues_id(tmp_path, names, ids):
    tools = written(tmp_path, "tools.json", [TOOL])
    found = forms.read([written(tmp_path, name, VTT) for name in names], "vtt", tools)
    assert [d.id for d in found.dialogues] == ids and found.catalog.domain == ids[0]
    chats = [written(tmp_path, name.replace("vtt", "jsonl"), BLOCKS) for name in names if name.endswith("vtt")]
    assert [d.id for d in forms.read(chats, "chat").dialogues] == [f"{id}-1" for id in ids[: len(chats)]]


def test_utterances_of_assemblyai_are_timed_in_milliseconds_and_others_in_seconds(tmp_path):
    tools = written(tmp_path, "tools.json", [TOOL])
    said = [{"speaker": "A", "text": "A cake", "start": 250, "end": 1400}, {"speaker": "B", "text": "?", "start": 1500}]
    values = [{"audio_duration": 2, "utterances": said}, {"utterances": said}]
    read = [forms.read([written(tmp_path, "a.json", v)], "whisper", tools).dialogues[0].turns for v in values]
    assert [[(t.start, t.end) for t in t_s] for t_s in read] == [
        [(0.25, 1.4), (1.5, None)],
        [(250, 1400), (1500, None)],
    ]


def test_whisper_with_and_without_speakers(tmp_path):
    tools = written(tmp_path, "tools.json", [TOOL])
    named = [{"start": 0.5, "text": " A cake", "speaker": "S1"}, {"start": 0, "text": " Hello?", "speaker": "S0"}]
    cpp = [{"offsets": {"from": 1400}, "text": " A cake."}, {"offsets": {"from": 2900}, "text": " Please."}]
    files = [
        written(tmp_path, "w.json", {"language": "en", "segments": named}),
        written(tmp_path, "cpp.json", {"transcription": cpp}),
    ]
    found = forms.read(files, "whisper", tools)
    assert [turns(d) for d in found.dialogues] == [
        [("S0", "Hello?", 0.0), ("S1", "A cake", 0.5)],
        [("speaker", "A cake.", 1.4), ("speaker", "Please.", 2.9)],
    ]
    guessed = list(found.notes.guessed)
    assert "not in the order of their time stamps" in guessed[0] and "each segment is a turn" in guessed[1]


def test_times_before_the_start_and_times_that_are_no_number(tmp_path):
    """Aligners write both: -0.02 s is the start, and NaN says nothing."""
    segments = [{"start": -0.02, "end": 1, "text": "A cake", "speaker": "a"}, {"start": float("nan"), "text": "Hm"}]
    tools = written(tmp_path, "tools.json", [TOOL])
    found = forms.read([written(tmp_path, "w.json", {"segments": segments})], "whisper", tools)
    assert turns(found.dialogues[0]) == [("a", "A cake", 0.0), ("speaker", "Hm", None)]
    assert found.counts["timed_turns"] == 1


def test_vcon_with_texts_and_a_recordings_transcript(tmp_path):
    """The second dialog begins 60 s after the first, its second segment 1.5 s later; the third has no words."""
    transcript = {
        "segments": [{"start": 0, "text": "Hello", "speaker": 1}, {"start": 1.5, "text": "Yes", "speaker": 0}]
    }
    vcon = {
        "vcon": "0.0.2",
        "uuid": "u1",
        "parties": [{"name": "Ann", "role": "customer"}, {"name": "Bob"}],
        "dialog": [
            {"type": "text", "start": "2026-11-28T10:00:00Z", "parties": [0, 1], "originator": 0, "body": "A cake"},
            {"type": "recording", "start": "2026-11-28T10:01:00+00:00", "parties": [0, 1]},
            {"type": "recording", "start": "2026-11-28T11:00:00Z", "parties": [0, 1]},
        ],
        "analysis": [{"type": "transcript", "dialog": 1, "encoding": "json", "body": json.dumps(transcript)}],
    }
    triggers = {"time": "2026-11-28T10:01:01Z", "action": "hold", "values": {"room": "B 12"}}
    found = forms.read(
        [written(tmp_path, "v.json", vcon)], "vcon", trigger_file=written(tmp_path, "t.json", [triggers])
    )
    (dialogue,) = found.dialogues
    assert turns(dialogue) == [("customer", "A cake", 0.0), ("Bob", "Hello", 60.0), ("customer", "Yes", 61.5)]
    assert dialogue.id == "u1" and observed(dialogue) == [(2, "hold", {"room": "B 12"})]
    assert list(found.notes.left_out) == ["a dialog of the type 'recording' without a transcript in segments (u1)"]


CSV = (
    'call;who;said;at\nc1;Ann;"A cake; large";10:00:05\nc2;Ann;Hi;\nc1;Bob;Which day?;10:00:07.5\nc2;Ann;You there?;\n'
)


def test_a_table_with_columns_named_by_options(tmp_path):
    tools, out = written(tmp_path, "tools.json", [TOOL]), tmp_path / "out"
    path = written(tmp_path, "calls.csv", CSV)
    columns = ["dialogue=call", "speaker=who", "text=said", "start=at"]
    command = [
        "data",
        "import",
        path,
        "--from",
        "csv",
        "--tools",
        tools,
        "--out",
        out,
        "--split",
        "0.5,0.5,0",
        "--json",
    ]
    command += [word for column in columns for word in ("--column", column)]
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["splits"] == {"train": 1, "dev": 1, "test": 0}
    read = [d for split in ("train", "dev") for d in datasets.load("jsonl", out, split).dialogues]
    assert {d.id: turns(d) for d in read} == {
        "c1": [("Ann", "A cake; large", 36005.0), ("Bob", "Which day?", 36007.5)],
        "c2": [("Ann", "Hi You there?", None)],
    }
    assert "no log of triggers: windows need the oracle annotator" in (out / "import.md").read_text()
    lacking = CliRunner().invoke(app, [str(word) for word in command[:-8]])
    assert isinstance(lacking.exception, UserError)
    assert "no column 'speaker'; it has: call, who, said, at;" in str(lacking.exception)
    with pytest.raises(UserError, match="reads: no row below its header"):
        forms.read([written(tmp_path, "c.csv", "speaker,text\n")], "csv", tools)


@pytest.mark.parametrize("rest", ["Bob,Hi\n", "Bob,Hi\n" * 20_000, 'Bob,"Hi"\n'])
def test_a_quote_that_is_not_closed_is_named(tmp_path, rest):
    """To the end of the file, beyond what a cell may hold, and to the next quote: the row begins on line 4."""
    path = written(tmp_path, "c.csv", 'speaker,text\nAnn,"A cake,\nplease"\nAnn,"What?\n' + rest)
    with pytest.raises(UserError, match="c.csv, line 4: .*; a quote that opens a cell must close it"):
        transcripts.table(path)
    path.write_text('speaker,text\n\nAnn,"A ""big"" cake,\nplease"\n')
    assert transcripts.table(path) == [{"speaker": "Ann", "text": 'A "big" cake,\nplease'}]


def test_triggers_that_have_no_place_are_named(tmp_path):
    path = written(tmp_path, "call.vtt", VTT)
    for row, said in [
        ({"turn": 4, "action": "f"}, "turn 4; the dialogue has 3 turns"),
        ({"dialogue": "other", "turn": 1, "action": "f"}, "no dialogue 'other'; there are: call"),
        ({"action": "f"}, "needs a turn or a time"),
        ({"turn": 1}, "KeyError: 'action'"),
        ({"turn": 1.9, "action": "f"}, "turn 1.9 is not a whole number"),
        ({"turn": float("inf"), "action": "f"}, "turn inf is not a whole number"),
    ]:
        with pytest.raises(UserError, match=said):
            forms.read([path], "vtt", trigger_file=written(tmp_path, "t.jsonl", row))
    for name, text in [("t.csv", "dialogue,turn,action\ncall,2.0,f\n"), ("t.json", [{"turn": 2.0, "action": "f"}])]:
        found = forms.read([path], "vtt", trigger_file=written(tmp_path, name, text))  # as pandas writes it
        assert observed(found.dialogues[0]) == [(2, "f", {})]
    with pytest.raises(UserError, match="no cue"):
        forms.read([written(tmp_path, "empty.vtt", "WEBVTT\n")], "vtt")


def test_dialogues_of_one_id_keep_their_own_turns_and_a_trigger_of_that_id_has_no_place(tmp_path):
    cue = "WEBVTT\n\n00:01.000 --> 00:02.000\n<v Ann>{} cake"
    for day in ("mon", "tue"):
        (tmp_path / day).mkdir()
    files = [written(tmp_path, f"{day}/call.vtt", cue.format(day)) for day in ("mon", "tue")]
    files.append(written(tmp_path, "other.vtt", cue.format("Another")))
    named = lambda id: written(tmp_path, "t.jsonl", {"dialogue": id, "turn": 1, "action": "f"})  # noqa: E731
    found = forms.read(files, "vtt", trigger_file=named("other"))
    texts = [(d.id, d.turns[0].text, len(d.observed)) for d in found.dialogues]
    assert texts == [("call", "mon cake", 0), ("call-2", "tue cake", 0), ("other", "Another cake", 1)]
    with pytest.raises(UserError, match="t.jsonl: 2 dialogues have the id 'call'"):
        forms.read(files, "vtt", trigger_file=named("call"))


def test_triggers_of_another_clock_than_the_turns(tmp_path):
    """20 s from the start is 10:00:20, after the first of two turns; a day's time has no place in seconds."""
    calendar = "speaker,text,start\nAnn,Hi,2026-11-28T10:00:00Z\nBob,Yes?,2026-11-28T10:00:30Z\n"
    relative = "speaker,text,start\nAnn,Hi,0\nBob,Yes?,30\n"

    def found(table, **trigger):
        triggers = written(tmp_path, "t.jsonl", trigger | {"action": "f"})
        (dialogue,) = forms.read([written(tmp_path, "c.csv", table)], "csv", trigger_file=triggers).dialogues
        return [(o.turn, o.time) for o in dialogue.observed]

    day = "2026-11-28T10:00:20Z"
    assert found(calendar, time=20) == found(calendar, time=day) == found(relative, time=20) == [(1, 20.0)]
    assert found(calendar, time=31) == [(2, 31.0)] and found(relative, time=day, turn=2) == [(2, None)]
    with pytest.raises(UserError, match="a time of the calendar, but the dialogue's turns have none; give seconds"):
        found(relative, time=day)


@needs_shared
@pytest.mark.parametrize(
    "name, form, who", [("call.vtt", "vtt", "Clerk"), ("dialogues.jsonl", "whisper", "SPEAKER_01")]
)
def test_whispers_files(name, form, who):
    folder = SHARED / "cases" / "06-whisper"
    found = forms.read([folder / name], form, folder / "catalog.json")
    assert turns(found.dialogues[0])[1] == (who, "Which size?", 1.5) and found.catalog.domain == "bakery"
