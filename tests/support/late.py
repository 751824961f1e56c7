"""Modules that are imported when something of them is first used: collecting the tests must not load TRL."""

from importlib import import_module


class Late:
    """Stands for the module of that name."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str):
        if attribute.startswith(("__", "_mock")):  # what pytest asks of everything that it collects
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)
