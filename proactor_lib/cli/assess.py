"""`proactor assess`: a first answer from people's own logs, without training."""

import json
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proactor_lib.cli.data_import import Columns, Domain, Files, From, Speakers, Tools, Triggers, options
from proactor_lib.cli.evaluate import open_run, run_to_completion
from proactor_lib.cli.options import AsJson, Settings
from proactor_lib.cli.run import parse_settings
from proactor_lib.errors import UserError

if TYPE_CHECKING:
    from proactor_lib.datasets.imported import Imported
    from proactor_lib.run import Run


def assess(
    files: Files,
    source: From,
    out: Annotated[Path, typer.Option(help="The folder; an assessment begun in it goes on.")],
    tools: Tools = None,
    triggers: Triggers = None,
    column: Columns = [],  # noqa: B006
    speaker: Speakers = [],  # noqa: B006
    domain: Domain = None,
    oracle_url: Annotated[str | None, typer.Option(help="An endpoint ending in /v1; none: windows by the log.")] = None,
    oracle_model: Annotated[str | None, typer.Option(help="The oracle's name there.")] = None,
    price: Annotated[tuple[float, float], typer.Option(help="For --dry-run: per million tokens.")] = (0.0, 0.0),
    dry_run: Annotated[bool, typer.Option(help="Say what the oracle would be sent and cost; send nothing.")] = False,
    settings: Settings = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """How early, complete and restrained are the triggers in these logs? The last line is the page's path."""
    from proactor_lib import report
    from proactor_lib.datasets import forms
    from proactor_lib.report import assessment

    if dry_run and not oracle_url:
        raise UserError("--dry-run says what an oracle would cost: name it with --oracle-url and --oracle-model")
    if (oracle_url is None) != (oracle_model is None):
        raise UserError("--oracle-url and --oracle-model need each other")
    found = forms.read(files, source, tools, triggers, options(column, speaker), domain)
    if not found.logged:
        raise UserError("nothing was triggered in these files: chats with calls are wanted, or --triggers FILE")
    given = {"name": "assessment", "dataset": "jsonl", "data_dir": _written(found, out, files)}
    given |= {"test_dialogues": len(found.dialogues), "max_turns": max(len(d.turns) for d in found.dialogues)}
    given |= {"policies": [assessment.POLICY]}
    if oracle_url or oracle_model:
        given |= {"annotator": "oracle", "oracle_url": oracle_url, "oracle_model": oracle_model}
    run = open_run(out, None, given | parse_settings(settings))
    if dry_run:
        _plan(run, found, price, as_json)
        return
    scored = run_to_completion(run, None)
    report.build(out)
    path = assessment.write(run)
    if as_json:
        typer.echo(json.dumps({"primary": scored.primary(), "logged": scored.as_json()[assessment.POLICY]}))
        return
    typer.echo(path.read_text(encoding="utf-8"))
    typer.echo(path)


def _written(found: "Imported", out: Path, files: list[Path]) -> Path:
    """The own domain in a folder named by its content, so that other files never meet an earlier one's windows."""
    from proactor_lib.datasets import imported

    content = [found.catalog.digest, *(d.model_dump_json() for d in found.dialogues)]
    folder = out / f"domain-{sha256(chr(10).join(content).encode()).hexdigest()[:8]}"
    if not (folder / imported.PAGE).exists():
        imported.write(found, folder, {"test": list(found.dialogues)}, files)
    return folder


def _plan(run: "Run", found: "Imported", price: tuple[float, float], as_json: bool) -> None:
    from proactor_lib.annotate import oracle_run
    from proactor_lib.run import oracle_settings

    plan = oracle_run.plan(found.dialogues, found.catalog, replace(oracle_settings(run.params), prices=price))
    typer.echo(json.dumps(asdict(plan)) if as_json else str(plan))
