"""References in JSON documents: `$ref` by RFC 6901, within a document and to files beside it, by `referencing`.

What is read of a document keeps the place where it stood (`Part`), for a reference in it starts from there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import referencing
from referencing.exceptions import NoSuchResource, Unresolvable
from referencing.jsonschema import DRAFT202012

from proactor_lib.errors import UserError
from proactor_lib.files import parse_json, read_text
from proactor_lib.yaml_text import parse_yaml


class Malformed(ValueError):
    """A sentence on what is wrong at a place of a document."""


class Scope(NamedTuple):
    """Where a part of a document stands: what resolves its references, and the ones followed to come here."""

    resolver: Any
    above: tuple[int, ...] = ()  # ids of what was referred to, from the root on


class Part(NamedTuple):
    """A value of a document, and where it stands."""

    value: Any
    scope: Scope


def document(path: Path) -> Any:
    """A JSON or YAML file's value. UserError if it is neither."""
    text = read_text(path)
    yaml = {".yaml", ".yml"} & set(path.suffixes) or not text.lstrip().startswith(("{", "["))
    return parse_yaml(text, path) if yaml else parse_json(text, path)


def root(value: Any, path: Path | None = None) -> Part:
    """A whole document. References to files start from `path`; without one there are no files."""
    uri = path.resolve().as_uri() if path else "urn:document"
    registry = referencing.Registry(retrieve=_beside).with_resource(uri, _resource(value))
    return Part(value, Scope(registry.resolver(uri)))


def _resource(value: Any) -> referencing.Resource:
    specification = DRAFT202012 if isinstance(value, dict) else referencing.Specification.OPAQUE
    return referencing.Resource(value, specification)


def _beside(uri: str) -> referencing.Resource:
    parts = urlsplit(uri)
    path = Path(unquote(parts.path))
    if parts.scheme != "file" or not path.is_file():
        raise NoSuchResource(ref=uri)
    return _resource(document(path))


def followed(part: Part) -> Iterator[Part]:
    """A part's own value last, and what its `$ref` leads to before it; nothing of it where a reference is a circle.

    Raises Circle and Nowhere, and Malformed for a reference that is no text.
    """
    ref = part.value.get("$ref")
    if ref is not None:
        if not isinstance(ref, str):
            raise Malformed(f"'$ref' must be text, got {ref!r}")
        try:
            target = part.scope.resolver.lookup(ref)
        except (Unresolvable, LookupError, TypeError, ValueError, AttributeError) as error:
            if isinstance(reason := _cause(error), UserError):
                raise reason from None
            raise Nowhere(ref) from None
        if id(target.contents) in part.scope.above:
            raise Circle(ref)
        above = (*part.scope.above, id(target.contents))
        yield Part(target.contents, Scope(target.resolver, above))
    yield Part({k: v for k, v in part.value.items() if k != "$ref"}, part.scope)


def _cause(error: BaseException | None) -> BaseException | None:
    """A user's mistake (a file that is no document) that ended a look-up."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


class Nowhere(LookupError):
    """A reference that leads nowhere."""


class Circle(LookupError):
    """A reference to what it is a part of."""
