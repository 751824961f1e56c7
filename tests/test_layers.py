"""The code has one direction: nothing imports rightwards, and no modules import each other in a circle."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "proactor_lib"
LAYERS = [
    "errors events files yaml_text replies numerals values days comparison schema",
    "progress processes allocator provenance concurrency ray_session notebook",
    "agent policies connection endpoint models",
    "catalog",
    "datasets",
    "annotate metrics",
    "rewards",
    "params run_folder sweep_folder",
    "plots",
    "reward_lab artf.serving artf.training artf.capacity",
    "evaluate",
    "report",
    "run pipeline sweep widgets service interop doctor",
    "bench",
    "cli __main__",
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}


def module_name(path):
    """The name below proactor_lib; empty for the package itself."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def room(module):
    """The part of the package that a module is in."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "artf" else parts[0]


def imported(path):
    """The modules of ours that a file imports anywhere: in functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "proactor_lib":
            for alias in node.names:
                inner = Path(*node.module.split(".")[1:], alias.name)
                whole = (PACKAGE / inner).is_dir() or (PACKAGE / inner).with_suffix(".py").exists()
                yield ".".join(inner.parts if whole else inner.parts[:-1])


@cache
def arrows():
    """Module -> the modules that it imports."""
    return {module_name(p): set(imported(p)) - {module_name(p)} for p in PACKAGE.rglob("*.py")}


def test_every_module_has_its_layer():
    assert {room(m) for m in arrows() if m and m != "artf"} == set(RANK)


def test_nothing_imports_rightwards():
    wrong = [
        f"{a} imports {b}" for a, found in arrows().items() if a not in ("", "artf")
        for b in found if b and RANK[room(b)] > RANK[room(a)]
    ]  # fmt: skip
    assert not wrong


def test_no_modules_import_in_a_circle():
    list(TopologicalSorter({m: found - {""} for m, found in arrows().items() if m}).static_order())


@pytest.mark.parametrize("text", ["from proactor_lib.cli import main", "def f():\n    from proactor_lib import cli"])
def test_an_import_is_seen_wherever_it_stands(tmp_path, text):
    (tmp_path / "m.py").write_text(text)
    assert [room(m) for m in imported(tmp_path / "m.py")] == ["cli"]
