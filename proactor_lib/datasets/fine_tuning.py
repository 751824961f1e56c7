"""Fine-tuning data of the windows: chats in which the assistant does what a perfect agent would, with tools [ours].

The conversation is what the assistant watches: each turn is a user's message. It calls a tool once, at the first turn
at which its window is `ready`, with the values known by then; from `open` on the action is a `candidate` line.
"""

import json
from collections.abc import Iterator

from proactor_lib import agent
from proactor_lib.catalog import tools
from proactor_lib.catalog.json_schema import Notes, arguments
from proactor_lib.schema import Action, Case, ReferenceAction

ANSWER = "triggered"  # what a tool is made to answer: chats want an answer to each call


def chat(case: Case, notes: Notes) -> dict:
    """A line of OpenAI's fine-tuning format: id, messages, tools. What a tool list cannot hold goes into `notes`."""
    system = {"role": "system", "content": agent.system_text(case.catalog, "tools.system.j2").strip()}
    return {
        "id": case.dialogue.id,
        "messages": [system, *_messages(case)],
        "tools": tools.to_openai(case.catalog, notes),
    }


def _messages(case: Case) -> Iterator[dict]:
    for number, turn in enumerate(case.dialogue.turns, start=1):
        yield {"role": "user", "content": agent.turn_line(number, turn).strip()}
        prepared = [a for a in agent.reference_output(case.references, number) if a.status == "candidate"]
        due = [r for r in case.references if r.window.ready == number]
        calls = [_call(case, r, number) for r in due]
        content = agent.render(prepared) if prepared or not calls else None
        yield {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})
        yield from ({"role": "tool", "tool_call_id": call["id"], "content": ANSWER} for call in calls)


def _call(case: Case, reference: ReferenceAction, turn: int) -> dict:
    action = case.catalog.by_name.get(reference.name, Action(name=reference.name))
    given = arguments(action, reference.values(known_by=turn))
    function = {"name": reference.name, "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": f"call_{reference.id}", "type": "function", "function": function}
