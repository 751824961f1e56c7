"""Content -> one HTML page that needs nothing else: styles inside, figures as data, no script, no request."""

import base64
import html
import io
import json
import math
from functools import lru_cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from proactor_lib.files import atomic

LIMIT_BYTES = 10_000_000


@lru_cache
def _environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("proactor_lib.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "number": number,
        "chance": chance,
        "interval": interval,
        "duration": duration,
        "setting": setting,
        "seconds": seconds,
    }
    return env


def write(path: Path, template: str, **content) -> Path:
    """Render `templates/<template>` to `path`, written whole."""
    text = _environment().get_template(template).render(**content)
    with atomic(path) as f:
        f.write(text)
    return path


def number(value: float | None, digits: int = 3) -> str:
    """Three digits after the point, as metrics are printed; a dash for what is undefined.

    More, up to seven, where a value that is not 0 would look like it, and no sign before a 0.
    """
    if undefined(value):
        return "–"
    shown = next((n for n in range(digits, 7) if round(value, n)), 7 if round(value, 7) else digits)
    return f"{round(value, shown) + 0.0:.{shown}f}".replace("-", "−")


def chance(p: float | None) -> str:
    """A p-value as papers print it: `p 0.012`, `p < 0.001`; a dash for what is undefined."""
    return "–" if undefined(p) else "p < 0.001" if p < 0.0005 else f"p {number(p)}"


def undefined(value: float | None) -> bool:
    """Whether a figure is not there: None or NaN."""
    return value is None or math.isnan(value)


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """`low to high`; empty for what is undefined."""
    return "" if undefined(low) or undefined(high) else f"{number(low, digits)} to {number(high, digits)}"


def duration(seconds: float) -> str:
    """Seconds as people say them: `48 s`, `7 min 5 s`, `3 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def seconds(value: float | None) -> str:
    """A duration, or a dash."""
    return "–" if undefined(value) else duration(value)


def setting(value) -> str:
    """A parameter's value, also as a numpy scalar, as a params file writes it."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=lambda scalar: scalar.item()).replace('"', "")


def image(figure, alt: str) -> Markup:
    """A matplotlib figure as an `<img>` that carries its own SVG; closes the figure."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    with plt.rc_context({"svg.hashsalt": "proactor"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Markup(f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}">')
