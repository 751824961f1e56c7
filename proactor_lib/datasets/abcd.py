"""ABCD, customer-service chats with the buttons that the agent clicked, in its public raw format.

A folder with `abcd_v1.1.json` (or .gz; splits train, dev, test) or with `abcd_sample.json` (a bare list: every split is
all of it), and `ontology.json`; `guidelines.json`, where it is there, gives the descriptions and the order of steps.
An action line belongs to the spoken turn above it and leaves the transcript; its values get the ontology's slot names.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from proactor_lib.catalog.json_schema import Notes
from proactor_lib.datasets.raw import parsed, reason
from proactor_lib.errors import UserError
from proactor_lib.schema import Action, Catalog, Dialogue, ObservedAction, Parameter, Turn
from proactor_lib.values import normalise

# Buttons of the guidelines whose names the ontology spells otherwise.
BUTTONS = {
    "Notify Internal Team": "notify-team",
    "Ask the Oracle": "ask-the-oracle",
    "Membership Privileges": "membership",
    "Enter Detail": "enter-details",
    "Select Answer": "select-faq",
    "Log Out/In": "log-out-in",
} | {word: f"search-{word.lower()}" for word in "Boots Shirt Jeans Jacket Pricing Membership Timing Policy".split()}  # noqa: SIM905
# Of these buttons' slots any one will do (of verify-identity's, any three); of all others every one is required. [ours]
ALTERNATIVES = {
    "verify-identity",
    "record-reason",
    "enter-details",
    "update-order",
    "pull-up-account",
    "update-account",
    "select-faq",
}
# What a value looks like where neither the chat's scenario nor the ontology lists it, the narrowest first.
FORMS = {
    "email": r".+@.+",
    "phone": r"\(?\d{3}\)?[ -]*\d{3}-?\d{4}",
    "order_id": r"\d{10}",
    "zip_code": r"\d{5}",
    "pin_number": r"\d{4,6}",
    "amount": r"\$?\d+(\.\d+)?",
    "account_id": r"(?=.*\d)[a-z0-9]{8,12}",
    "full_address": r"\d+ .+\d{5}",
    "street_address": r"\d+ .+",
    "username": r"[a-z]+\d+",
    "customer_name": r"[a-z]+ [a-z]+",
}


_OPTION = re.compile(r"Option(al)?\b[ \d-]*")


def read(folder: Path, split: str) -> tuple[Catalog, Iterator[Dialogue]]:
    """The catalog and the split's dialogues. UserError names the file, and what is missing in it."""
    ontology = folder / "ontology.json"
    guidelines = folder / "guidelines.json"
    slots = parsed(ontology)
    made = catalog(slots, parsed(guidelines) if guidelines.exists() else None, ontology)
    path = _chats_file(folder)
    return made, _dialogues(_split(parsed(path), split, path), path, made, slots["values"]["enumerable"])


def _chats_file(folder: Path) -> Path:
    full = sorted([*folder.glob("abcd_v*.json"), *folder.glob("abcd_v*.json.gz")])
    path = full[-1] if full else folder / "abcd_sample.json"
    if not path.exists():
        raise UserError(
            f"{folder} has neither abcd_v1.1.json(.gz) nor abcd_sample.json; "
            f"`proactor data fetch abcd --out {folder}` gets them"
        )
    return path


def _split(chats: list | dict, split: str, path: Path) -> list[dict]:
    if isinstance(chats, list):
        return chats
    if split not in chats:
        raise UserError(f"{path} has no split {split!r}; it has: {', '.join(chats)}")
    return chats[split]


def catalog(ontology: dict, guidelines: dict | None = None, source: Path | str = "the ontology") -> Catalog:
    """The ontology's buttons as actions. UserError where `ontology` is not what ABCD's ontology.json holds.

    With `guidelines`: descriptions, and as preconditions the steps that come before a step wherever it occurs. [ours]
    """
    try:
        values = ontology["values"]["enumerable"]
        buttons = {name: (group, slots) for group, some in ontology["actions"].items() for name, slots in some.items()}
        steps = _steps(guidelines or {}, set(buttons))
        actions = tuple(_action(name, *place, values, steps) for name, place in buttons.items())
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{source} is not ABCD's ontology (actions and values) with its guidelines: {reason(error)}"
        ) from None
    return Catalog(domain="abcd", version="1.1", actions=actions)


def imported(path: Path, notes: Notes) -> Catalog:
    """An ontology file's catalog (`catalog.Reader`), with the guidelines beside it."""
    guidelines = path.parent / "guidelines.json"
    read = catalog(parsed(path), parsed(guidelines) if guidelines.exists() else None, path)
    if not guidelines.exists():
        notes.add(f"no guidelines.json beside {path.name}: no descriptions and preconditions")
    for action in read.actions:
        notes.add("of alternative slots the guidelines want some, none of them always: all are optional", action.name,
                  action.name in ALTERNATIVES)  # fmt: skip
    return read


def _action(name: str, group: str, slots: list[str], values: dict, steps: list[list[tuple[str, str]]]) -> Action:
    return Action(
        name=name,
        description=_description(name, steps),
        group=group,
        effect="write" if group == "interaction" else "read",
        preconditions=_preconditions(name, steps),
        params=tuple(
            Parameter(name=s, required=name not in ALTERNATIVES, values=tuple(values.get(s, ()))) for s in slots
        ),
    )


def _steps(guidelines: dict, known: set[str]) -> list[list[tuple[str, str]]]:
    """The steps of each procedure as (action, text); what the agent only says is left out."""
    return [
        [(name, step["text"]) for step in procedure["actions"] if (name := _button(step["button"])) in known]
        for flow in guidelines.values()
        for procedure in flow["subflows"].values()
    ]


def _button(label: str) -> str:
    return BUTTONS.get(label) or "-".join(label.lower().split())


def _description(name: str, steps: list[list[tuple[str, str]]]) -> str:
    """The text that stands beside the button most often, of those that are a sentence."""
    texts = Counter(
        _OPTION.sub("", " ".join(text.split())).strip(" :") for some in steps for n, text in some if n == name
    )
    return next((text for text, _ in texts.most_common() if len(text.split()) > 3), "")


def _preconditions(name: str, steps: list[list[tuple[str, str]]]) -> tuple[str, ...]:
    """Steps before this one in every procedure that has it; steps marked as options neither are nor have any."""
    firm = [[n for n, text in some if not _OPTION.match(text.strip())] for some in steps]
    before = [some[: some.index(name)] for some in firm if name in some]
    return tuple(n for n in dict.fromkeys(before[0]) if all(n in b for b in before)) if before else ()


def _dialogues(chats: list[dict], path: Path, catalog: Catalog, values: dict) -> Iterator[Dialogue]:
    for number, raw in enumerate(chats, start=1):
        try:
            yield _dialogue(raw, catalog, values)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"{path}, chat {number} is not in ABCD's format: {reason(error)}") from None


def _dialogue(raw: dict, catalog: Catalog, values: dict) -> Dialogue:
    turns, observed = [], []
    known = _known(raw.get("scenario", {}), values)
    for (speaker, text), labelled in zip(raw["original"], raw["delexed"], strict=True):
        if speaker != "action":
            turns.append(Turn(speaker=speaker, text=text))
            continue
        name, given = labelled["targets"][2:4]
        slots = [p.name for p in catalog.by_name[name].params]
        observed.append(ObservedAction(turn=max(1, len(turns)), name=name, params=named(given, slots, known)))
    return Dialogue(id=f"abcd-{raw['convo_id']}", domain="abcd", turns=tuple(turns), observed=tuple(observed))


def _known(scenario: dict, values: dict) -> dict[str, set[str]]:
    """By slot, the values that the chat's scenario and the ontology list, normalised."""
    known = {slot: {normalise(v) for v in listed} for slot, listed in values.items()}
    for part in ("personal", "order"):
        for slot, value in scenario.get(part, {}).items():
            slot = "membership_level" if slot == "member_level" else slot
            known.setdefault(slot, set()).add(normalise(str(value)))
    return known


def named(values: list[str], slots: list[str], known: dict[str, set[str]]) -> dict[str, str]:
    """Values with slot names, each slot once: by what is known of a slot, else by form, else the next slot in order.

    Empty values, and values beyond the slots that the button has, are left out.
    """
    params, free = {}, list(slots)
    values = [v for v in values if v and v.strip()]
    for value in sorted(values, key=lambda v: not any(normalise(v) in known.get(s, ()) for s in slots)):
        if free:
            slot = _slot(value, free, known)
            params[slot] = value
            free.remove(slot)
    return {s: params[s] for s in slots if s in params}


def _slot(value: str, free: list[str], known: dict[str, set[str]]) -> str:
    listed = [s for s in free if normalise(value) in known.get(s, ())]
    formed = [s for s, form in FORMS.items() if s in free and re.fullmatch(form, value.strip().lower())]
    return (listed or formed or free)[0]
