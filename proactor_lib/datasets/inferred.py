"""A catalog from the calls alone: the parameters seen, their types, and required where they are always there [ours]."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from proactor_lib.catalog.json_schema import DEEPEST, clean, flat_name, own_path
from proactor_lib.datasets.conversations import Call, Notices
from proactor_lib.schema import Action, Parameter

TYPES = {bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
LONG = 6  # words in a value, on average, from which it may be free text
VARIED = 0.8  # share of different values from which long ones are free text
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")  # Chinese and Japanese
_WORD = re.compile(r"[^\W\d_]{2,}")


def flat(arguments: dict[str, Any], known: Container[str]) -> dict[str, Any]:
    """Arguments by parameter name, an object's as `object.key` unless `known` has the object.

    Null and empty text are absent.
    """
    return {name: value for name, _, value in _parts(arguments, known)}


def _parts(
    arguments: dict[str, Any], known: Container[str], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Each value's parameter, the keys that lead to it, and the value."""
    for key, value in arguments.items():
        path = (*above, str(key))
        written = ".".join(path)
        name = written if written in known else flat_name(path)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if isinstance(value, dict) and value and name not in known and len(above) < DEEPEST:
            yield from _parts(value, known, path)
        else:
            yield name, path, value


def completed(
    given: Sequence[Action], calls: Iterable[Call], guessed: Notices, final: Container[str] = ()
) -> tuple[Action, ...]:
    """The given actions and those that were called beside them; parameters that a given one lacks are optional.

    final: names of given actions whose `match` is not guessed, for somebody said it.
    """
    by_name = {a.name: a for a in given}
    called: dict[str, list[dict[str, Any]]] = {}
    paths: dict[tuple[str, str], tuple[str, ...]] = {}  # of what an action's calls have, as it was written first
    for call in calls:
        name = clean(call.name)
        known = {p.name for p in by_name[name].params} if name in by_name else ()
        called.setdefault(name, []).append(flat(call.arguments, known))
        for parameter, path, _ in _parts(call.arguments, known):
            paths.setdefault((name, parameter), path)
    for name, seen in called.items():
        if name not in by_name:
            by_name[name] = _inferred(name, seen, guessed)
        else:
            known = by_name[name] if name in final else _matched(by_name[name], seen, guessed)
            by_name[name] = _with_others(known, seen, guessed)
    described = {(a.name, p.name) for a in given for p in a.params}
    own = {place: path for place, path in paths.items() if place not in described}
    return tuple(_with_paths(action, own) for action in by_name.values())


def _with_paths(action: Action, paths: Mapping[tuple[str, str], tuple[str, ...]]) -> Action:
    """With the keys by which calls have a parameter, where its name does not say them."""
    found = {p.name: own_path(paths[action.name, p.name]) for p in action.params if (action.name, p.name) in paths}
    params = (p.model_copy(update={"path": found.get(p.name, p.path)}) for p in action.params)
    return action.model_copy(update={"params": tuple(params)})


def _inferred(name: str, seen: list[dict[str, Any]], guessed: Notices) -> Action:
    guessed.add("an action known from its calls alone: a write, required is what each call has", name)
    if len(seen) == 1:
        guessed.add("an action was called once: all that this call has is required", name)
    names = dict.fromkeys(p for values in seen for p in values)
    params = tuple(_parameter(p, name, seen, required=all(p in v for v in seen), guessed=guessed) for p in names)
    return Action(name=name, params=params)


def _matched(action: Action, seen: list[dict[str, Any]], guessed: Notices) -> Action:
    """With free text where the values of a text parameter look like it."""
    params = []
    for p in action.params:
        values = [v[p.name] for v in seen if p.name in v]
        open_text = p.type == "string" and not p.values and p.match == "exact"
        match = _match(p.name, action.name, values, guessed) if open_text else {}
        params.append(p.model_copy(update=match))
    return action.model_copy(update={"params": tuple(params)})


def _with_others(action: Action, seen: list[dict[str, Any]], guessed: Notices) -> Action:
    known = {p.name for p in action.params}
    others = [p for p in dict.fromkeys(p for values in seen for p in values) if p not in known]
    for other in others:
        guessed.add(
            "calls have a parameter that the tool's description lacks: it is optional", f"{action.name}.{other}"
        )
    added = tuple(_parameter(p, action.name, seen, required=False, guessed=guessed) for p in others)
    return action.model_copy(update={"params": action.params + added})


def _parameter(name: str, action: str, seen: list[dict[str, Any]], required: bool, guessed: Notices) -> Parameter:
    values = [v[name] for v in seen if name in v]
    match = _match(name, action, values, guessed)
    keys = _keys(values)
    description = f"a list of objects with {', '.join(keys)}" if keys else ""
    return Parameter(name=name, type=_type(values), description=description, required=required, keys=keys, **match)


def _match(name: str, action: str, values: list[Any], guessed: Notices) -> dict[str, str]:
    """How values like these are compared, where that is a guess."""
    if not _free_text(values):
        return {}
    guessed.add("long and varied values: free text, compared by similarity (match: text)", f"{action}.{name}")
    return {"match": "text"}


def _keys(values: list[Any]) -> tuple[str, ...]:
    """What the objects in lists have."""
    objects = [item for value in values if isinstance(value, list) for item in value if isinstance(item, dict)]
    return tuple(dict.fromkeys(str(key) for item in objects for key in item))


def _type(values: list[Any]) -> str:
    kinds = {TYPES.get(type(v), "string") for v in values}
    if kinds == {"integer", "number"}:
        return "number"
    if kinds == {"string"} and all(_DATE.fullmatch(v) for v in values):
        return "date"
    return kinds.pop() if len(kinds) == 1 else "string"


def _free_text(values: list[Any]) -> bool:
    """Whether the values are sentences rather than names: long on average, and hardly one twice."""
    if len(values) < 2 or not all(isinstance(v, str) for v in values):
        return False
    words = sum(map(_words, values)) / len(values)
    return words >= LONG and len(Counter(values)) >= VARIED * len(values)


def _words(text: str) -> float:
    """How many words; where there are no spaces between them, two characters are taken for one."""
    unspaced = len(_UNSPACED.findall(text))
    return len(_WORD.findall(_UNSPACED.sub(" ", text))) + unspaced / 2
