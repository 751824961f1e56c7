"""One way to read YAML: the core schema of YAML 1.2, text keys, no key twice [ours].

`on`, `NO`, `12:30` and `2024-01-01` are text, `010` and `1e1` the number 10: what parameter files and API descriptions
mean. An allowed value (`enum`, `const`) keeps the spelling that it has in the file.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from proactor_lib.errors import UserError
from proactor_lib.files import read_text

_CORE = {
    "null": (r"null|Null|NULL|~|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
_AS_WRITTEN = ("enum", "const")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    yaml_implicit_resolvers = {}

    def construct_mapping(self, node, deep=False):
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key.start_mark)
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in lines:
                problem = f"the key {key.value!r} is there already, at line {lines[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
            key.tag = "tag:yaml.org,2002:str"
            if key.value in _AS_WRITTEN:
                _keep_spelling(value)
        return super().construct_mapping(node, deep)

    def integer(self, node) -> int:
        text = node.value
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)

    def number(self, node) -> float | int:
        text = node.value.lower().lstrip("+")
        value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
        return int(value) if "e" in text and abs(value) < 1e15 and value == int(value) else value


def _keep_spelling(node: yaml.Node) -> None:
    """Plain numbers and booleans become text, as they are written."""
    for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        if isinstance(item, yaml.ScalarNode) and item.tag.rpartition(":")[2] in ("int", "float", "bool"):
            item.tag = "tag:yaml.org,2002:str"


for _name, (_pattern, _first) in _CORE.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.number)


def parse_yaml(text: str, place: Path | str) -> Any:
    """The YAML value of `text`; UserError, naming `place`, where it is not YAML or says a key twice."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506, a SafeLoader
    except yaml.constructor.ConstructorError as error:
        at = error.problem_mark
        raise UserError(f"{place}, line {at.line + 1}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{place} is not YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> Any:
    """The file's YAML value. UserError if it cannot be read, is not YAML, or says a key twice."""
    return parse_yaml(read_text(path), path)
