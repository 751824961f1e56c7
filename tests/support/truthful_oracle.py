"""A scripted oracle for the misbehaving endpoint: it reads the prompt as a model would, and answers the truth."""

import json
import re

from proactor_lib.agent import turn_line
from proactor_lib.schema import Dialogue, DialogueReferences, ReferenceAction

from support.fake_endpoint import Reply

CARRIED = re.compile(r"^(\d+)\. (\S+), (?:ready|candidate)(.*)$", re.MULTILINE)
CARRIED_PARAM = re.compile(r", (\w+) = (.*?) \(turn \d+\)")


def value_form(param: dict) -> dict:
    """The schema of a parameter's value."""
    return next(option for option in param["anyOf"] if option["type"] == "object")["properties"]["value"]


def in_form(value, schema: dict):
    """The value as its schema asks for it: lists and objects as JSON, all else as text that the schema allows."""
    if "anyOf" in schema:
        return None if value is None else in_form(value, next(o for o in schema["anyOf"] if o["type"] != "null"))
    if schema["type"] in ("array", "object") and isinstance(value, str):
        value = json.loads(value)
    if schema["type"] == "array":
        return [in_form(item, schema["items"]) for item in value]
    if schema["type"] == "object":
        return {key: in_form(value.get(key), inner) for key, inner in schema["properties"].items()}
    return re.sub(r'["\\\\\x00-\x1f]', " ", str(value))


class Truthful:
    """Answers the truth about `dialogues`; call it as `answer(request, n)`."""

    def __init__(self, dialogues: list[Dialogue], truth: list[DialogueReferences]):
        self.dialogues = list(zip(dialogues, truth, strict=True))
        self.holders: dict[str, set[int]] = {}  # a line of a prompt -> which dialogues have it at that turn
        for place, d in enumerate(dialogues):
            for i, turn in enumerate(d.turns, 1):
                self.holders.setdefault(turn_line(i, turn), set()).add(place)

    def dialogue(self, request: dict) -> tuple[Dialogue, DialogueReferences]:
        """Whose prompt this is: the one dialogue that has all of its lines."""
        lines = [line + "\n" for line in request["messages"][1]["content"].splitlines()]
        (place,) = set.intersection(*(self.holders[line] for line in lines if line in self.holders))
        return self.dialogues[place]

    def __call__(self, request: dict, n: int = 1) -> Reply:
        dialogue, truth = self.dialogue(request)
        return Reply(json.dumps(self.answer(request, dialogue, truth.references)))

    def answer(self, request: dict, dialogue: Dialogue, references: tuple[ReferenceAction, ...]) -> dict:
        """The JSON answer for the turns that the prompt asks about."""
        user = request["messages"][1]["content"]
        asked = re.search(r"opportunities of the turns (\d+) to (\d+)", user)
        first, last = (int(asked[1]), int(asked[2])) if asked else (1, len(dialogue.turns))
        schema = request["response_format"]["json_schema"]["schema"]["properties"]
        carried = [(int(n), name, dict(CARRIED_PARAM.findall(rest))) for n, name, rest in CARRIED.findall(user)]
        answer = {name: [] for name in schema}
        for r in references:
            turns = [t for t in range(first, last + 1) if r.window.covers(t)]
            if not turns or r.name not in schema:
                continue
            forms = schema[r.name]["items"]["properties"]["params"]["properties"]
            known = {k: p for k, p in r.params.items() if k in forms and p.turn <= last}
            said = {k: {"value": in_form(p.value, value_form(forms[k])), "turn": p.turn} for k, p in known.items()}
            item = {
                "params": {k: said.get(k) for k in forms},
                "candidate": [t for t in turns if t < r.window.ready],
                "ready": [t for t in turns if t >= r.window.ready],
            }
            if "continues" in schema[r.name]["items"]["properties"]:
                item["continues"] = self._continued(r, first, carried)
            answer[r.name].append(item)
        return answer

    def _continued(self, r: ReferenceAction, first: int, carried: list) -> int:
        if r.window.open >= first:
            return 0
        for entry in carried:
            number, name, params = entry
            if name == r.name and all(r.params[k].value == v for k, v in params.items()):
                carried.remove(entry)
                return number
        return 0
