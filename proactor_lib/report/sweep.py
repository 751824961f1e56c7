"""The ablation report: a sweep's folder as one page."""

from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from proactor_lib.files import write_json
from proactor_lib.params import hide_keys
from proactor_lib.plots import summary
from proactor_lib.report import ablation, notebook_html, render, text
from proactor_lib.sweep_folder.store import Store
from proactor_lib.sweep_folder.table import collect, read_definition, table

MOST_FIGURES = 6
PAGE_SHARE = 0.7  # of the page's limit: what pictures of executed notebooks may take together


def build(folder: Path) -> Path:
    """Collect the sweep and write its report.html and summary.json; the report's path."""
    store = Store(folder)
    sweep, found = read_definition(store), collect(folder)
    metrics = ablation.shown_metrics(found, sweep["headline"], sweep["show"])
    means, pairs = ablation.over_seeds(found, metrics), ablation.paired(found, metrics)
    said = warnings(sweep, found, pairs)
    write_json(folder / "summary.json", summarise(sweep, found, means, pairs, said))
    return render.write(
        folder / "report.html", "sweep.html.j2", title=sweep["name"], sweep=sweep, warnings=said, metrics=metrics,
        means=means.to_dict("records"), factors=ablation.factors(found), pairs=pairs.to_dict("records"),
        figures=_figures(found, metrics), cells=_cells(folder, found), same=_same(sweep),
        differing=found.attrs["parameters"], findings=text.effects(pairs, metrics[0]) if metrics else [],
        meanings=text.meanings(metrics, sweep.get("meanings", {})), origin=_origin(store, sweep),
        digests=_digests(sweep), spent=_spent(found), questions=_questions(folder, found),
    )  # fmt: skip


def frame(folder: Path) -> pd.DataFrame:
    """The main table: means over seeds with intervals."""
    store = Store(folder)
    sweep, found = read_definition(store), table(store)
    return ablation.over_seeds(found, ablation.shown_metrics(found, sweep["headline"], sweep["show"]))


def summarise(sweep: dict, table: pd.DataFrame, means: pd.DataFrame, pairs: pd.DataFrame, said: list[str]) -> dict:
    """The figures that the report shows, as `summary.json` holds them."""
    return {
        "name": sweep["name"], "question": sweep["question"], "headline": sweep["headline"], "warnings": said,
        "cells": {state: int(n) for state, n in table.state.value_counts().items()},
        "means": to_json_values(means), "pairs": to_json_values(pairs),
    }  # fmt: skip


def to_json_values(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values; NaN as None."""
    return [{k: None if pd.isna(v) else getattr(v, "item", lambda v=v: v)() for k, v in row.items()}
            for row in frame.to_dict("records")]  # fmt: skip


def warnings(sweep: dict, table: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """What a reader must know before believing the rest, a sentence each."""
    found = []
    for state, count in table.state[table.state != "done"].value_counts().items():
        first = table[table.state == state].iloc[0]
        found.append(f"{count} of {len(table)} cells {_is(state)}, the first of them {first.cell}: {first.problem}.")
    if table.dirty.eq(True).any():
        found.append("The code had uncommitted changes: the commit alone does not tell what ran.")
    if table.commit.dropna().nunique() > 1:
        found.append("Cells ran on different commits (with the same code).")
    if sweep["varying"] and "seed" not in sweep["varying"]:
        found.append("There is one seed: intervals are those of single cells and say nothing of the luck of a seed.")
    if not pairs.empty and pairs.pairs.max() < 6:
        found.append(f"Tests rest on at most {pairs.pairs.max()} pairs: with so few, no p can fall below "
                     f"{2 / 2 ** pairs.pairs.max():.2g}, whatever the difference.")  # fmt: skip
    if any(c["values"].get("judge") == "rubric" and "ruler" in c["values"].get("reward", "") for c in sweep["cells"]):
        found.append("RULER's judge is `rubric`, a programmatic stand-in computed from the windows, no language model.")
    if any(c["values"].get("model") == "tiny" for c in sweep["cells"]) and "03" in Path(sweep["notebook"]).name:
        found.append("The model is `tiny`, random weights: this sweep shows that the parts work, and nothing else.")
    return found


def _is(state: str) -> str:
    return {"missing": "have not run", "timeout": "ran out of time", "refused": "were refused"}.get(state, state)


def _figures(table: pd.DataFrame, metrics: list[str]) -> list[tuple[Markup, str]]:
    """The first metric against every factor, then the next metric, as long as there is room; each with its caption."""
    drawn = []
    for metric in metrics:
        for factor in ablation.factors(table):
            if len(drawn) < MOST_FIGURES and table[metric].notna().any():
                numeric = pd.api.types.is_numeric_dtype(table[factor])
                many = factor not in ablation.tested(table) and numeric
                made = (summary.scatter if many else summary.effects)(table, factor, metric)
                mean = "" if many else "; the diamond is their mean, the line its 95% interval over cells"
                drawn.append((render.image(made, f"{metric} by {factor}"), f"A dot a cell{mean}."))
    return drawn


def _questions(folder: Path, table: pd.DataFrame) -> dict[str, Any] | None:
    """What the trainings say to the paper's three questions; None where rewards do not vary or nothing was trained."""
    if "reward" not in ablation.factors(table) or "held_out.trained.opportunity_timing" not in table:
        return None
    from proactor_lib.plots.rewards import contrasts
    from proactor_lib.report import questions

    answers = questions.answers_of(folder)
    measured = answers[answers.verdict != "not measured"]
    drawn = [render.image(contrasts(rows, over), f"contrasts over {over}") for over, rows in measured.groupby("over")]
    said = [*questions.conclusions(answers), questions.limits(folder)]
    return {"said": said, "rows": measured.to_dict("records"), "figures": drawn}


def _cells(folder: Path, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Every cell with its executed notebook; pictures share what the page may hold."""
    share = int(render.LIMIT_BYTES * PAGE_SHARE / max(len(table), 1))
    return [
        {**row, "notebook": notebook_html.render(folder / "cells" / row["cell"] / "notebook.ipynb", share)}
        for row in table.to_dict("records")
    ]


def _same(sweep: dict) -> dict[str, Any]:
    """The parameters that all cells share."""
    return {k: v for k, v in hide_keys(sweep["cells"][0]["values"]).items() if k not in sweep["varying"]}


def _origin(store: Store, sweep: dict) -> dict:
    """The cells' own provenance; the sweep's where no cell has ended."""
    records = store.records([c["id"] for c in sweep["cells"]])
    return next((r["provenance"] for r in records.values() if r.get("provenance")), sweep["provenance"])


def _digests(sweep: dict) -> dict[str, str]:
    return {"notebook": f"{Path(sweep['notebook']).name} {sweep['notebook_digest']}"} | {
        f"cell {c['id']}": ", ".join(f"{k}={v}" for k, v in c["point"].items()) for c in sweep["cells"]
    }


def _spent(table: pd.DataFrame) -> dict[str, float]:
    sums = {k: float(table[k].sum()) for k in ("seconds", "cpu_hours", "gpu_hours", "cost")}
    return sums | {"peak_memory_gb": float(table.peak_memory_gb.max())}
