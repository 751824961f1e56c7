"""People's conversations in any of the forms in which they keep them -> what they hold, with a catalog."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from proactor_lib import catalog
from proactor_lib.catalog.references import document
from proactor_lib.datasets import abcd, chat, sgd, transcripts, triggers
from proactor_lib.datasets.conversations import Conversation, Notes
from proactor_lib.datasets.imported import Imported, collect
from proactor_lib.errors import UserError
from proactor_lib.files import read_json, stem
from proactor_lib.schema import Action, Catalog

FORMS = ("chat", *transcripts.SOURCES)
CATALOGS = catalog.SOURCES | {"sgd": sgd.imported, "abcd": abcd.imported}


def read_catalog(path: Path, source: str, domain: str | None = None) -> catalog.Imported:
    """`catalog.read` of any source, the corpora's own files (`CATALOGS`) too."""
    return catalog.read(path, source, domain, CATALOGS)


def read(
    files: Sequence[Path],
    form: str,
    tools: Path | None = None,
    trigger_file: Path | None = None,
    options: transcripts.Options | None = None,
    domain: str | None = None,
) -> Imported:
    """The files' conversations; without `domain` it is the given catalog's, else the first file's name.

    tools: a tool list, an OpenAPI document or a catalog; trigger_file: of transcripts, `triggers.read`. Raises
    UserError: an unknown form, what a reader refuses, no action anywhere.
    """
    if form not in FORMS:
        raise UserError(f"unknown form --from {form!r}; accepted: {', '.join(FORMS)}")
    if trigger_file and form == "chat":
        raise UserError("--triggers is for transcripts: a chat has its calls in itself")
    if options and options.columns and form != "csv":
        raise UserError(f"--column is for tables (--from csv), not for --from {form}")
    notes = Notes()
    actions, given = _actions(tools, notes) if tools else ((), None)
    conversations = [c for path in files for c in _conversations(path, form, options, notes)]
    if trigger_file:
        conversations = triggers.placed(conversations, triggers.read(trigger_file))
    logged = bool(trigger_file) or any(c.calls for c in conversations)
    name = domain or (given and given.domain) or stem(files[0])
    its = {"final": [a.name for a in actions], "version": given.version} if given else {}
    return collect(conversations, actions, name, logged, notes, **its)


def _conversations(path: Path, form: str, options: transcripts.Options | None, notes: Notes) -> Iterator[Conversation]:
    options = options or transcripts.Options()
    if form == "chat":
        return chat.read(path, notes, options.speakers)
    return transcripts.read(path, form, options, notes)


def _actions(path: Path, notes: Notes) -> tuple[tuple[Action, ...], Catalog | None]:
    """The actions of a catalog, an OpenAPI document or a tool list, and the catalog where it is one."""
    value = document(path)
    if isinstance(value, dict) and {"domain", "actions"} <= {*value}:
        given = read_json(path, Catalog)
        return given.actions, given
    source = "openapi" if isinstance(value, dict) and {"openapi", "swagger"} & {*value} else "openai"
    found = catalog.read(path, source)
    for note in found.notes:
        notes.left_out.add(f"of the tools: {note}", path.name)
    return found.catalog.actions, None
