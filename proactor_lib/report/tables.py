"""Tables for papers and for messages: Markdown and LaTeX, from frames of `x`, `x_low`, `x_high` columns."""

import pandas as pd

from proactor_lib.report.page import interval, number, setting, undefined

_ESCAPED = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "−": "$-$", "–": "--",
}  # fmt: skip


def rows(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells as text: an interval stands behind its value, in brackets."""
    names = [c for c in frame if not c.endswith(("_low", "_high"))]
    return names, [[_cell(record, n) for n in names] for record in frame.to_dict("records")]


def _cell(record: dict, name: str) -> str:
    value = record[name]
    if f"{name}_low" not in record:
        return setting(value)
    low, high = record.get(f"{name}_low"), record.get(f"{name}_high")
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
