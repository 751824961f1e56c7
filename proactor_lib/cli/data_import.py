"""`proactor data import`: people's own conversations, in the forms in which they keep them, as an own domain."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proactor_lib.cli.options import AsJson
from proactor_lib.errors import UserError

if TYPE_CHECKING:
    from proactor_lib.datasets.transcripts import Options

Files = Annotated[list[Path], typer.Argument(help="What to read, one or more files of one form.")]
From = Annotated[str, typer.Option("--from", help="chat, vtt, srt, whisper, csv or vcon.")]
Tools = Annotated[
    Path | None, typer.Option(help="A tool list, an OpenAPI document or a catalog; none: inferred from the calls.")
]
Triggers = Annotated[
    Path | None, typer.Option(help="For transcripts: CSV or JSONL with dialogue, turn or time, action, values.")
]
Columns = Annotated[list[str], typer.Option(metavar="KEY=NAME", help="csv: dialogue, speaker, text, start, end.")]
Speakers = Annotated[list[str], typer.Option(metavar="NAME=OTHER", help="Another name for a speaker.")]
Domain = Annotated[str | None, typer.Option(help="The domain's name; none: the first file's.")]


def import_(
    files: Files,
    source: From,
    out: Annotated[Path, typer.Option(help="The folder, which `--dataset jsonl` reads.")],
    tools: Tools = None,
    triggers: Triggers = None,
    column: Columns = [],  # noqa: B006
    speaker: Speakers = [],  # noqa: B006
    domain: Domain = None,
    split: Annotated[str, typer.Option(help="Shares of train, dev and test.")] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Read chats or transcripts; the folder's import.md says what was read, guessed and left out."""
    from proactor_lib.datasets import forms, imported

    found = forms.read(files, source, tools, triggers, options(column, speaker), domain)
    parts = imported.split(found.dialogues, _shares(split), seed)
    imported.write(found, out, parts, files)
    if as_json:
        notes = {"guessed": list(found.notes.guessed), "left_out": list(found.notes.left_out)}
        typer.echo(json.dumps(found.counts | {"splits": {k: len(v) for k, v in parts.items()}} | notes, indent=2))
    typer.echo((out / imported.PAGE).read_text(encoding="utf-8"), err=True)


def options(columns: list[str], speakers: list[str]) -> "Options":
    """What KEY=NAME options say of a source. UserError for a column that no table has."""
    from proactor_lib.datasets.transcripts import COLUMNS, Options

    found = Options(columns=_pairs(columns, "--column"), speakers=_pairs(speakers, "--speaker"))
    if unknown := [key for key in found.columns if key not in COLUMNS]:
        raise UserError(f"--column {unknown[0]}=...: accepted keys: {', '.join(COLUMNS)}")
    return found


def _pairs(given: list[str], option: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if wrong := [text for text, (name, equals, value) in zip(given, pairs, strict=True) if not (name and value)]:
        raise UserError(f"{option} {wrong[0]!r} is not NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--split {text!r}: three shares with the sum 1 are wanted, like 0.8,0.1,0.1") from None
