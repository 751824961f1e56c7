"""One style for every figure: colour-blind safe (Okabe and Ito's palette), shapes as well as colours, fit for print."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vP<>"
DASHES = ("-", "--", ":", "-.")
WIDTH = 6.2  # inches: a page's text width
ANTICIPATED, EXECUTABLE = "#D6E4F0", "#8FB8DA"  # a window from open to ready, and from ready to close
FAULT = "#D55E00"
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8.5, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.axisbelow": True, "axes.titlelocation": "left", "legend.frameon": False,
    "figure.constrained_layout.use": True, "figure.dpi": 110, "savefig.dpi": 200, "svg.fonttype": "none",
    "pdf.fonttype": 42, "text.parse_math": False,  # names of actions and policies are no formulas
}  # fmt: skip


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, the same whenever the names are."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def markers(names: Iterable[str]) -> dict[str, str]:
    """A marker for each name, so that no figure depends on colour alone; another in each round of colours."""
    return {name: MARKERS[(i + i // len(COLOURS)) % len(MARKERS)] for i, name in enumerate(names)}


def dashes(names: Iterable[str]) -> dict[str, str]:
    """A line style for each name; another in each round of colours."""
    return {name: DASHES[(i + i // len(COLOURS)) % len(DASHES)] for i, name in enumerate(names)}


def ink(colour: str) -> str:
    """Black or white (#rrggbb), whichever can be read better on `colour`: by relative luminance, as in WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = float(np.dot([0.2126, 0.7152, 0.0722], linear))
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


@contextmanager
def figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (WIDTH, 3.0), **options) -> Iterator[tuple]:
    """A figure and its axes in the style; closed for pyplot afterwards, so that a notebook shows it once."""
    with plt.rc_context(STYLE):
        made, axes = plt.subplots(rows, columns, figsize=size, **options)
        try:
            yield made, axes
        finally:
            plt.close(made)


def legend_above(made: Figure, handles: list, columns: int = 4) -> None:
    """One legend above all panels, for handles that carry their labels."""
    if handles:
        lines = -(-len(handles) // columns)  # as many entries in each, or nearly
        made.legend(handles=handles, ncols=-(-len(handles) // lines), loc="outside upper left", borderaxespad=0.2)
