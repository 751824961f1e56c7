"""Schema-Guided Dialogue in its public raw format: per split a folder of `schema.json` and `dialogues_*.json`(.gz).

A service call is a logged action `Service.Method` at the user turn before it. The dialogue state that the corpus gives
at user turns says where each of the call's values, and the intent, first stood, and how else a value was named (`SFO`).
All take place on one day, so that "this Saturday" is a date. A split without any service call (as MultiWOZ in this
form) logs no triggers and has no day.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from proactor_lib.catalog.json_schema import Notes
from proactor_lib.datasets.raw import parsed, reason
from proactor_lib.errors import UserError
from proactor_lib.files import read_text
from proactor_lib.schema import Action, Catalog, Dialogue, ObservedAction, Parameter, Turn
from proactor_lib.values import same_value

DAY = date(2019, 3, 1)  # that SGD's crowd was told


def read(folder: Path, split: str) -> tuple[Catalog, Iterator[Dialogue]]:
    """The split's catalog and its dialogues, read file by file. `folder` holds the split's folder, or is it itself.

    UserError names the file, and what is missing in it.
    """
    place = _place(folder, split)
    schemas = _files(place, "schema")
    parts = _files(place, "dialogues_*")
    if not (schemas and parts):
        missing = "dialogues_*.json" if schemas else "schema.json"
        there = ", ".join(sorted(p.parent.name for p in folder.glob("*/schema.json*"))) or "none"
        raise UserError(f"{place} has no {missing} (or .json.gz): no split {split!r} of SGD; splits there: {there}")
    made = catalog(parsed(schemas[0]), schemas[0])
    logged = any('"service_call"' in read_text(path) for path in parts)
    return made, _dialogues(parts, made, logged)


def _place(folder: Path, split: str) -> Path:
    return folder / split if (folder / split).is_dir() else folder


def schema_file(folder: Path, split: str) -> Path:
    """The split's schema, where `read` has found one."""
    return _files(_place(folder, split), "schema")[0]


def _files(place: Path, stem: str) -> list[Path]:
    return sorted([*place.glob(f"{stem}.json"), *place.glob(f"{stem}.json.gz")])


def catalog(schema: list[dict], source: Path | str = "the schema") -> Catalog:
    """Every intent of every service as an action. UserError where `schema` is not what SGD's schema.json holds."""
    try:
        actions = tuple(_action(service, intent) for service in schema for intent in service["intents"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{source} is not an SGD schema (a list of services with intents and slots): {reason(error)}"
        ) from None
    return Catalog(domain="sgd", actions=actions)


def imported(path: Path, notes: Notes) -> Catalog:
    """A schema file's catalog (`catalog.Reader`)."""
    schema = parsed(path)
    read = catalog(schema, path)
    for intent in (i for service in schema for i in service["intents"]):
        notes.add("result slots of an intent have no place in a catalog", intent["name"], intent.get("result_slots"))
        notes.add(
            "default values of optional slots have no place in a catalog", intent["name"], intent["optional_slots"]
        )
    return read


def _action(service: dict, intent: dict) -> Action:
    """Parameters in the service's order of slots, required ones first: the order of optional slots differs by split."""
    required, optional = intent["required_slots"], intent["optional_slots"]
    slots = [s for names in (required, optional) for s in service["slots"] if s["name"] in names]
    return Action(
        name=f"{service['service_name']}.{intent['name']}",
        description=intent["description"],
        group=service["service_name"],
        effect="write" if intent["is_transactional"] else "read",
        params=tuple(_parameter(slot, slot["name"] in required) for slot in slots),
    )


def _parameter(slot: dict, required: bool) -> Parameter:
    values = tuple(slot["possible_values"]) if slot["is_categorical"] else ()
    return Parameter(
        name=slot["name"], type=_type(values), description=slot["description"], required=required, values=values
    )


def _type(values: tuple[str, ...]) -> str:
    if values and set(values) <= {"True", "False"}:
        return "boolean"
    return "integer" if values and all(v.isdigit() for v in values) else "string"


def _dialogues(parts: list[Path], catalog: Catalog, logged: bool) -> Iterator[Dialogue]:
    by_service: dict[str, tuple[str, ...]] = {}
    for action in catalog.actions:
        by_service[action.group] = (*by_service.get(action.group, ()), action.name)
    for path in parts:
        for number, raw in enumerate(parsed(path), start=1):
            try:
                yield _dialogue(raw, by_service, logged)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}, dialogue {number} is not in SGD's format: {reason(error)}") from None


def _dialogue(raw: dict, by_service: dict[str, tuple[str, ...]], logged: bool) -> Dialogue:
    return Dialogue(
        id=raw["dialogue_id"],
        domain="sgd",
        turns=tuple(Turn(speaker=t["speaker"].lower(), text=t["utterance"]) for t in raw["turns"]),
        observed=tuple(_observed(raw["turns"])) if logged else None,
        date=DAY if logged else None,
        services=tuple(raw["services"]),
        actions=tuple(name for service in raw["services"] for name in by_service[service]),
    )


def _observed(turns: list[dict]) -> Iterator[ObservedAction]:
    states: dict[str, list[tuple[int, dict]]] = {}  # by service: its user turns and the state at each
    called: dict[tuple[str, str], int] = {}  # by service and method: the turn of the last call
    user_turn = 1
    for index, turn in enumerate(turns, start=1):
        if turn["speaker"].upper() == "USER":
            user_turn = index
        for frame in turn["frames"]:
            history = states.setdefault(frame["service"], [])
            if "state" in frame:
                history.append((index, frame["state"]))
            if call := frame.get("service_call"):
                key = frame["service"], call["method"]
                yield _call(*key, call["parameters"], user_turn, history, called.get(key, 0))
                called[key] = user_turn


def _call(service: str, method: str, params: dict, turn: int, history: list, before: int) -> ObservedAction:
    """`history`: the state at each user turn so far; `before`: the turn of the last call of the same method, or 0."""
    held = history[-1][1]["slot_values"] if history else {}
    intent = (t for t, state in history if t > before and state["active_intent"] == method)
    others = {p: tuple(said for said in held.get(p, ()) if not same_value(said, str(v))) for p, v in params.items()}
    spellings = {p: said for p, said in others.items() if said}
    return ObservedAction(
        turn=turn,
        name=f"{service}.{method}",
        params=params,
        evidence={p: turn for p in params if (turn := _first_held(history, p, held.get(p, ())))},
        intent_turn=next(intent, None),
        **({"spellings": spellings} if spellings else {}),
    )


def _first_held(history: list[tuple[int, dict]], slot: str, values: Sequence[str]) -> int | None:
    """The first turn whose state gives the slot one of these values: the spellings of the one that the call uses."""
    turns = (t for t, state in history if not set(values).isdisjoint(state["slot_values"].get(slot, ())))
    return next(turns, None)
