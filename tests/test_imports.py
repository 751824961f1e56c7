"""People's own conversations as an own domain: each form with values worked out by hand, and the page that says so."""

import json

import pytest
from proactor_lib import datasets
from proactor_lib.annotate import evidence
from proactor_lib.cli import app
from proactor_lib.comparison import agreement
from proactor_lib.datasets import forms, imported, transcripts
from proactor_lib.datasets.conversations import seconds
from proactor_lib.errors import UserError
from proactor_lib.schema import Dialogue, Turn
from typer.testing import CliRunner

from support.shared import SHARED, needs_shared

FIND = {"name": "find_table", "arguments": '{"day": "Friday", "people": 4, "guest": {"name": "Ann"}, "note": null}'}
HOLD = {"room": "Garden Hall", "seats": [4, "window"]}
LATER = {"name": "hold", "arguments": json.dumps(HOLD | {"until": "2026-11-28"})}
WORDS = [{"type": "text", "text": "A table for 4"}, {"type": "text", "text": "on Friday, Ann."}]
CHAT = [
    {"role": "system", "content": "You book tables."},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "0", "function": {"name": "hours", "arguments": ""}}]},
    {"role": "tool", "tool_call_id": "0", "content": '{"open": "18:30", "room": "Garden Hall"}'},
    {"role": "user", "content": WORDS},
    {
        "role": "assistant",
        "content": "One moment.",
        "tool_calls": [{"id": "1", "function": FIND}, {"id": "2", "function": {"name": "hold", "arguments": HOLD}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "window or wall"},
    {"role": "assistant", "content": None, "function_call": LATER},
    {"role": "assistant", "content": "It is held."},
]
BLOCKS = [
    {"role": "user", "content": "A table for 4 on Friday"},
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "t1", "name": "find_table", "input": {"day": "Friday"}},
        {"type": "tool_use", "id": "t2", "name": "find_table", "input": {"day": "Friday", "room": "B 12"}},
    ]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "room C 7"}]},
        {"type": "text", "text": "And?"},
    ]},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t3", "name": "hold", "input": {"room": "C 7"}}]},
]  # fmt: skip
TOOL = {
    "name": "hold",
    "description": "Hold a room",
    "input_schema": {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]},
}


def written(tmp_path, name, value):
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def observed(dialogue):
    return [(o.turn, o.name, o.params) for o in dialogue.observed]


def turns(dialogue):
    return [(t.speaker, t.text, t.start) for t in dialogue.turns]


def test_openais_messages_without_tools(tmp_path):
    """A call before any turn belongs to the first; null is absent; an object's parts are parameters of their own."""
    found = forms.read([written(tmp_path, "a.json", CHAT)], "chat")
    (dialogue,) = found.dialogues
    assert turns(dialogue) == [
        ("user", "A table for 4\non Friday, Ann.", None),
        ("assistant", "One moment.", None),
        ("assistant", "It is held.", None),
    ]
    held = {"room": "Garden Hall", "seats": '[4, "window"]'}
    assert observed(dialogue) == [
        (1, "hours", {}),
        (2, "find_table", {"day": "Friday", "people": "4", "guest.name": "Ann"}),
        (2, "hold", held),
        (2, "hold", held | {"until": "2026-11-28"}),
    ]
    # The hall was answered before turn 1 was over; `window` after turn 2, but after the first hold.
    assert [o.evidence for o in dialogue.observed] == [{}, {}, {"room": 1}, {"room": 1, "seats": 2}]
    params = {a.name: [(p.name, p.type, p.required, p.source) for p in a.params] for a in found.catalog.actions}
    assert params == {
        "hours": [],
        "find_table": [
            ("day", "string", True, "user"),
            ("people", "integer", True, "user"),
            ("guest.name", "string", True, "user"),
        ],
        "hold": [
            ("room", "string", True, "system"),
            ("seats", "array", True, "user"),
            ("until", "date", False, "user"),
        ],
    }
    page = imported.page(found, {"train": [dialogue]}, [tmp_path / "a.json"])
    assert "4 logged actions with 8 values, 3 of them known from tools' results alone" in page
    assert "an action known from its calls alone: a write, required is what each call has (3 times, hours" in page
    assert "(source: system) (hold.room)" in page and "a system message is no turn (a-1)" in page


def test_anthropics_blocks_with_tools(tmp_path):
    """Its own tools say what `hold` is; `find_table` is known from its calls, where `room` is not always there."""
    path = written(tmp_path, "b.jsonl", json.dumps({"id": "x", "messages": BLOCKS, "tools": [TOOL]}))
    found = forms.read([path], "chat")
    (dialogue,) = found.dialogues
    assert [t.text for t in dialogue.turns] == ["A table for 4 on Friday", "I look.", "And?"] and dialogue.id == "x"
    assert [(t, n) for t, n, _ in observed(dialogue)] == [(2, "find_table"), (2, "find_table"), (3, "hold")]
    assert dialogue.observed[2].evidence == {"room": 2}
    hold, find = found.catalog.actions
    assert hold.description == "Hold a room" and find.required == ("day",)
    assert any("'thinking'" in note for note in found.notes.left_out)
    reference = evidence.annotate(dialogue, found.catalog).references[2]
    assert (reference.window.ready, reference.params["room"].turn) == (2, 2)


def test_given_tools_get_what_calls_have_beside_them(tmp_path):
    tools = written(tmp_path, "tools.json", [{**TOOL, "input_schema": {"type": "object", "properties": {}}}])
    found = forms.read([written(tmp_path, "b.json", {"messages": BLOCKS})], "chat", tools, domain="inn")
    assert found.catalog.domain == "inn" and [p.required for p in found.catalog.by_name["hold"].params] == [False]
    assert any("the tool's description lacks: it is optional (hold.room)" in note for note in found.notes.guessed)


def test_chats_of_different_tools_are_shown_their_own(tmp_path):
    other = [{"role": "user", "content": "Hi"}]
    lines = [{"messages": BLOCKS, "tools": [TOOL]}, {"messages": other, "tools": [{"name": "greet"}]}]
    found = forms.read([written(tmp_path, "c.jsonl", "\n".join(map(json.dumps, lines)))], "chat")
    assert [d.actions for d in found.dialogues] == [("hold", "find_table"), ("greet",)]
    assert found.dialogues[1].observed == ()


def test_free_text_is_guessed_from_lengths_and_variety(tmp_path):
    words = "the guest wants a quiet table near the"
    calls = [{"name": "note", "arguments": {"text": f"{words} {where}", "tag": "vip"}} for where in ("door", "bar")]
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [{"function": c} for c in calls]}]
    found = forms.read([written(tmp_path, "d.json", chat)], "chat")
    assert [(p.name, p.match) for p in found.catalog.actions[0].params] == [("text", "text"), ("tag", "exact")]
    known = {"name": "note", "parameters": {"properties": {"text": {"type": "string"}, "tag": {"type": "string"}}}}
    with_tools = forms.read([tmp_path / "d.json"], "chat", written(tmp_path, "tools.json", [known]))
    assert [(p.name, p.match) for p in with_tools.catalog.actions[0].params] == [("text", "text"), ("tag", "exact")]
    shown = "long and varied values: free text, compared by similarity (match: text) (note.text)"
    assert shown in list(found.notes.guessed) and shown in list(with_tools.notes.guessed)


def test_what_is_guessed_is_corrected_in_the_catalog(tmp_path):
    """Sentences without spaces between their words are free text too; a catalog that is given is left as it is."""
    said = ("客人想要一张安静的靠近门的桌子", "客人想要一张靠近窗户的大桌子")
    calls = [{"name": "note", "arguments": {"text": text}} for text in said]
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [{"function": c} for c in calls]}]
    files = [written(tmp_path, "d.json", chat)]
    catalog = forms.read(files, "chat").catalog
    assert catalog.actions[0].params[0].match == "text"
    corrected = catalog.model_dump(mode="json")
    corrected["actions"][0]["params"][0]["match"] = "exact"
    again = forms.read(files, "chat", written(tmp_path, "catalog.json", corrected))
    assert again.catalog.actions[0].params[0].match == "exact" and not list(again.notes.guessed)


def test_a_batchs_line_free_text_tools_and_arguments_that_are_not_json(tmp_path):
    calls = [
        {"type": "custom", "custom": {"name": "note", "input": "a quiet one"}},
        {"name": "f", "args": {"a b": True}},
    ]
    calls += [{"function": {"name": "f", "arguments": '{"a b": '}}, {"function": {"name": "g", "arguments": "[1]"}}]
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": calls}]
    found = forms.read([written(tmp_path, "e.jsonl", {"custom_id": "q7", "body": {"messages": messages}})], "chat")
    assert found.dialogues[0].id == "q7" and observed(found.dialogues[0]) == [
        (1, "note", {"input": "a quiet one"}),
        (1, "f", {"a_b": "True"}),
        (1, "f", {}),
        (1, "g", {"input": "[1]"}),
    ]
    assert list(found.notes.left_out) == ["the arguments of a call, which are not JSON (q7: f)"]
    assert [(p.name, p.type, p.required) for p in found.catalog.by_name["f"].params] == [("a_b", "boolean", False)]


@pytest.mark.parametrize(
    "response",
    [
        {"choices": [{"message": {"role": "assistant", "content": "Yes?"}}]},
        {"body": {"choices": [{"message": {"role": "assistant", "content": "Yes?"}}]}},
        {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Yes?"}]},
    ],
)
def test_a_logged_requests_answer_is_its_last_message(tmp_path, response):
    request = {"system": "Be kind.", "messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL]}
    found = forms.read([written(tmp_path, "r.json", {"id": "1", "request": request, "response": response})], "chat")
    assert [(s, t) for s, t, _ in turns(found.dialogues[0])] == [("user", "Hi"), ("assistant", "Yes?")]
    assert "a system message is no turn (1)" in list(found.notes.left_out)


def test_messages_with_time_stamps(tmp_path):
    """ISO, seconds and milliseconds since 1970; a call has its message's time; what is no time is noted."""
    noon = 1_795_867_200  # 2026-11-28 12:00 UTC
    messages = [
        {"role": "user", "content": "Garden Hall", "timestamp": "2026-11-28T12:00:00Z"},
        {"role": "assistant", "content": "One moment.", "created_at": noon + 4.5},
        {"role": "tool", "content": "free", "created_at": noon + 5},
        {"role": "assistant", "content": None, "ts": (noon + 9) * 1000, "function_call": LATER},
        {"role": "user", "content": "Thanks", "time": "soon"},
    ]
    found = forms.read([written(tmp_path, "a.json", messages)], "chat")
    (dialogue,) = found.dialogues
    assert [t.start for t in dialogue.turns] == [0.0, 4.5, None]
    assert [(o.turn, o.time) for o in dialogue.observed] == [(2, 9.0)]
    assert list(found.notes.left_out) == ["a message's time stamp, which cannot be read (a-1: 'soon')"]


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"messages": []}\n{"messages"', "line 2 is not JSON"),
        ('{"conversations": []}', "no list 'messages'; its keys: conversations"),
        ('[{"role": "human", "content": "Hi"}]', "role 'human'; accepted: system, developer, user"),
        ('[{"role": "user", "content": "Hi"}]', "name the actions with --tools FILE"),
        ('[{"role": "assistant", "function_call": {"name": "f"}}]', "nobody speaks"),
        ('[{"role": "assistant", "tool_calls": [{"function": {}}]}]', "KeyError: 'name'"),
    ],
)
def test_what_is_no_chat_is_named(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        forms.read([written(tmp_path, "x.jsonl", text)], "chat")


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
    assert isinstance(lacking.exception, UserError) and "no column 'speaker'" in str(lacking.exception)


def test_triggers_that_have_no_place_are_named(tmp_path):
    path = written(tmp_path, "call.vtt", VTT)
    for row, said in [
        ({"turn": 4, "action": "f"}, "turn 4; the dialogue has 3 turns"),
        ({"dialogue": "other", "turn": 1, "action": "f"}, "no dialogue 'other'; there are: call"),
        ({"action": "f"}, "needs a turn or a time"),
        ({"turn": 1}, "KeyError: 'action'"),
    ]:
        with pytest.raises(UserError, match=said):
            forms.read([path], "vtt", trigger_file=written(tmp_path, "t.jsonl", row))
    with pytest.raises(UserError, match="no cue"):
        forms.read([written(tmp_path, "empty.vtt", "WEBVTT\n")], "vtt")


@pytest.mark.parametrize(
    "text, value",
    [("01:02.5", 62.5), ("1:00:00,25", 3600.25), ("7", 7.0), (3, 3), ("", None), ("1970-01-02T00:00:01", 86401.0)],
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
    with pytest.raises(UserError, match="three shares"):
        imported.split(made, (0.8, 0.1), 0)


def test_an_import_replaces_an_earlier_one_and_nothing_else(tmp_path):
    def run(value, out):
        path = written(tmp_path, "a.json", value)
        return CliRunner().invoke(app, ["data", "import", str(path), "--from", "chat", "--out", str(out)])

    out = tmp_path / "out"
    assert run(CHAT, out).exit_code == 0 and run(BLOCKS, out).exit_code == 0
    assert "guest.name" not in (out / "catalog.json").read_text()
    (out / "import.md").unlink()
    assert "holds another domain" in str(run(CHAT, out).exception)


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


@needs_shared
@pytest.mark.parametrize("name", ["ft.jsonl", "one.json"])
def test_openais_fine_tuning_file(name):
    found = forms.read([SHARED / "cases" / "04-openai-ft" / name], "chat")
    assert all(observed(d) == [(1, "order_cake", {"size": "large"})] for d in found.dialogues)
    assert found.catalog.actions[0].description == "Order a cake"


@needs_shared
@pytest.mark.parametrize(
    "name, form, who", [("call.vtt", "vtt", "Clerk"), ("dialogues.jsonl", "whisper", "SPEAKER_01")]
)
def test_whispers_files(name, form, who):
    folder = SHARED / "cases" / "06-whisper"
    found = forms.read([folder / name], form, folder / "catalog.json")
    assert turns(found.dialogues[0])[1] == (who, "Which size?", 1.5) and found.catalog.domain == "bakery"
