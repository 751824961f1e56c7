"""Tables on standard output."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 10_000  # columns: no table in a pipe or a file has its words cut


def console() -> "Console":
    """A console as wide as the terminal; where there is none, as wide as what is printed."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
