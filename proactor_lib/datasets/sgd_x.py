"""SGD-X: Schema-Guided Dialogue's services in other words. The dialogues stay; what their catalog calls things changes.

A variant's schema lists services, intents and slots in the order of the schema that it rewords.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from proactor_lib.datasets import Corpus, Variant, sgd
from proactor_lib.datasets.raw import parsed
from proactor_lib.errors import UserError
from proactor_lib.schema import Dialogue, ObservedAction

PLACES = ("sgd_x/data", "sgd_x", "../sgd_x")  # of the variants' folders, from SGD's
T = TypeVar("T")


@dataclass(frozen=True)
class Wording:
    """The variant's names by the original ones."""

    services: dict[str, str]
    actions: dict[str, str]
    params: dict[str, dict[str, str]]  # by original service


def reworded(corpus: Corpus, folder: Path, split: str, variant: Variant) -> Corpus:
    """The corpus with the variant's catalog, and its log in the same words; the transcripts are untouched.

    UserError where SGD-X's schema of that split is not beside SGD's folder, or is another corpus's.
    """
    path = _schema(folder, split, variant)
    words = wording(parsed(sgd.schema_file(folder, split)), parsed(path), path)
    dialogues = tuple(_reworded(d, words) for d in corpus.dialogues)
    return replace(corpus, catalog=sgd.catalog(parsed(path), path), dialogues=dialogues)


def _schema(folder: Path, split: str, variant: str) -> Path:
    places = [folder / place / variant / split for place in PLACES]
    found = [path for place in places for path in sorted(place.glob("schema.json*"))]
    if not found:
        looked = ", ".join(str(place) for place in places)
        raise UserError(f"schema_variant {variant!r}: no schema.json(.gz) of SGD-X in any of: {looked}")
    return found[0]


def wording(original: list[dict], variant: list[dict], source: Path | str = "the variant") -> Wording:
    """What the variant calls each service, intent and slot. UserError where the two do not have as many of them."""
    words = Wording({}, {}, {})
    for a, b in _pairs(original, variant, source):
        old, new = a["service_name"], b["service_name"]
        words.services[old] = new
        for i, j in _pairs(a["intents"], b["intents"], source):
            words.actions[f"{old}.{i['name']}"] = f"{new}.{j['name']}"
        words.params[old] = {s["name"]: t["name"] for s, t in _pairs(a["slots"], b["slots"], source)}
    return words


def _pairs(original: list[T], variant: list[T], source: Path | str) -> list[tuple[T, T]]:
    if len(original) != len(variant):
        raise UserError(f"{source} is no variant of SGD's schema: it has {len(variant)} for {len(original)} there")
    return list(zip(original, variant, strict=True))


def _reworded(dialogue: Dialogue, words: Wording) -> Dialogue:
    return dialogue.model_copy(
        update={
            "services": tuple(words.services[s] for s in dialogue.services),
            "actions": tuple(words.actions[a] for a in dialogue.actions),
            "observed": tuple(_call(o, words) for o in dialogue.observed or ()),
        }
    )


def _call(o: ObservedAction, words: Wording) -> ObservedAction:
    names: Mapping[str, str] = words.params[o.name.split(".")[0]]
    return o.model_copy(
        update={
            "name": words.actions[o.name],
            "params": {names[p]: v for p, v in o.params.items()},
            "evidence": {names[p]: t for p, t in o.evidence.items()},
        }
    )


def original(service: str, variant: Variant) -> str:
    """The service's name in SGD: a variant adds its number."""
    return service.removesuffix(variant[1:])
