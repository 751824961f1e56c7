"""STAR, wizard-of-Oz dialogues between a user and an assistant that asks a knowledge base, in its public raw format.

A folder with `apis/apis/*.json` (or `apis/*.json`) and `dialogues/*.json`, one dialogue each. An API is an action (or
two, where it has request types: `hotel_book.Check`, `hotel_book.Book`), its domain (`hotel`) a service. A query of the
wizard is a logged action at its own moment and the turn before it, with its operators (`at most 40`, `Cheap or
Moderate`). What the knowledge base answered, guides' instructions and suggestions that were not picked are nobody's
words; but an answer is evidence of its fields' values from the next turn on. The corpus has no splits: a dialogue's id
draws one. Its days (`Monday`) are the task's, not the calendar's, so that no dialogue has a date.
"""

import ast
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from proactor_lib.datasets.raw import parsed, reason
from proactor_lib.errors import UserError
from proactor_lib.schema import Action, Catalog, Dialogue, ObservedAction, Parameter, Turn
from proactor_lib.values import Heard, key

log = logging.getLogger(__name__)

SPLITS = {"train": range(8), "dev": range(8, 9), "test": range(9, 10)}  # tenths of the dialogues
REQUEST = "RequestType"
CHOSEN = ("id", "QuestionNum")  # what the wizard picks from an answer or by itself: nobody says it
SPOKEN = {("User", "utter"): "user", ("Wizard", "utter"): "agent", ("Wizard", "pick_suggestion"): "agent"}
YES_NO = {"Yes": "yes|yeah|yep|yup|sure|i do|i did|i have", "No": "no|nope|nah|not|i don't|i haven't|i didn't"}
HOUR = "at|by|around|about|till|until|from|to|after|before|between|and|or|is"  # before an hour without am or pm
COUNTED = r"(?:minute|hour|degree|kilomet|mile|people|person|guest|friend|star|dollar|percent|night|day|room)|km|[%$]"
TYPES = {"Integer": "integer", "Boolean": "boolean"}
SEARCHES = ("search", "balance", "status", "directions", "weather", "trivia")  # APIs that change nothing end so [ours]
OPERATORS = {
    "is_equal_to": "{}", "contains": "{}", "is_at_most": "at most {}", "is_at_least": "at least {}",
    "is_less_than": "less than {}", "is_greater_than": "more than {}", "is_not": "not {}", "is_one_of": "{}",
}  # fmt: skip
_CALL = re.compile(r"api\.(\w+)\((.*)\)\s*", re.DOTALL)


def read(folder: Path, split: str) -> tuple[Catalog, Iterator[Dialogue]]:
    """The catalog and the split's dialogues, by id. UserError names the file, and what is missing in it."""
    if split not in SPLITS:
        raise UserError(f"STAR has no split {split!r}; a dialogue's id draws one of: {', '.join(SPLITS)}")
    files = sorted((folder / "dialogues").glob("*.json"), key=lambda path: (len(path.stem), path.stem))
    apis = sorted([*(folder / "apis" / "apis").glob("*.json"), *(folder / "apis").glob("*.json")])
    if not (files and apis):
        raise UserError(f"{folder} is not STAR's folder: it has no {'apis/apis' if files else 'dialogues'}/*.json")
    made = catalog(apis)
    found = (_read(path, made) for path in files if tenth(path.stem) in SPLITS[split])
    return made, filter(None, found)


def tenth(id: str) -> int:
    """Which tenth of the dialogues the id belongs to, from 0: the same whatever else is in the folder."""
    return int(hashlib.sha256(f"star {id}".encode()).hexdigest(), 16) % 10


def catalog(apis: list[Path]) -> Catalog:
    """An action for each API's file. UserError where one is not what STAR's holds."""
    actions = []
    for path in apis:
        try:
            actions += _actions(path.stem, parsed(path))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not an API of STAR (input and required): {reason(error)}") from None
    return Catalog(domain="star", actions=tuple(actions))


def _actions(name: str, api: dict) -> list[Action]:
    """The API as an action, or as one for each of its request types: a check reads, a booking writes."""
    types = next((given["Categories"] for given in api["input"] if given["Type"] == REQUEST), None)
    params = tuple(_parameter(given, api["required"]) for given in api["input"] if given["Type"] != REQUEST)
    reads = name.split("_")[-1] in SEARCHES
    return [
        Action(
            name=f"{name}.{kind}" if kind else name,
            description=" ".join(filter(None, (*name.split("_"), kind and f"({kind.lower()})"))),
            group=domain(name),
            effect="read" if reads or kind == "Check" else "write",
            params=params,
        )
        for kind in types or (None,)
    ]


def _parameter(given: dict, required: list[str]) -> Parameter:
    return Parameter(
        name=given["Name"],
        type=TYPES.get(given["Type"], "string"),
        description=given.get("ReadableName", ""),
        required=given["Name"] in required,
        values=tuple(given.get("Categories", ())),
        source="system" if given["Name"] in CHOSEN else "user",
    )


def domain(api: str) -> str:
    """The service that an API belongs to."""
    return api.split("_")[0]


def _read(path: Path, catalog: Catalog) -> Dialogue | None:
    """The dialogue; None, with a line in the log, where nobody speaks."""
    raw = parsed(path)
    try:
        if not any((e["Agent"], e["Action"]) in SPOKEN for e in raw["Events"]):
            log.warning("%s is left out: nobody speaks in it", path)
            return None
        return _dialogue(raw, catalog)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a dialogue in STAR's format: {reason(error)}") from None


def _dialogue(raw: dict, catalog: Catalog) -> Dialogue:
    """Multi-task dialogues and those that go wrong are read as the others are."""
    turns: list[Turn] = []
    observed: list[ObservedAction] = []
    times: list[float] = []  # of the observed
    answered: dict[
        tuple[str, str], int
    ] = {}  # the turn after the knowledge base's first answer with it, by field, value
    origin = min((e["UnixTime"] for e in raw["Events"] if "UnixTime" in e), default=0)
    for event in raw["Events"]:
        time = event.get("UnixTime", origin) - origin
        if speaker := SPOKEN.get((event["Agent"], event["Action"])):
            turns.append(Turn(speaker=speaker, text=event["Text"], start=time))
        elif event["Action"] == "query":
            query = _query(event, turns, answered, catalog)
            if not any(_same(query, o) for o in observed):  # else it is sent again in silence
                observed.append(query)
                times.append(time)
        elif event["Action"] == "return_item":
            for name, value in (event.get("Item") or {}).items():
                answered.setdefault((_parameter_of(name), key(str(value))), len(turns) + 1)
    services = tuple(dict.fromkeys(domain(c["Task"]) for c in raw["Scenario"]["WizardCapabilities"]))
    return Dialogue(
        id=f"star-{raw['DialogueID']}",
        domain="star",
        turns=tuple(turns),
        observed=tuple(o.model_copy(update={"time": t}) for o, t in zip(observed, times, strict=True)),
        services=services,
        actions=tuple(a.name for a in catalog.actions if a.group in services),
    )


def _same(one: ObservedAction, other: ObservedAction) -> bool:
    return (one.turn, one.name, one.params) == (other.turn, other.name, other.params)


def _parameter_of(field: str) -> str:
    """What queries call an answer's field: `Name` for `HotelName`, ..."""
    return "Name" if field in ("HotelName", "VenueName", "RestaurantName") else field


def _query(event: dict, turns: list[Turn], answered: dict[tuple[str, str], int], catalog: Catalog) -> ObservedAction:
    read = {k: constraint(v) for given in event["Constraints"] for k, v in given.items() if v not in (None, "null")}
    kind, _ = read.pop(REQUEST, (None, None))
    action = f"{event['APIName']}.{kind}" if kind else event["APIName"]
    options = {p.name: p.values for p in catalog.by_name[action].params} if action in catalog.by_name else {}
    found = {}
    for name, (text, parts) in read.items():
        known = _known(name, text, parts, options.get(name, ()), turns, answered)
        found[name] = known and min(known, max(1, len(turns)))
    return ObservedAction(
        turn=max(1, len(turns)),
        name=action,
        params={name: text for name, (text, _) in read.items()},
        evidence={name: first for name, first in found.items() if first},
    )


def _known(name: str, text: str, parts: list[str], options: tuple[str, ...], turns: list[Turn],
           answered: dict[tuple[str, str], int]) -> int | None:  # fmt: skip
    """The turn by which all of the values were said or answered, the query's where nobody says them; None where an
    annotator sees it, or one was not found."""
    if text in YES_NO:
        return _agreed(name, text, turns) or len(turns)
    choices = {n for n, t in enumerate(turns, start=1) if t.speaker == "agent" and _said(options, t.text) > 1}
    literally = [n for n, t in enumerate(turns, start=1) if Heard(t.text).says(text)]
    if parts == [text] and literally and choices.isdisjoint(literally):
        return None
    first = []
    for part in parts:
        heard = (n for n, t in enumerate(turns, start=1) if n not in choices and _said([part], t.text))
        first.append(min(filter(None, (next(heard, None), answered.get((name, key(part))))), default=None))
    if None not in first:
        return max(first, default=None)
    return len(turns) if name in CHOSEN or literally else None


def _said(values: Iterable[str], text: str) -> int:
    """How many of the values the text says, in people's words too."""
    heard = Heard(text)
    return sum(bool(re.search(spoken(v), text, re.IGNORECASE)) or heard.says(v) for v in values)


def _agreed(name: str, value: str, turns: list[Turn]) -> int | None:
    """The first turn of the user that begins with this answer, after the agent used a word of the parameter's name."""
    words, answer = re.findall("[A-Z][a-z]{2,}", name), re.compile(rf"\W*({YES_NO[value]})\b", re.IGNORECASE)
    asked = False
    for turn, said in enumerate(turns, start=1):
        if said.speaker == "user" and asked and answer.match(said.text):
            return turn
        asked = said.speaker == "agent" and any(w.lower() in said.text.lower() for w in words)
    return None


def spoken(value: str) -> str:
    """A pattern for what people say for one of STAR's values [ours].

    `Hilton` for Hilton Hotel, `walk` for Walking, a number alone for a day of the month, or after a word such as `at`
    for an hour.
    """
    if number := re.fullmatch(r"(\d+)(st|nd|rd|th| [ap]m)", value.lower()):
        before = rf"(?:\b(?:{HOUR})\s|^\W*)" if number[2].endswith("m") else ""
        return rf"{before}(?<![\d.:]){number[1]}(?![\w:]|\.\d|\s*(?:{COUNTED}))"
    short = re.sub(r"( hotel| inn| venue| apartments| city|(?<=\w{3})ing)$", "", value.lower())
    ending = r"(?:e|es|ed|ing|s)?" if value.lower().endswith("ing") else ""
    return rf"\b{re.escape(short)}{ending}(?!\w)"


def constraint(value: str) -> tuple[str, list[str]]:
    """A constraint as text, and the values that it is about: `api.is_at_most(40)` -> `at most 40`, [`40`].

    ValueError for an operator that STAR does not have.
    """
    call = _CALL.fullmatch(str(value))
    operator, written = call.groups() if call else ("is_equal_to", str(value))
    if operator not in OPERATORS:
        raise ValueError(f"operator {operator!r}; accepted: {', '.join(OPERATORS)}")
    parts = _parts(written)
    return OPERATORS[operator].format(" or ".join(parts)), parts


def _parts(written: str) -> list[str]:
    try:
        value = ast.literal_eval(written)
    except (ValueError, SyntaxError):
        value = written
    return [str(v).strip() for v in value] if isinstance(value, list | tuple) else [str(value).strip()]
