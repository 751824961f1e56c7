"""One execution of one notebook: a process of its own runs papermill, which runs a kernel of its own.

`python -m proactor_lib.notebook` is that process. papermill only warns of a parameter that a notebook does not have and
then runs the default, so names are checked here, against the notebook's own parameters cell.
"""

import ast
import difflib
import hashlib
import html
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from proactor_lib import processes
from proactor_lib.errors import UserError, missing_extra
from proactor_lib.files import read_text, write_json

KERNEL = "python3"
State = Literal["done", "failed", "refused", "timeout"]


@dataclass(frozen=True)
class Outcome:
    """How an execution ended. `refused`: the notebook raised UserError, whose sentence `problem` then is."""

    state: State
    seconds: float
    peak_memory_gb: float  # sum of PSS over the execution's processes, 1e9 bytes
    problem: str | None = None  # one sentence; None when done


Execute = Callable[..., Outcome]  # what `execute` does; pipelines and sweeps take another one where none is to run


def read_notebook(path: Path) -> dict:
    """The notebook as its JSON object; UserError when it is missing or is none."""
    try:
        value = json.loads(read_text(path))
        [cell["source"] for cell in value["cells"]]
        return value
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path} is not a notebook (nbformat 4 JSON with cells)") from None


def _source(cell: dict) -> str:
    return "".join(cell["source"])  # nbformat: a string, or a list of lines


def parameters(path: Path) -> dict[str, Any]:
    """Names and defaults of the notebook's parameters cell (tag `parameters`), in order; empty without such a cell.

    A default that is not a literal is given as its source text. Raises UserError if the cell is not Python.
    """
    for cell in read_notebook(path)["cells"]:
        if cell["cell_type"] == "code" and "parameters" in cell.get("metadata", {}).get("tags", ()):
            try:
                return dict(_assignments(ast.parse(_source(cell))))
            except SyntaxError as error:
                raise UserError(f"{path}: the parameters cell is not Python: {error.msg}") from None
    return {}


def _assignments(tree: ast.Module):
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                yield target.id, _literal(node.value)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def check_parameters(path: Path, given: dict[str, Any]) -> None:
    """Raise UserError if `given` has a name that the notebook's parameters cell does not have."""
    known = parameters(path)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            accepted = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(known) or 'none'}"
            raise UserError(f"{path} has no parameter {name!r} in its parameters cell; {accepted}")


def digest(path: Path) -> str:
    """12 hex digits that change with the notebook's cells, but not with its outputs."""
    cells = [(c["cell_type"], _source(c)) for c in read_notebook(path)["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:12]


EXECUTED = "PROACTOR_EXECUTED_NOTEBOOK"  # in a kernel's environment: where `execute` leaves the notebook


def link(path: Path | str) -> str:
    """A link to a file, as HTML, that opens it from where the notebook lies: in JupyterLab too."""
    here = os.environ.get(EXECUTED)
    start = Path(here).parent if here else Path.cwd()
    try:
        target = quote(Path(os.path.relpath(path, start)).as_posix())
    except ValueError:  # on another drive than the notebook, where Windows has some
        target = Path(path).resolve().as_uri()
    return f'<a href="{target}">{html.escape(str(path))}</a>'


def execute(
    source: Path,
    target: Path,
    given: dict[str, Any],
    *,
    timeout: float | None = None,  # seconds
    on_tick: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run `source` with the parameters `given`; `target` is the executed notebook, beside it `<target>.log`.

    `target` appears whole, when the run has ended, however it ended; a failed cell holds its error. `on_tick` is called
    a few times a second meanwhile. Whatever ends this call (an exception in `on_tick` or Ctrl-C too), no process that
    the notebook started is left. Raises UserError for an unknown parameter or a source that is no notebook.
    """
    check_parameters(source, given)
    target.parent.mkdir(parents=True, exist_ok=True)
    running = target.with_name(f".{target.stem}.running.ipynb")
    running.unlink(missing_ok=True)
    job = {"source": str(source), "target": str(running), "parameters": given, "parent": os.getpid()}
    start = time.monotonic()
    with open(target.with_suffix(".log"), "wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "proactor_lib.notebook", json.dumps(job, default=str)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, EXECUTED: str(target.resolve())},
        )  # fmt: skip
    with processes.PeakMemory(child.pid) as memory:
        try:
            in_time = _wait(child, start, timeout, on_tick)
        finally:
            processes.end(child.pid)
            child.wait()
            _publish(running, target)
    if not in_time:
        _mark(target, "TimeoutError", f"ran out of its {timeout:g} s")
    state, problem = ("done", None) if child.returncode == 0 else _verdict(target, child.returncode)
    return Outcome(state if in_time else "timeout", time.monotonic() - start, memory.gb, problem)


def _wait(child: subprocess.Popen, start: float, timeout: float | None, on_tick: Callable[[], None]) -> bool:
    """Whether the child ended in time."""
    while True:
        try:
            child.wait(0.2)
            return True
        except subprocess.TimeoutExpired:
            on_tick()
        if timeout is not None and time.monotonic() - start > timeout:
            return False


def _publish(running: Path, target: Path) -> None:
    """Rename the executed notebook into its place; one that was cut short in writing (a full disk) is removed."""
    try:
        read_notebook(running)
        os.replace(running, target)
    except UserError:
        running.unlink(missing_ok=True)


def _mark(path: Path, name: str, sentence: str) -> None:
    """Put an error that no kernel reported into the notebook, at the cell that ran last."""
    if not path.exists():
        return
    notebook = read_notebook(path)
    begun = [c for c in notebook["cells"] if "outputs" in c and c["metadata"].get("papermill", {}).get("start_time")]
    if begun:
        begun[-1]["outputs"].append(
            {"output_type": "error", "ename": name, "evalue": sentence, "traceback": [sentence]}
        )
        write_json(path, notebook)


def _verdict(target: Path, status: int) -> tuple[State, str]:
    """What the notebook's first error says, or else its log."""
    for number, output in _errors(target):
        sentence = " ".join(output["evalue"].split())
        if output["ename"] == "UserError":
            return "refused", sentence
        absent = sentence.partition("'")[2].rstrip("'") if output["ename"] == "ModuleNotFoundError" else None
        if extra := missing_extra(absent):
            return "refused", extra
        return "failed", f"cell {number} of {target} raised {output['ename']}: {sentence}"
    log = target.with_suffix(".log")
    said = (
        processes.last_line(log.read_text(encoding="utf-8", errors="replace"))
        or "the notebook's process ended without a word"
    )
    return "failed", f"{said} (exit status {status}; {log})"


def _errors(target: Path):
    cells = read_notebook(target)["cells"] if target.exists() else []
    for number, cell in enumerate(cells, start=1):
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error" and (output["ename"], output["evalue"]) != ("SystemExit", "0"):
                yield number, output


@contextmanager
def own_kernel() -> Iterator[None]:
    """Has the kernel `python3` be this Python's, whatever other kernel of that name the machine has."""
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        spec = {"argv": command, "display_name": "Python 3", "language": "python"}
        write_json(Path(folder) / "kernels" / KERNEL / "kernel.json", spec)
        paths = filter(None, (folder, os.environ.get("JUPYTER_PATH")))
        with processes.environment({"JUPYTER_PATH": os.pathsep.join(paths)}):
            yield


def _run_job(source: str, target: str, parameters: dict[str, Any], parent: int) -> None:
    """What the process of its own does. Its descendants end with it, and it ends with its parent."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    processes.follow_parent()
    processes.adopt_orphans()
    if sys.platform == "linux" and os.getppid() != parent:  # it died before it could be followed
        sys.exit(143)
    import papermill
    from nbclient.exceptions import DeadKernelError

    try:
        with own_kernel():
            papermill.execute_notebook(
                source, target, parameters, progress_bar=False, log_output=False, kernel_name=KERNEL
            )
    except papermill.PapermillExecutionError:
        sys.exit(1)  # the error stands in the notebook
    except DeadKernelError:
        _mark(Path(target), "DeadKernelError", "the kernel died (it was killed, or ran out of memory)")
        sys.exit(1)
    except OSError as error:
        sys.exit(f"could not write {target}: {error.strerror}")
    finally:
        processes.end(itself=False, grace=2.0)


if __name__ == "__main__":
    _run_job(**json.loads(sys.argv[1]))
