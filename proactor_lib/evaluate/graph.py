"""The action state graph that reasoning + ASG carries from turn to turn [paper: the idea; ours: its form].

A node is an action with its parameters and a state; the catalog's preconditions are the edges. An output names the
nodes that change, the others stay as they were.
"""

from collections.abc import Mapping
from typing import NamedTuple

from proactor_lib.agent import SILENCE, read_line
from proactor_lib.schema import PredictedAction

STATUS = {"proposed": "candidate", "prepared": "candidate", "ready": "ready", "done": None, "withdrawn": None}


class Node(NamedTuple):
    """What is known of an action."""

    state: str  # a key of STATUS
    params: dict[str, str]


Graph = Mapping[str, Node]  # by action name; a new dialogue starts with an empty one


def updated(graph: Graph, text: str) -> tuple[Graph, bool]:
    """The graph after an output, and whether all of that could be read. A line replaces its action's node."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if [line.lower().rstrip(".") for line in lines] == [SILENCE]:
        return graph, True
    read = [read_line(line, tuple(STATUS)) for line in lines]
    changes = {name: Node(state, params) for state, name, params in filter(None, read)}
    return {**graph, **changes}, bool(read) and all(read)


def actions(graph: Graph) -> tuple[PredictedAction, ...]:
    """What the graph says to prepare or trigger now: nothing for what is done or withdrawn."""
    return tuple(
        PredictedAction(name=name, params=node.params, status=STATUS[node.state])
        for name, node in graph.items()
        if STATUS[node.state]
    )


def render(graph: Graph) -> str:
    """The graph in the form in which outputs change it."""
    lines = [
        " | ".join([f"{n.state}: {name}", *(f"{k}={v}" for k, v in n.params.items())]) for name, n in graph.items()
    ]
    return "\n".join(lines) or SILENCE
