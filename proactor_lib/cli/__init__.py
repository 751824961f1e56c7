"""The command `proactor`: one file per group of commands; each imports what it needs when it runs.

A user's mistake (UserError) ends with one sentence on standard error and exit status 2; a server of ours that does not
come up (ProcessError), and a disk that is full or broken, with one and status 1. A package that only an extra brings is
a user's matter.
"""

import importlib
import os
import sys

import typer

from proactor_lib.errors import ProcessError, UserError, missing_extra
from proactor_lib.files import disk_failed

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _about() -> None:
    """Proactive task-scheduling agents: annotate, train, evaluate, report."""


# Each is a module here with a command, or a typer.Typer of several, of its name.
COMMANDS = (
    "annotate", "assess", "bench", "catalog", "cluster", "data", "doctor", "evaluate", "export", "report", "rewards",
    "run", "score", "serve", "simulate", "study", "sweep", "train", "watch",
)  # fmt: skip

for name in COMMANDS:
    made = getattr(importlib.import_module(f"{__name__}.{name}"), name)
    app.add_typer(made, name=name) if isinstance(made, typer.Typer) else app.command()(made)


def main() -> None:
    """Run the command line."""
    sys.argv[1:] = [_at_home(argument) for argument in sys.argv[1:]]
    try:
        app()
    except (UserError, ProcessError) as error:
        print(f"proactor: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except ModuleNotFoundError as error:
        if (sentence := missing_extra(error.name)) is None:
            raise
        print(f"proactor: {sentence}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C
            print("proactor: stopped; the same command goes on from what is kept", file=sys.stderr)
        raise
    except Exception as error:
        if not disk_failed(error):
            raise
        print(f"proactor: {_of_the_disk(error)}", file=sys.stderr)
        sys.exit(1)


def _of_the_disk(error: Exception) -> str:
    """One sentence of an error that `disk_failed` knows: an OSError's reason, or the first line of torch's."""
    reason = error.strerror if isinstance(error, OSError) else str(error).strip().partition("\n")[0]
    where = getattr(error, "filename", None) or "a file"
    return f"cannot write {where}: {reason}; make room on the disk, or name another one, and run this again"


def _at_home(argument: str) -> str:
    """`--out=~/x` with the home folder, which a shell only sees in `--out ~/x`."""
    option, equals, value = argument.partition("=")
    return f"{option}={os.path.expanduser(value)}" if option.startswith("--") and equals else argument
