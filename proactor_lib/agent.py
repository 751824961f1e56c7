"""The agent's prompt, its output format, and a parser that never raises.

The prompt of turn t is a text prefix of the prompt of turn t+1: instructions and catalog first, then one line a turn. A
model's chat template wraps it, and the assistant's header opens each answer; it is a constant, the same for every turn.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from proactor_lib.schema import Case, Catalog, Dialogue, PredictedAction, ReferenceAction, Turn

SILENCE = "none"
PROMPTS = {  # of a model that was not trained, by the policy's name
    "non_reasoning": "agent.system.j2",
    "few_shot": "agent.system.j2",
    "reasoning": "reasoning.system.j2",
    "reasoning_asg": "reasoning_asg.system.j2",
}
_LINE = re.compile(r"(\w+)\s*:\s*([^\s|=]+)\s*((?:\|.*)?)")


@lru_cache
def _template(name: str):
    loader = PackageLoader("proactor_lib", "prompts")
    return Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True).get_template(name)


def system_text(catalog: Catalog, template: str = "agent.system.j2") -> str:
    """The instructions and the rendered catalog: what stands before the first turn."""
    return _template(template).render(actions=catalog.actions)


def turn_line(index: int, turn: Turn) -> str:
    """Turn `index` (from 1) as one line of the prompt, with its newline."""
    return f"[{index}] {turn.speaker}: {' '.join(turn.text.split())}\n"


def transcript(dialogue: Dialogue, turn: int) -> str:
    """The dialogue's turns 1 to `turn`, one a line."""
    return "".join(turn_line(i, t) for i, t in enumerate(dialogue.turns[:turn], start=1))


def prompt(case: Case, turn: int) -> str:
    """The whole prompt at `turn`, without a model's chat markers: a prefix of the prompt at `turn + 1`."""
    return system_text(case.catalog) + "\n" + transcript(case.dialogue, turn)


def render(actions: Iterable[PredictedAction]) -> str:
    """Actions in the output format; the inverse of `parse`. An empty value is absent."""
    return "\n".join(map(_line, actions)) or SILENCE


def _line(action: PredictedAction) -> str:
    values = {k: _flat(v) for k, v in action.params.items()}
    return " | ".join([f"{action.status}: {action.name}", *(f"{k}={v}" for k, v in values.items() if v)])


def _flat(value: str) -> str:
    return " ".join(value.replace("|", "/").split())


@dataclass(frozen=True)
class Parsed:
    """What could be read of an output, and whether all of it could be."""

    actions: tuple[PredictedAction, ...]
    unreadable: bool


def parse(text: str) -> Parsed:
    """Read an output; never raises. `unreadable`: empty, or a line in no known form, or a parameter without a value."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if [line.lower().rstrip(".") for line in lines] == [SILENCE]:
        return Parsed((), unreadable=False)
    actions, whole = [], bool(lines)
    for line in lines:
        action = _parse_line(line)
        if action is None:
            whole = False
        else:
            actions.append(action)
    return Parsed(tuple(actions), unreadable=not whole)


def _parse_line(line: str) -> PredictedAction | None:
    read = read_line(line, ("ready", "candidate"))
    return read and PredictedAction(status=read[0], name=read[1], params=read[2])


def read_line(line: str, words: Sequence[str]) -> tuple[str, str, dict[str, str]] | None:
    """The word (one of `words`), name and parameters of `word: name | param=value`; None for anything else."""
    match = _LINE.fullmatch(line)
    if match is None or match[1].lower() not in words:
        return None
    params = {}
    for field in match[3].split("|")[1:]:
        key, equals, value = field.partition("=")
        if not (key.strip() and equals and value.strip()):
            return None
        params[key.strip()] = value.strip()
    return match[1].lower(), match[2], params


def reference_output(references: Sequence[ReferenceAction], turn: int) -> tuple[PredictedAction, ...]:
    """A perfect agent's output at `turn`: candidate on [open, ready), ready on [ready, close], values known by then."""
    return tuple(
        PredictedAction(
            name=r.name,
            params=r.values(known_by=turn),
            status="ready" if turn >= r.window.ready else "candidate",
        )
        for r in references
        if r.window.covers(turn)
    )
