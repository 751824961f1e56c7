"""Conversations in the forms that `proactor data import` reads, and what is looked at in those read."""

import json

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
