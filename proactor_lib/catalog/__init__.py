"""Catalogs from what people have, and back: one schema for heterogeneous tools [paper], read from these sources [ours].

What a source says and a catalog cannot hold is never dropped in silence: it comes back as notes.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from proactor_lib.catalog import openapi, tools
from proactor_lib.catalog.json_schema import Notes
from proactor_lib.catalog.references import Malformed, document
from proactor_lib.errors import UserError
from proactor_lib.files import first_error
from proactor_lib.schema import Action, Catalog

Reader = Callable[[Path, Notes], Catalog]  # notes down what the catalog does not hold of the file


@dataclass(frozen=True)
class Imported:
    """A catalog, and what of its source it does not hold, a sentence each."""

    catalog: Catalog
    notes: list[str] = field(default_factory=list)


def read(path: Path, source: str, domain: str | None = None, readers: Mapping[str, Reader] | None = None) -> Imported:
    """The file as a catalog; `domain` in place of the name that the file gives itself.

    source: a key of `readers` (None: `SOURCES`; with the corpora's own: `datasets.forms.CATALOGS`).
    Raises UserError: an unknown source, a file that is not of that kind, two actions of one name.
    """
    readers = readers or SOURCES
    if source not in readers:
        raise UserError(f"unknown catalog source {source!r}; accepted: {', '.join(readers)}")
    notes = Notes()
    try:
        catalog = readers[source](Path(path), notes)
        if domain:
            catalog = catalog.model_copy(update={"domain": domain})
        return Imported(catalog, notes)
    except ValidationError as error:
        raise UserError(f"{path}: {first_error(error)}") from None
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not what --from {source} reads: {type(error).__name__} {error}") from None


def _listed(path: Path, actions: tuple[Action, ...], domain: str, version: str = "1") -> Catalog:
    if not actions:
        raise UserError(f"{path} holds no tool that could become an action")
    return Catalog(domain=domain, version=version, actions=actions)


def _tools(path: Path, notes: Notes) -> Catalog:
    return _listed(path, tools.read(document(path), notes), path.name.partition(".")[0])


def _openapi(path: Path, notes: Notes) -> Catalog:
    actions, title, version = openapi.read(document(path), notes, path)
    return _listed(path, actions, title or path.name.partition(".")[0], version)


SOURCES: dict[str, Reader] = {
    "openapi": _openapi,
    **dict.fromkeys(("mcp", "openai", "anthropic", "bedrock", "gemini"), _tools),  # one reader of all their forms
}
TARGETS: dict[str, Callable[[Catalog, Notes], Any]] = {"openai": tools.to_openai, "mcp": tools.to_mcp}


def export(catalog: Catalog, target: str) -> tuple[Any, list[str]]:
    """The catalog in another form (a key of `TARGETS`), ready for JSON, and notes on what that form does not hold."""
    if target not in TARGETS:
        raise UserError(f"unknown catalog target {target!r}; accepted: {', '.join(TARGETS)}")
    notes = Notes()
    return json.loads(json.dumps(TARGETS[target](catalog, notes))), list(notes)
