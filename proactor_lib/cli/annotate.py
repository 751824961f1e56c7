"""`proactor annotate`: dialogues to reference windows."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from proactor_lib.cli.data import DataDir, Dataset, Limit, Log, MaxTurns, Seed, Split, Transcript, bar
from proactor_lib.cli.options import AsJson
from proactor_lib.cli.run import parse_settings
from proactor_lib.errors import UserError

if TYPE_CHECKING:
    from proactor_lib.annotate.oracle_run import OracleSettings
    from proactor_lib.datasets import Corpus
    from proactor_lib.params import Params


def annotate(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="The references: JSONL, one dialogue per line.")],
    data_dir: DataDir = None,
    split: Split = "train",
    limit: Limit = None,
    max_turns: MaxTurns = None,
    annotator: Annotated[
        str, typer.Option(help="evidence (from the log), oracle (a language model) or evidence+oracle.")
    ] = "evidence",
    model: Annotated[str | None, typer.Option(help="The oracle's name at its endpoint.")] = None,
    url: Annotated[str | None, typer.Option(help="The oracle's OpenAI-compatible base URL; `serve`: our own.")] = None,
    protocol: Annotated[
        str, typer.Option(help="The oracle is asked about a whole dialogue, or each turn.")
    ] = "dialogue",
    concurrency: Annotated[int, typer.Option(min=1, help="The oracle's requests in flight.")] = 16,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until a request of the oracle is tried again.")] = 300,
    cache: Annotated[Path | None, typer.Option(help="The oracle's answers; none: one folder for all runs.")] = None,
    price: Annotated[tuple[float, float], typer.Option(help="Per million prompt and output tokens.")] = (0.0, 0.0),
    sampling: Annotated[
        list[str],
        typer.Option(metavar="KEY=VALUE", help="The requests' fields; none: temperature=0.0 max_tokens=4096."),
    ] = [],  # noqa: B006
    form: Annotated[
        str, typer.Option(help="What the endpoint can hold answers to: schema, object or text.")
    ] = "schema",
    header: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="Headers of the requests; $NAME: an environment variable.")
    ] = [],  # noqa: B006
    key_variable: Annotated[str, typer.Option(help="The environment variable with the key.")] = "OPENAI_API_KEY",
    repeat: Annotated[int, typer.Option(min=0, help="Another number asks the oracle again, to see if it agrees.")] = 0,
    dry_run: Annotated[bool, typer.Option(help="Say what the oracle would be sent and cost; send nothing.")] = False,
    seed: Seed = 0,
    log: Log = True,
    transcript: Transcript = "human",
    as_json: AsJson = False,
) -> None:
    """Find the windows of opportunity of a split's dialogues."""
    from proactor_lib import datasets
    from proactor_lib.params import Annotator

    if annotator not in (known := get_args(Annotator)):
        raise UserError(f"unknown annotator {annotator!r}; accepted: {', '.join(known)}")
    if annotator != "evidence" and not (model and url):
        raise UserError(f"annotator {annotator!r} needs --model and --url")
    asking = {"--model": model, "--url": url, "--dry-run": dry_run}
    if annotator == "evidence" and (idle := ", ".join(option for option, given in asking.items() if given)):
        raise UserError(f"{idle}: annotator 'evidence' asks no model; the oracle is --annotator oracle")
    corpus = datasets.load(dataset, data_dir, split, limit, max_turns, seed, log, transcript=transcript)
    if annotator == "evidence":
        summary, text = _by_evidence(corpus, out)
    else:
        from proactor_lib.annotate import oracle_run
        from proactor_lib.artf.serving.own import oracle_address
        from proactor_lib.run import oracle_settings

        asked = _asked(
            annotator=annotator, oracle_protocol=protocol, oracle_model=model, oracle_url=url, oracle_form=form,
            oracle_key_variable=key_variable,
            oracle_headers=_headers(header), oracle_sampling=parse_settings(sampling, "--sampling"),
        )  # fmt: skip
        settings = replace(
            oracle_settings(asked, repeat),
            cache=cache or oracle_run.cache_dir(),
            concurrency=concurrency,
            timeout=timeout,
            prices=price,
        )
        with oracle_address(asked, out.parent / "oracle") as address:
            if not dry_run:
                at, key = address()
                settings = replace(settings, url=at, key=key)
            summary, text = _by_oracle(corpus, out, settings, dry_run)
    if as_json:
        typer.echo(json.dumps(summary))
    typer.echo(text, err=True)


def _asked(**given) -> "Params":
    """What the oracle is asked with, checked as a run's parameters are; what is empty has its default."""
    from proactor_lib.params import validate

    return validate({k: v for k, v in given.items() if v}, "the oracle's options")


def _headers(given: list[str]) -> dict[str, str]:
    pairs = [header.partition("=") for header in given]
    if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
        raise UserError(f"--header {wrong[0]!r} is not NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _by_evidence(corpus: "Corpus", out: Path) -> tuple[dict, str]:
    from proactor_lib.annotate import evidence
    from proactor_lib.files import write_jsonl

    for dialogue in corpus.dialogues:
        evidence.require_log(dialogue)
    tally = evidence.Tally()
    dialogues = bar(corpus.dialogues, "annotate")
    count = write_jsonl(out, (evidence.annotate(d, corpus.catalog, tally) for d in dialogues))
    counts = {"dialogues": count, **asdict(tally), "share_not_found": tally.share_not_found}
    return counts, f"{out}: {count} dialogues, {tally}"


def _by_oracle(corpus: "Corpus", out: Path, settings: "OracleSettings", dry_run: bool) -> tuple[dict, str]:
    from proactor_lib.annotate import oracle_run

    if dry_run:
        plan = oracle_run.plan(bar(corpus.dialogues, "plan"), corpus.catalog, settings)
        return asdict(plan), str(plan)
    with oracle_run.shown(len(corpus.dialogues), "annotate") as on_progress:
        summary = oracle_run.annotate_file(corpus.dialogues, corpus.catalog, out, settings, on_progress)
    return asdict(summary), f"{out}: {summary}"
