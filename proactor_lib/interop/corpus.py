"""A run's annotated corpus as a folder in the hub's layout: a split a file, the catalog, and a dataset card."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from proactor_lib.errors import UserError
from proactor_lib.files import write_json, write_jsonl
from proactor_lib.report import text
from proactor_lib.run_folder import SPLITS, RunFolder
from proactor_lib.schema import Case


def write(folder: Path, run: RunFolder, license: str | None) -> None:
    """Write data/<split>.jsonl of the annotated splits, catalog.json and README.md. UserError where none is annotated.

    `license`: of the source, carried over; None where nobody says it.
    """
    annotated = [s for s in SPLITS if (run.annotations / f"{s}.jsonl").exists()]
    if not annotated:
        raise UserError(f"{run.out} has no windows yet: run notebook 01_annotation on it first")
    counts = {s: write_jsonl(folder / "data" / f"{s}.jsonl", _rows(run.split(s))) for s in annotated}
    write_json(folder / "catalog.json", run.catalog.model_dump(mode="json"))
    loader = jinja2.PackageLoader("proactor_lib.interop")
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    card = environment.get_template("dataset_card.md.j2").render(
        params=run.params, license=license, counts=counts, windows=text.windows(run), actions=run.catalog.actions
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _rows(cases: tuple[Case, ...]) -> Iterator[dict[str, Any]]:
    """A row per dialogue, every one with the same columns: names and values stand in lists, never in keys."""
    for case in cases:
        yield {
            "id": case.dialogue.id,
            "domain": case.dialogue.domain,
            "turns": [{"speaker": t.speaker, "text": t.text} for t in case.dialogue.turns],
            "actions": [a.name for a in case.catalog.actions],
            "references": [
                {
                    "id": r.id, "name": r.name, **r.window.model_dump(),
                    "params": [{"name": k, "value": p.value, "turn": p.turn} for k, p in r.params.items()],
                }
                for r in case.references
            ],
        }  # fmt: skip
