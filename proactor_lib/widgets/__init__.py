"""Widgets for notebooks."""

from proactor_lib.widgets.explorer import Explorer

__all__ = ["Explorer"]
