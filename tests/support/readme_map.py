"""The README's map of the code, from the first sentence of each file: this file, run, writes it."""

import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- map: python tests/support/readme_map.py -->\n", "<!-- end of map -->\n"


def about(path: Path) -> str:
    """The first sentence of a module's docstring, of a notebook's first paragraph, or of a params file's comment."""
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
    elif path.suffix == ".ipynb":
        text = "".join(json.loads(path.read_text())["cells"][0]["source"]).partition("\n\n")[2]
    else:
        text = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    text = re.sub(r" \[(ours|paper)[^\]]*\]", "", " ".join(text.split("\n\n")[0].split()))
    return re.split(r"(?<=[.?])\s", text)[0].replace("|", "/")


def table(title: str, paths: list[Path], folder: Path) -> str:
    """One folded table of the files in `folder`."""
    rows = "".join(f"| `{str(p.relative_to(folder)).removesuffix('.py')}` | {about(p)} |\n" for p in paths)
    return f"<details><summary>{title}</summary>\n\n| file | |\n|---|---|\n{rows}\n</details>\n"


def readme_map() -> str:
    """A folded table for each folder."""
    package = ROOT / "proactor_lib"
    parts = [
        table("<code>notebooks/</code>", sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "notebooks"),
        table("<code>params/</code>", sorted((ROOT / "params").rglob("*.yaml")), ROOT / "params"),
        table("<code>proactor_lib/</code>", _modules(package), package),
    ]
    for folder in sorted(p.parent for p in package.rglob("*/__init__.py")):
        if modules := _modules(folder):
            title = f"<code>{folder.relative_to(ROOT)}/</code> {about(folder / '__init__.py')}"
            parts.append(table(title, modules, folder))
    return BEGIN + "\n".join(parts) + END


def _modules(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.glob("*.py")) if not p.name.startswith("__")]


def files() -> list[Path]:
    """Every file that the map must name."""
    package = ROOT / "proactor_lib"
    modules = [p for p in package.rglob("*.py") if not p.name.startswith("__")]
    return [*modules, *(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "params").rglob("*.yaml")]


if __name__ == "__main__":
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(before + readme_map() + rest.partition(END)[2])
