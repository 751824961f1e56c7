"""ProActor: windows of opportunity, timing-aware GRPO, and reports. Importing this package loads no torch.

run = Run.open("params/cpu-demo.yaml", "outputs/demo")
run.prepare(); run.annotate(); run.train(); run.evaluate(); run.report()
"""

from importlib import import_module

__version__ = "0.1.0"
_PUBLIC = {
    "Run": ("run", "Run"),
    "load_params": ("params", "load_params"),
    "Dialogue": ("schema", "Dialogue"),
    "Catalog": ("schema", "Catalog"),
    "Window": ("schema", "Window"),
    "Case": ("schema", "Case"),
    "REWARDS": ("rewards", "REWARDS"),
    "score": ("metrics.scores", "score_predictions"),
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)
