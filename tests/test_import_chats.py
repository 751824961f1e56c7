"""Chats with tools as an own domain: OpenAI's and Anthropic's messages, with values worked out by hand."""

import json

import pytest
from proactor_lib import agent, datasets
from proactor_lib.annotate import evidence
from proactor_lib.datasets import forms, imported, transcripts
from proactor_lib.errors import UserError
from proactor_lib.schema import PredictedAction, ReferenceAction, ReferenceParam, Window

from support.imports import BLOCKS, CHAT, LATER, TOOL, observed, turns, written
from support.shared import SHARED, needs_shared


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
    lacking = imported.page(found, {"train": [dialogue], "dev": [], "test": []}, [tmp_path / "a.json"])
    taken = "(`dev_split: train`, `test_split: train`)"
    assert f"- no dialogue for dev and test: a run can take some of train's {taken}\n" in lacking
    assert "no dialogue for" not in page
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


def test_an_empty_value_is_absent_and_what_an_agent_is_taught_can_be_read(tmp_path):
    calls = [{"function": {"name": "hold", "arguments": {"room": "B 12", "note": note}}} for note in ("", " ")]
    messages = [{"role": "user", "content": "Hold B 12"}, {"role": "assistant", "tool_calls": calls}]
    found = forms.read([written(tmp_path, "a.json", messages)], "chat")
    assert found.catalog.actions[0].required == ("room",) and len(found.catalog.actions[0].params) == 1
    assert observed(found.dialogues[0]) == [(1, "hold", {"room": "B 12"})] * 2
    blank = ReferenceParam(value="", turn=1)
    held = ReferenceAction(id="r", name="hold", params={"note": blank}, window=Window(open=1, ready=1, close=1))
    taught = agent.reference_output([held], 1)
    assert agent.parse(agent.render(taught)) == agent.Parsed(taught, unreadable=False)
    assert agent.render([PredictedAction(name="hold", params={"note": " ", "room": "B"})]) == "ready: hold | room=B"


def test_half_a_character_is_replaced(tmp_path):
    """JSON can say a surrogate alone, which no file can hold: in what is said, and in arguments that are JSON too."""
    call = {"name": "hold", "arguments": r'{"room": "B \ud83d", "who": "\ud83d\ude00"}'}
    chat = [{"role": "user", "content": "hi \ud83d \U0001f600"}, {"role": "assistant", "function_call": call}]
    found = forms.read([written(tmp_path, "a.json", chat)], "chat")
    imported.write(found, tmp_path / "out", {"train": list(found.dialogues)}, [])
    (dialogue,) = datasets.load("jsonl", tmp_path / "out", "train").dialogues
    assert dialogue.turns[0].text == "hi \ufffd \U0001f600"
    assert observed(dialogue) == [(1, "hold", {"room": "B \ufffd", "who": "\U0001f600"})]


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


def test_a_refusal_is_what_was_said_and_speakers_have_other_names(tmp_path):
    refusal = {"role": "assistant", "content": None, "refusal": "I can't do that."}
    given = {"messages": [{"role": "user", "content": "Do it"}, refusal], "tools": json.dumps([TOOL])}
    speakers = transcripts.Options(speakers={"user": "Customer"})
    found = forms.read([written(tmp_path, "a.json", given)], "chat", options=speakers)
    assert turns(found.dialogues[0]) == [("Customer", "Do it", None), ("assistant", "I can't do that.", None)]
    one_by_one = written(tmp_path, "b.json", given | {"tools": [json.dumps(TOOL)]})
    assert [a.name for a in found.catalog.actions] == ["hold"]
    assert forms.read([one_by_one], "chat").catalog.actions == found.catalog.actions
    with pytest.raises(UserError, match="--column is for tables .--from csv., not for --from chat"):
        forms.read([tmp_path / "a.json"], "chat", options=transcripts.Options(columns={"text": "said"}))


def test_an_argument_without_a_name_has_one_that_can_be_written(tmp_path):
    call = {"name": "hold", "arguments": {"": {}, "n": 4}}
    messages = [{"role": "user", "content": "Hold 4"}, {"role": "assistant", "function_call": call}]
    found = forms.read([written(tmp_path, "a.json", messages)], "chat")
    assert observed(found.dialogues[0]) == [(1, "hold", {"_": "{}", "n": "4"})]
    assert [(p.name, p.path) for p in found.catalog.actions[0].params] == [("_", ("",)), ("n", ())]
    imported.write(found, tmp_path / "out", {"train": list(found.dialogues)}, [])
    assert datasets.load("jsonl", tmp_path / "out", "train").catalog == found.catalog


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
        ('{"messages"\n{"messages": []}\n', "line 1 is not JSON"),
        (
            '{\n  "messages": [\n    {"role": "user" "content": "Hi"}\n  ]\n}\n',
            "x.jsonl is not JSON: .*line 3 column 21",
        ),
        ("", "x.jsonl is not JSON"),
        ('{"conversations": []}', "is not a chat with messages: no list 'messages'; its keys: conversations"),
        ('[{"role": "human", "content": "Hi"}]', "role 'human'; accepted: system, developer, user"),
        ('[{"role": "user", "content": "Hi"}]', "name the actions with --tools FILE"),
        ('[{"role": "assistant", "function_call": {"name": "f"}}]', "nobody speaks"),
        ('[{"role": "assistant", "tool_calls": [{"function": {}}]}]', "a call must have a name, got None"),
        ('[{"role": "assistant", "function_call": {"name": null}}]', "a call must have a name, got None"),
        ('[{"role": "assistant", "content": [{"type": "tool_use", "name": " "}]}]', "a call must have a name, got ' '"),
        ('{"messages": [{"role": "user", "content": "Hi"}], "tools": "[{"}', "its tools are not JSON"),
    ],
)
def test_what_is_no_chat_is_named(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        forms.read([written(tmp_path, "x.jsonl", text)], "chat")


@needs_shared
@pytest.mark.parametrize("name", ["ft.jsonl", "one.json"])
def test_openais_fine_tuning_file(name):
    found = forms.read([SHARED / "cases" / "04-openai-ft" / name], "chat")
    assert all(observed(d) == [(1, "order_cake", {"size": "large"})] for d in found.dialogues)
    assert found.catalog.actions[0].description == "Order a cake"
