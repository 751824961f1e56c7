"""The tables of an evaluation, from the predictions that were kept: computed again, they are the same."""

import pandas as pd

from proactor_lib.files import write_json, write_table
from proactor_lib.metrics import compare
from proactor_lib.metrics.breakdowns import breakdown
from proactor_lib.report import held_out
from proactor_lib.report.held_out import HeldOut
from proactor_lib.run import Run

BREAKDOWNS = ("action", "domain", "position", "window")


def write_tables(run: Run) -> HeldOut:
    """Write metrics/: table.parquet and table.json, comparisons, outputs and a breakdown each. Returns what was scored.

    table: method, metric, value, low, high; table.json also says against whom PRI ranks. comparisons: every two
    policies. outputs: what was asked of each policy, and how much could be read.
    """
    p, scored = run.params, held_out.score(run)
    found = {"policies": scored.as_json(), "ranked_against": scored.ranked_against, "dialogues": scored.dialogues}
    write_json(run.metrics / "table.json", found)
    tables = {
        "table": scored.table,
        "outputs": outputs(scored),
        **{f"by_{by}": breakdown(scored.scores, by, p.bootstrap, p.seed) for by in BREAKDOWNS},
    }
    if len(scored.scores) > 1:
        of_dialogues = {name: s.dialogues for name, s in scored.scores.items()}
        tables["comparisons"] = compare(of_dialogues, bootstrap=p.bootstrap, seed=p.seed)
    for name, table in tables.items():
        table.attrs.clear()  # Parquet would keep them
        write_table(run.metrics / f"{name}.parquet", table)
    return scored


def outputs(scored: HeldOut) -> pd.DataFrame:
    """A row a policy: outputs, unreadable, silent (counts), prompt_tokens, output_tokens (means), latency_s (median)"""
    return pd.DataFrame([_outputs(name, lines) for name, lines in scored.predictions.items()])


def _outputs(name: str, lines: list) -> dict:
    known = pd.DataFrame([(x.prompt_tokens, x.output_tokens, x.latency_s) for x in lines], dtype=float)
    prompt, output, latency = (known[i] for i in range(3))
    return {
        "policy": name,
        "outputs": len(lines),
        "unreadable": sum(x.unreadable for x in lines),
        "silent": sum(not x.actions for x in lines),
        "prompt_tokens": prompt.mean(),
        "output_tokens": output.mean(),
        "latency_s": latency.median(),
    }
