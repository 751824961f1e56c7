"""Widgets for notebooks."""

from proactor_lib.widgets.explorer import Explorer
from proactor_lib.widgets.watch import Watch

__all__ = ["Explorer", "Watch"]
