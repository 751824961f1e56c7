"""Options that many commands have."""

from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Settings = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a parameter.")]


def typed(**options: Any) -> dict[str, Any]:
    """The options that were given, which lie over a file of parameters; None is what was not."""
    return {name: value for name, value in options.items() if value is not None}
