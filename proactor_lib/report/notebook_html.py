"""An executed notebook as a piece of HTML that asks for nothing: no script, no link out, pictures as data."""

import re
from functools import lru_cache
from pathlib import Path

import bleach
import nbformat
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbformat.v4.rwbase import rejoin_lines

from proactor_lib.notebook import read_notebook

TAGS = [
    *("h1", "h2", "h3", "h4", "p", "ul", "ol", "li", "blockquote", "hr", "br", "b", "i", "em", "strong", "code", "pre"),
    *("div", "span", "table", "thead", "tbody", "tr", "th", "td", "img"),
]
LONGEST = 4000  # characters of one text output
LEFT_OUT = "A picture is left out to keep the page small; it is in the notebook."


@lru_cache
def _exporter() -> HTMLExporter:
    """The body alone: nbconvert's own template, without the pages' styles and scripts."""
    plain = {"exclude_input_prompt": True, "exclude_output_prompt": True, "exclude_anchor_links": True}
    return HTMLExporter(template_name="basic", **plain)


def render(path: Path, image_bytes: int) -> Markup:
    """The notebook's cells and outputs; pictures beyond `image_bytes` in all are named, not shown."""
    if not path.exists():
        return Markup("<p class='note'>There is no executed notebook.</p>")
    node = rejoin_lines(nbformat.from_dict(read_notebook(path)))
    for cell in node.cells:
        for output in cell.get("outputs", ()):
            image_bytes -= _shorten(output, image_bytes)
    body = re.sub(r"(?s)<(style|script)\b.*?</\1>", "", _exporter().from_notebook_node(node)[0])
    kept = {"img": ["src", "alt"], "*": ["class"]}
    shown = bleach.clean(body, tags=TAGS, attributes=kept, protocols={"data"}, strip=True)
    shown = re.sub(r"<img(?![^>]*\ssrc=)[^>]*>", "", shown)  # a picture from elsewhere: it has no src any more
    return Markup(f'<div class="notebook">{shown}</div>')


def _shorten(output: nbformat.NotebookNode, left: int) -> int:
    """Cut a long text, and put a word in place of a picture of more than `left` bytes; the bytes of one that stays."""
    if "text" in output:
        output.text = _cut(output.text)
    data = output.get("data", {})
    if "text/plain" in data:
        data["text/plain"] = _cut(data["text/plain"])
    size = len(data.get("image/png", ""))
    if size > left:
        output.data = nbformat.from_dict({"text/plain": LEFT_OUT})
        return 0
    return size


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST // 2] + "\n[...]\n" + text[-LONGEST // 2 :]
