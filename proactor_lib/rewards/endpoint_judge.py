"""A language model as judge: one call scores all outputs of a turn, matched by random labels [ours].

What goes wrong is counted by kind and tried again with the fault shown; a mark that stays missing is None.
"""

import json
import random
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from proactor_lib.agent import Parsed, _template, render, transcript
from proactor_lib.connection import session
from proactor_lib.endpoint import Answer, Endpoint, Messages
from proactor_lib.replies import find_json
from proactor_lib.rewards.base import Group, Marks

# One short sentence. Hosted models know `pattern` but refuse `maxLength`; xgrammar fails to compile repeats above 128.
REASON = {"type": "string", "pattern": r'^[^"\\\x00-\x1f]{1,120}$'}


@dataclass
class EndpointJudge:
    """A model behind `endpoint`, instructed by `rubric`. `repeat` asks again what the cache knows, in another order."""

    endpoint: Endpoint
    rubric: str
    attempts: int = 3
    sampling: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.0})
    repeat: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return self.endpoint.model

    async def mark(self, group: Group, outputs: Sequence[Parsed], criteria: Sequence[str]) -> list[Marks | None]:
        """As Judge.mark. All marks come from one answer, so that they stay relative to each other."""
        answers = [render(o.actions) for o in outputs]
        labels = _labels(len(answers), f"{self.repeat} {group.case.dialogue.id} {group.turn} {answers}")
        question = self._question(group, dict(zip(labels, answers, strict=True)), criteria)
        best: dict[str, Marks] = {}

        def read(answer: Answer[str]) -> None:
            nonlocal best
            marks, faults = read_marks(answer.text, labels, criteria)
            best = marks if len(marks) >= len(best) else best
            self.faults.update(kind for kind, _ in faults)
            if faults:
                raise ValueError("; ".join(sentence for _, sentence in faults[:10]) + ". Score every label once.")

        await self.endpoint.ask(
            question, answer_schema(sorted(labels), criteria), read,
            attempts=self.attempts, repeat=self.repeat, headers=session(group.case.dialogue.id), **self.sampling,
        )  # fmt: skip
        return [best.get(label) for label in labels]

    def _question(self, group: Group, answers: dict[str, str], criteria: Sequence[str]) -> Messages:
        shown = sorted(answers.items())  # the labels are random, so their order is
        content = _template("ruler.group.j2").render(
            actions=group.case.catalog.actions,
            transcript=transcript(group.case.dialogue, group.turn),
            turn=group.turn,
            answers=shown,
            criteria=criteria if self.endpoint.form != "schema" else (),
        )
        return [{"role": "system", "content": self.rubric}, {"role": "user", "content": content}]

    @property
    def counters(self) -> dict[str, float]:
        """Requests, retries, tokens, cost, transport failures by kind, and faults in answers by kind."""
        c = self.endpoint.counts
        sums = {"calls": c.calls, "cached": c.cached, "retries": c.retries, "cost": self.endpoint.cost}
        tokens = {"prompt_tokens": c.prompt_tokens, "output_tokens": c.output_tokens}
        failed = {f"failed_{kind}": n for kind, n in c.failures.items() if kind != "invalid"}  # those are the faults
        faults = {f"fault_{kind}": n for kind, n in self.faults.items()}
        return {f"judge_{k}": float(v) for k, v in (sums | tokens | failed | faults).items()}

    async def close(self) -> None:
        """Let go of connections."""
        await self.endpoint.__aexit__()


def _labels(count: int, seed: str) -> list[str]:
    """`count` different labels of a letter and two digits, the same for the same seed: a resumed run hits the cache."""
    names = [f"{letter}{number}" for letter in string.ascii_uppercase for number in range(10, 100)]
    return random.Random(seed).sample(names, count)


def answer_schema(labels: Sequence[str], criteria: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an answer: `{label: {"reason", criterion: mark, ...}, ...}`.

    Labels are keys, so that an answer which follows the schema has each of them, and once.
    """
    mark = {"type": "number", "minimum": 0, "maximum": 1}
    return _object(dict.fromkeys(labels, _object({"reason": REASON, **dict.fromkeys(criteria, mark)})))


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


Fault = tuple[str, str]  # kind, sentence
_NUMBER = re.compile(r"-?\d+(\.\d+)?")  # a mark that is given as text


class _Pairs(list):
    """A JSON object as its (key, value) pairs, so that a key that is there twice is seen."""


def read_marks(text: str, labels: Sequence[str], criteria: Sequence[str]) -> tuple[dict[str, Marks], list[Fault]]:
    """The usable marks by label, and what is wrong with the rest; never raises.

    Kinds of fault: `empty`, `not_json` (a refusal in prose, cut-off text), `unknown_label`, `repeated_label`,
    `missing_label`, `not_a_number` (a word, a missing mark), `out_of_range`.
    """
    if not text.strip():
        return {}, [("empty", "the answer is empty")]
    try:
        items = _unwrapped(json.loads(find_json(text), object_pairs_hook=_Pairs), labels)
    except (ValueError, RecursionError):
        return {}, [("not_json", "the answer is not a JSON object with the labels as keys")]
    times = Counter(label for label, _ in items)
    faults = [("unknown_label", f"there is no label {label!r}") for label in times if label not in labels]
    faults += [("repeated_label", f"label {k!r} is there {n} times") for k, n in times.items() if k in labels and n > 1]
    faults += [("missing_label", f"label {label!r} is missing") for label in labels if label not in times]
    marks = {}
    for label, item in items:
        if label in labels and times[label] == 1:
            given = dict(item) if isinstance(item, _Pairs) else {}
            problems = [fault for c in criteria if (fault := _problem(label, c, given.get(c)))]
            faults += problems
            if not problems:
                marks[label] = {c: float(given[c]) for c in criteria}
    return marks, faults


def _unwrapped(items: Any, labels: Sequence[str]) -> _Pairs:
    """The pairs of labels, also where one more object holds them, such as {"scores": {...}}."""
    if not isinstance(items, _Pairs):
        raise ValueError("no object")
    if len(items) == 1 and items[0][0] not in labels and isinstance(items[0][1], _Pairs):
        return items[0][1]
    return items


def _problem(label: str, criterion: str, mark: Any) -> Fault | None:
    if isinstance(mark, str) and _NUMBER.fullmatch(mark):
        mark = float(mark)
    if isinstance(mark, bool) or not isinstance(mark, int | float):
        return "not_a_number", f"{criterion} of {label!r} must be a number between 0 and 1, got {mark!r}"
    if not 0 <= mark <= 1:
        return "out_of_range", f"{criterion} of {label!r} must lie between 0 and 1, got {mark}"
    return None
