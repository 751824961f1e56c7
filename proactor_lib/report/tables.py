"""Tables for papers, messages and notebooks: Markdown and LaTeX, from frames of `x`, `x_low`, `x_high` columns, and
values with their intervals as text."""

import pandas as pd

from proactor_lib.metrics.glossary import BETTER, NAMES, TIMED
from proactor_lib.report.render import chance, interval, number, setting, undefined

_ESCAPED = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "−": "$-$", "–": "--",
}  # fmt: skip


def rows(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells as text: an interval stands behind its value, in brackets."""
    pairs = [{f"{name}_low", f"{name}_high"} for name in frame]
    ends = set().union(*(pair for pair in pairs if pair <= set(frame)))
    names = [c for c in frame if c not in ends]
    return names, [[_cell(record, n) for n in names] for record in frame.to_dict("records")]


def _cell(record: dict, name: str) -> str:
    value = record[name]
    if f"{name}_low" not in record:
        return setting(value)
    return _with_interval(value, record.get(f"{name}_low"), record.get(f"{name}_high"))


def by_method(table: pd.DataFrame) -> pd.DataFrame:
    """Per metric a row, per method a column, as text: value [interval]; `table`: method, metric, value, low, high."""
    table = _without_untimed(table, "value")
    return _wide(table.method, table.metric, [_with_interval(r.value, r.low, r.high) for r in table.itertuples()])


def by_pair(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Per metric a row, per pair a column, as text: difference [interval] verdict, p; `comparisons`: of `compare`."""
    comparisons = _without_untimed(comparisons, "difference")
    pairs = comparisons.a + " − " + comparisons.b
    return _wide(pairs, comparisons.metric, [_verdict(r) for r in comparisons.itertuples()])


def _without_untimed(table: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Without the metrics in seconds, where no turn has a time stamp."""
    timed = table.metric[table[figure].notna()]
    return table[~table.metric.isin([m for m in TIMED if m not in set(timed)])]


def _wide(columns: pd.Series, metrics: pd.Series, texts: list[str]) -> pd.DataFrame:
    """The texts by metric (in the glossary's order, an arrow where one end is the better) and column."""
    frame = pd.DataFrame({"column": columns, "metric": metrics, "text": texts})
    wide = frame.pivot(index="metric", columns="column", values="text")[columns.unique()]
    ordered = wide.loc[[m for m in NAMES if m in wide.index]]
    named = ordered.rename(index={m: f"{name} {BETTER[m]}".strip() for m, name in NAMES.items()})
    return named.rename_axis(index=None, columns=None)


def _verdict(row) -> str:
    told = row.verdict in ("higher", "lower", "unclear") and not undefined(row.p_holm)
    tested = f"{row.verdict}, {chance(row.p_holm)}" if told else row.verdict
    return tested if undefined(row.difference) else f"{_with_interval(row.difference, row.low, row.high)} {tested}"


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    return number(value) if undefined(low) or undefined(high) else f"{number(value)} [{interval(low, high)}]"


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table."""
    header, body = rows(frame)
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(c.replace("|", r"\|") for c in line) + " |" for line in lines) + "\n"


def latex(frame: pd.DataFrame) -> str:
    """A LaTeX tabular with booktabs rules."""
    header, body = rows(frame)
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in (header, *body)]
    layout = "l" * len(header)
    inside = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{layout}}}", *inside, r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    return "".join(_ESCAPED.get(c, c) for c in text)
