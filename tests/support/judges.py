"""What judges answer: a good one, and every known fault."""

import json
import re

from support.fake_endpoint import Reply
from support.reward_cases import BOTH, PARTIAL, RIGHT, SILENCE, WAITING, WRONG

WORTH = {RIGHT: 0.9, WAITING: 0.6, PARTIAL: 0.7, WRONG: 0.2, BOTH: 0.4, SILENCE: 0.1}  # what a good judge says


def answers(request) -> dict[str, str]:
    """The answers by label that a judge was shown, in the order shown."""
    shown = request["messages"][1]["content"]
    return dict(re.findall(r'<answer label="(\w+)">\n(.*?)\n</answer>', shown, re.DOTALL))


def fields(request) -> list[str]:
    schema = request["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == schema["required"] == list(answers(request))
    item = next(iter(schema["properties"].values()))
    return [name for name in item["required"] if name != "reason"]


def good(request) -> dict[str, dict]:
    """The right answer by label, with the same mark for each criterion."""
    return {k: {"reason": "so"} | dict.fromkeys(fields(request), WORTH[a]) for k, a in answers(request).items()}


def said(items: dict[str, dict]) -> Reply:
    return Reply(json.dumps(items))


def label(request) -> str:
    """The label of RIGHT."""
    return next(k for k, a in answers(request).items() if a == RIGHT)


def without(request) -> dict[str, dict]:
    """A good answer that lacks the label of RIGHT."""
    return {k: item for k, item in good(request).items() if k != label(request)}


def spoilt(request, mark) -> Reply:
    """A good answer but for that mark of RIGHT."""
    return said(good(request) | {label(request): {"reason": "so"} | dict.fromkeys(fields(request), mark)})


FAULTS = {
    "empty": lambda r: Reply(""),
    "not_json": lambda r: Reply("I'm sorry, I can't judge these answers."),
    "missing_label": lambda r: said(without(r)),
    "repeated_label": lambda r: Reply(said(good(r)).text[:-1] + f', "{label(r)}": {{"reason": "", "score": 1}}}}'),
    "out_of_range": lambda r: spoilt(r, 7),
    "not_a_number": lambda r: spoilt(r, "high"),
    "unknown_label": lambda r: said(good(r) | {"Z999": {"reason": "so", "score": 1}}),
}
