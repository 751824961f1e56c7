"""`proactor catalog`: catalogs from what people have, and back."""

import json
from pathlib import Path
from typing import Annotated

import typer

from proactor_lib.cli.options import AsJson

catalog = typer.Typer(no_args_is_help=True, help="Catalogs from what people have, and back.")


@catalog.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What to read.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="openapi, sgd, abcd; a tool list: openai, mcp, anthropic, bedrock, gemini.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The catalog (JSON).")],
    domain: Annotated[str | None, typer.Option(help="The domain's name, in place of the file's own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a catalog; what it cannot hold of the source is reported."""
    from proactor_lib.datasets.forms import read_catalog
    from proactor_lib.files import write_json

    found = read_catalog(file, source, domain)
    write_json(out, found.catalog.model_dump(mode="json"))
    _report(f"{len(found.catalog.actions)} actions in {out}", found.notes, as_json)


@catalog.command()
def export(
    file: Annotated[Path, typer.Argument(help="A catalog (JSON).")],
    target: Annotated[str, typer.Option("--to", help="openai or mcp.")],
    out: Annotated[Path, typer.Option(help="What to write.")],
    as_json: AsJson = False,
) -> None:
    """Write a catalog as a tool list; what that cannot hold is reported."""
    from proactor_lib import catalog as catalogs
    from proactor_lib.files import read_json, write_json
    from proactor_lib.schema import Catalog

    made, notes = catalogs.export(read_json(file, Catalog), target)
    write_json(out, made)
    _report(f"{out} written", notes, as_json)


def _report(text: str, notes: list[str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"done": text, "not_expressed": notes}, indent=2))
        return
    typer.echo(text, err=True)
    for note in notes:
        typer.echo(f"  not expressed: {note}", err=True)
