"""An executed notebook as a piece of HTML that asks for nothing: no script, no link out, pictures as data."""

import re
from functools import lru_cache
from pathlib import Path

import bleach
import mistune
from markupsafe import Markup, escape

from proactor_lib.notebook import read_notebook

ANSI = re.compile(r"\x1b\[[0-9;]*m")
TABLE_TAGS = {
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "p",
    "b",
    "i",
    "em",
    "strong",
    "br",
    "code",
    "pre",
    "div",
    "span",
}
LONGEST = 4000  # characters of one text output


@lru_cache
def _markdown():
    return mistune.create_markdown(escape=True, plugins=["table"])


def render(path: Path, image_bytes: int) -> Markup:
    """The notebook's cells and outputs; pictures beyond `image_bytes` in all are named, not shown."""
    if not path.exists():
        return Markup("<p class='note'>There is no executed notebook.</p>")
    parts, left = [], image_bytes
    for cell in read_notebook(path)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(
                bleach.clean(_markdown()(source), tags=TABLE_TAGS | {"h1", "h2", "h3", "ul", "ol", "li"}, strip=True)
            )
            continue
        parts.append(f"<pre>{escape(source)}</pre>")
        for output in cell.get("outputs", ()):
            piece, used = _output(output, left)
            parts.append(piece)
            left -= used
    return Markup('<div class="cell">' + "\n".join(parts) + "</div>")


def _output(output: dict, left: int) -> tuple[str, int]:
    """The HTML of an output, and the bytes of pictures in it."""
    if output["output_type"] == "stream":
        return _text("".join(output["text"])), 0
    if output["output_type"] == "error":
        return _text("\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}"), 0
    data = {kind: "".join(value) if isinstance(value, list) else value for kind, value in output["data"].items()}
    if picture := data.get("image/png"):
        if len(picture) > left:
            return '<p class="note">A picture is left out to keep the page small; it is in the notebook.</p>', 0
        return f'<img alt="a figure of the notebook" src="data:image/png;base64,{picture.strip()}">', len(picture)
    if "text/html" in data and "<table" in data["text/html"]:
        inner = re.sub(r"(?s)<(style|script).*?</\1>", "", data["text/html"])
        return f'<div class="scroll">{bleach.clean(inner, tags=TABLE_TAGS, strip=True)}</div>', 0
    return _text(str(data.get("text/plain", ""))), 0


def _text(text: str) -> str:
    plain = ANSI.sub("", text).strip()
    if not plain:
        return ""
    shown = plain if len(plain) <= LONGEST else plain[: LONGEST // 2] + "\n[...]\n" + plain[-LONGEST // 2 :]
    return f'<pre class="output">{escape(shown)}</pre>'
