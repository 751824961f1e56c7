"""An assessment: what a log's own triggers are worth, as a page of text, with the dialogues to look at [ours]."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from proactor_lib.evaluate.results import EvalResults, load_or_score
from proactor_lib.files import atomic
from proactor_lib.metrics import glossary
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import Case

POLICY = "logged"
SHOWN = 10  # rows of each list
METRICS = ("utility", "opportunity_timing", "execution_recall", "execution_precision", "false_executions")
BY_LOG = (
    "The windows are found from the log itself, so none is missed and no trigger is false by construction: what this"
    " page tells is how much earlier each could have come. Give an oracle (--oracle-url, --oracle-model) for the rest."
)
BY_ORACLE = "The windows are a language model's: a trigger counts as false where it sees no need."


def write(run: RunFolder) -> Path:
    """Write assessment.md beside the report; its path. UserError where nothing was scored."""
    path = run.out / "assessment.md"
    with atomic(path) as f:
        f.write(page(run, load_or_score(run)))
    return path


def page(run: RunFolder, scored: EvalResults) -> str:
    """Markdown: how early, how complete, how restrained, and what to look at first."""
    cases = {case.dialogue.id: case for case in run.split("test")}
    scores = scored.scores[POLICY]
    logged = sum(len(case.dialogue.observed or ()) for case in cases.values())
    waits = with_waits(scores.references, cases)
    false = scores.executions[scores.executions.reference.isna()]
    missed = waits[waits.triggered.isna()]
    texts = [
        f"# Assessment: {run.catalog.domain}\n",
        f"{len(cases)} dialogues, {len(waits)} opportunities, {logged} triggers in the log."
        f"{_failed(run)} {BY_LOG if run.params.annotator.startswith('evidence') else BY_ORACLE}\n",
        _metrics(scored),
        "[report.html](report.html) shows dialogues with their windows and triggers, turn by turn.\n",
        f"## How early\n\n{_early(waits)}\n",
        _listed(waits[waits.wait > 0].sort_values("wait", ascending=False, kind="stable"), _waited),
        f"## How complete\n\n{len(missed)} of {len(waits)} opportunities were never triggered.\n",
        _listed(missed, lambda r: f"`{r.action}` would have helped at turns {r.open} to {r.close}"),
        f"## How restrained\n\n{len(false)} of {len(scores.executions)} triggers served no need.\n",
        _listed(false, lambda r: f"`{r.action}` at turn {r.turn}"),
    ]
    return "\n".join(text for text in texts if text)


def _failed(run: RunFolder) -> str:
    failed = run.failed("test")
    return (
        f" {len(failed)} further dialogues could not be annotated: {', '.join(list(failed)[:SHOWN])}." if failed else ""
    )


def with_waits(references: pd.DataFrame, cases: dict[str, Case]) -> pd.DataFrame:
    """The references with `wait`, turns from `ready` to the trigger (0 where it came before, NaN where it never did),
    and `seconds`, the same by the clock: from the ready turn's moment to the trigger's own, where the log has it, else
    to its turn's (NaN where there are no time stamps)."""
    wait = (references.triggered - references.ready).clip(lower=0)
    seconds = [_seconds(cases[r.dialogue_id], r) for r in references.itertuples()]
    return references.assign(wait=wait, seconds=pd.Series(seconds, index=references.index, dtype=float))


def _seconds(case: Case, row) -> float:
    """As the logged agent triggered: at the true moment of the action logged for that turn."""
    if pd.isna(row.triggered):
        return float("nan")
    times = [o.time for o in case.dialogue.observed or () if (o.turn, o.name) == (row.triggered, row.action)]
    ready, triggered = (case.dialogue.turns[int(turn) - 1].moment for turn in (row.ready, row.triggered))
    last = next((t for t in times if t is not None), triggered)
    return float("nan") if ready is None or last is None else max(0.0, last - ready)


def _metrics(scored: EvalResults) -> str:
    rows = ["| | value | 95% interval | |", "|---|---|---|---|"]
    for name in METRICS:
        value, low, high = scored.as_json()[POLICY][name]
        interval = "-" if low is None else f"{low:.3f} to {high:.3f}"
        shown = "-" if value is None else f"{value:.3f}"
        rows.append(f"| {glossary.NAMES[name]} | {shown} | {interval} | {glossary.MEANINGS[name]} |")
    return "\n".join(rows) + "\n"


def _early(waits: pd.DataFrame) -> str:
    done = waits[waits.triggered.notna()]
    if done.empty:
        return "Nothing that would have helped was triggered."
    early = int((done.triggered < done.ready).sum())
    before = f", {early} of them before" if early else ""
    text = f"{int((done.wait == 0).sum())} of {len(done)} triggers came by the turn at which all was known{before}; "
    text += f"on average they came {done.wait.mean():.2f} turns after it"
    timed = done.seconds.dropna()
    return text + (f", {timed.mean():.1f} s where turns have time stamps." if len(timed) else ".")


def _waited(row) -> str:
    seconds = "" if pd.isna(row.seconds) else f" ({row.seconds:.1f} s)"
    return f"`{row.action}` at turn {row.triggered:.0f}, {row.wait:.0f} turns after all was known{seconds}"


def _listed(rows: pd.DataFrame, told) -> str:
    lines: Sequence[str] = [f"- {r.dialogue_id}: {told(r)}\n" for r in rows.head(SHOWN).itertuples()]
    more = f"- and {len(rows) - SHOWN} more\n" * (len(rows) > SHOWN)
    return "".join(lines) + more
