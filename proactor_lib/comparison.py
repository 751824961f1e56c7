"""How far two values of one parameter agree: by the rule of their type, by similarity, or by their parts [ours]."""

import json
from datetime import date
from functools import lru_cache
from typing import Any

from proactor_lib.days import is_day, same_day
from proactor_lib.values import day_and_time, normalise, same_value

_OPENING = ("[", "{")  # of a list or an object


def agreement(a: str, b: str, match: str = "exact", text_threshold: float = 0.6, today: date | None = None) -> float:
    """How far two values of one parameter agree, in [0, 1] [ours].

    match: `exact` by `same_value`, a list or an object by its parts; `text`: 1 from a similarity of `text_threshold`
    on; `any`: 1. today: the dialogue's day, where it is known; values that name one day from there agree (`days`).
    """
    if match == "any" or a == b:
        return 1.0
    if match == "exact" and a[:1] in _OPENING and b[:1] in _OPENING:
        return _by_parts(_parsed(a), _parsed(b), today)
    if _same(a, b, today):
        return 1.0
    return float(match == "text" and similarity(a, b) >= text_threshold - 1e-9)


def counted_from(value: str, today: date | None) -> dict[str, date]:
    """`today` for a reference's parameter: the dialogue's day, where the value (or a part of it) is a day."""
    return {"today": today} if today and any(is_day(part, today) for part in sought(value)) else {}


def _same(a: str, b: str, today: date | None) -> bool:
    return same_value(a, b) or (today is not None and same_day(a, b, today))


@lru_cache(maxsize=1 << 14)
def similarity(a: str, b: str) -> float:
    """How alike two texts are, in [0, 1]: by their characters, in their order or with their words sorted."""
    from rapidfuzz import fuzz

    x, y = normalise(a), normalise(b)
    return max(fuzz.ratio(x, y), fuzz.token_sort_ratio(x, y)) / 100


def leaves(value: str) -> list[str]:
    """The scalar values in a list or an object, without what is null; a plain value alone."""
    if value[:1] not in _OPENING:
        return [value]

    def inside(part: Any) -> list[str]:
        parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else None
        return [_text(part)] * (part is not None) if parts is None else [leaf for p in parts for leaf in inside(p)]

    return inside(_parsed(value))


def sought(value: str) -> list[str]:
    """What has to be said for the value to be known: its scalar values that are not blank, of a date-time the day and
    the time."""
    return [part for leaf in leaves(value) if leaf.strip() for part in day_and_time(leaf) or [leaf]]


@lru_cache(maxsize=1 << 14)
def _parsed(value: str) -> Any:
    """The JSON list or object that a value is, else the value."""
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return parsed if isinstance(parsed, list | dict) else value


def _by_parts(a: Any, b: Any, today: date | None) -> float:
    """Twice what agrees as a share of both sizes: objects key by key, lists by the best pairs, whatever their order."""
    if isinstance(a, dict) and isinstance(b, dict):
        agreeing, sizes = sum(_by_parts(a[k], b[k], today) for k in a if k in b), len(a) + len(b)
    elif isinstance(a, list) and isinstance(b, list):
        agreeing, sizes = _best_pairs([[_by_parts(x, y, today) for y in b] for x in a]), len(a) + len(b)
    elif isinstance(a, list | dict) or isinstance(b, list | dict):
        return 0.0
    else:
        return float(_same(_text(a), _text(b), today))
    return 2 * agreeing / sizes if sizes else 1.0


def _best_pairs(agreements: list[list[float]]) -> float:
    """The sum over pairs of rows and columns, each once, taken greedily."""
    pairs = sorted(((-s, i, j) for i, row in enumerate(agreements) for j, s in enumerate(row)))
    rows, columns, total = set(), set(), 0.0
    for s, i, j in pairs:
        if i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            total -= s
    return total


def _text(value: Any) -> str:
    return "" if value is None else str(value)
