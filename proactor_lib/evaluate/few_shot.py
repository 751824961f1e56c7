"""The base model at its best without training: worked examples before the question, and a grammar of all outputs."""

import json
from collections.abc import Iterable, Sequence

from proactor_lib.agent import SILENCE, reference_output, render, transcript
from proactor_lib.metrics.turn_kinds import TURN_KINDS, turn_kind
from proactor_lib.schema import Action, Case, Catalog

MOST_ACTIONS, MOST_PARAMS, LONGEST = 4, 8, 60  # of an output, of an action, letters of a value


def shots(cases: Sequence[Case]) -> list[dict[str, str]]:
    """A worked example for each kind of turn that there is, as messages: a transcript, and the references' output.

    The first turn of its kind, of the first dialogue that has one.
    """
    messages = []
    for case, turn in filter(None, (_first(cases, kind) for kind in TURN_KINDS)):
        said = render(reference_output(case.references, turn))
        messages.append({"role": "user", "content": transcript(case.dialogue, turn)})
        messages.append({"role": "assistant", "content": said})
    return messages


def _first(cases: Iterable[Case], kind: str) -> tuple[Case, int] | None:
    places = ((case, turn) for case in cases for turn in range(1, len(case.dialogue.turns) + 1))
    return next(((case, turn) for case, turn in places if turn_kind(case.references, turn) == kind), None)


def grammar(catalog: Catalog) -> str:
    """All outputs that name this catalog's actions and parameters, in xgrammar's notation (EBNF as GBNF has it)."""
    calls = " | ".join(f"a{n}" for n in range(len(catalog.actions)))
    rules = [
        f"root ::= {_text(SILENCE)} | act ({_text(chr(10))} act){{0,{MOST_ACTIONS - 1}}}",
        f'act ::= ("ready: " | "candidate: ") ({calls})',
        *(f"a{n} ::= {_call(action)}" for n, action in enumerate(catalog.actions)),
        f"value ::= [^|\\n]{{1,{LONGEST}}}",
    ]
    return "\n".join(rules)


def _call(action: Action) -> str:
    names = " | ".join(_text(p.name) for p in action.params)
    return _text(action.name) + (f' (" | " ({names}) "=" value){{0,{MOST_PARAMS}}}' if names else "")


def _text(literal: str) -> str:
    return json.dumps(literal)
