"""`proactor data`: get, import, describe and export conversations."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proactor_lib.cli.data_import import import_
from proactor_lib.cli.options import AsJson
from proactor_lib.cli.tables import console
from proactor_lib.errors import UserError

if TYPE_CHECKING:
    from proactor_lib.datasets import Corpus

data = typer.Typer(no_args_is_help=True, help="Get, import, describe and export conversations.")
data.command("import")(import_)

Dataset = Annotated[str, typer.Option(help="homeloan, sgd, abcd, star, harper or jsonl.")]
DataDir = Annotated[Path | None, typer.Option(help="The corpus's folder; none for homeloan.")]
Split = Annotated[str, typer.Option(help="Of the corpus: train, dev, test.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Dialogues at most.")]
MaxTurns = Annotated[int | None, typer.Option(min=1, help="Leave out dialogues with more turns.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the simulator, and of what --limit draws.")]
Log = Annotated[bool, typer.Option(help="Whether the simulator logs triggers.")]
Transcript = Annotated[str, typer.Option(help="Of Harper Valley's calls: human or recogniser.")]


@data.command()
def export(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="The folder; several splits may share it.")],
    data_dir: DataDir = None,
    split: Split = "train",
    limit: Limit = None,
    max_turns: MaxTurns = None,
    form: Annotated[str, typer.Option(help="domain, or chat: fine-tuning data of the windows, with tools.")] = "domain",
    references: Annotated[Path | None, typer.Option(help="chat: windows (JSONL); none: true ones, the log's.")] = None,
    seed: Seed = 0,
    log: Log = True,
    transcript: Transcript = "human",
) -> None:
    """Write a split in the own-domain format, which `--dataset jsonl` reads, or as chats (<split>-chat.jsonl)."""
    from proactor_lib import datasets
    from proactor_lib.datasets import jsonl
    from proactor_lib.files import write_jsonl

    if form not in ("domain", "chat"):
        raise UserError(f"unknown form --form {form!r}; accepted: domain, chat")
    corpus = datasets.load(dataset, data_dir, split, limit, max_turns, seed, log, transcript=transcript)
    if form == "chat":
        _export_chats(corpus, references, out / f"{split}-chat.jsonl")
        return
    count = jsonl.write(out, split, corpus.catalog, bar(corpus.dialogues, "export"))
    typer.echo(f"{count} dialogues in {out / f'{split}.jsonl'}", err=True)
    if corpus.truth:
        write_jsonl(out / "truth" / f"{split}.jsonl", corpus.truth)
        typer.echo(f"their true windows in {out / 'truth' / f'{split}.jsonl'}", err=True)


def _export_chats(corpus: "Corpus", references: Path | None, path: Path) -> None:
    from proactor_lib.annotate import evidence
    from proactor_lib.catalog.json_schema import Notes
    from proactor_lib.datasets import fine_tuning
    from proactor_lib.files import read_jsonl, write_jsonl
    from proactor_lib.schema import DialogueReferences, cases

    if references:
        lines = list(read_jsonl(references, DialogueReferences))
    else:
        lines = corpus.truth or [evidence.annotate(d, corpus.catalog) for d in corpus.dialogues]
    annotated, notes = {line.dialogue_id for line in lines}, Notes()
    dialogues = [d for d in corpus.dialogues if d.id in annotated]
    chosen = bar(cases(dialogues, lines, corpus.catalog), "export")
    count = write_jsonl(path, (fine_tuning.chat(case, notes) for case in chosen))
    left_out = len(corpus.dialogues) - count
    typer.echo(
        f"{count} chats in {path}" + f", {left_out} dialogues without windows left out" * bool(left_out), err=True
    )
    for note in notes:
        typer.echo(f"  not expressed: {note}", err=True)


@data.command()
def stats(
    dataset: Dataset,
    data_dir: DataDir = None,
    split: Split = "train",
    limit: Limit = None,
    max_turns: MaxTurns = None,
    seed: Seed = 0,
    log: Log = True,
    transcript: Transcript = "human",
    as_json: AsJson = False,
) -> None:
    """Count a split's dialogues, turns and actions, beside the paper's numbers where it has them."""
    from proactor_lib import datasets
    from proactor_lib.datasets import statistics

    corpus = datasets.load(dataset, data_dir, split, limit, max_turns, seed, log, transcript=transcript)
    ours = statistics.describe(corpus, _evidence(corpus))
    paper = statistics.published(dataset, split)
    if as_json:
        typer.echo(json.dumps({"dataset": dataset, "split": split, "here": ours, "published": paper}, indent=2))
    else:
        _print_stats(f"{dataset} {split}", ours, paper)


def _evidence(corpus: "Corpus") -> list | None:
    from proactor_lib.annotate import evidence

    return [evidence.annotate(d, corpus.catalog) for d in corpus.dialogues] if corpus.logged else None


def _print_stats(title: str, ours: dict, paper: dict | None) -> None:
    from rich.table import Table

    table = Table("", "here", *(["published (all splits; dialogues: this one)"] if paper else []), title=title)
    for name, value in ours.items():
        published = [] if paper is None else [_shown(paper.get(name))]
        table.add_row(name.replace("_", " "), _shown(value), *published)
    console().print(table)


def _shown(value) -> str:
    return "-" if value is None else f"{value:,}"


@data.command()
def fetch(
    corpus: Annotated[str, typer.Argument(help="abcd")],
    out: Annotated[Path, typer.Option(help="The folder.")],
    url: Annotated[str | None, typer.Option(help="A mirror of the corpus's data folder.")] = None,
) -> None:
    """Download a public corpus, checked against its checksums."""
    from tqdm import tqdm

    from proactor_lib.datasets import fetch as get

    if corpus != "abcd":
        raise UserError(f"cannot fetch {corpus!r}; accepted: abcd")
    with tqdm(unit="B", unit_scale=True, leave=False) as shown:

        def progress(name: str, done: int, total: int | None) -> None:
            shown.set_description(name, refresh=False)
            shown.total = total
            shown.update(done - shown.n)

        paths = get.fetch_abcd(out, url or get.ABCD_URL, progress)
    typer.echo("\n".join(map(str, paths)))


def bar(items, text: str):
    """The items, with a bar on standard error."""
    from tqdm import tqdm

    return tqdm(items, desc=text, unit=" dialogues")
