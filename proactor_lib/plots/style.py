"""One style for every figure: colour-blind safe (Okabe and Ito's palette), shapes as well as colours, fit for print."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import matplotlib.pyplot as plt
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
    "pdf.fonttype": 42,
}  # fmt: skip


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, the same whenever the names are."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def markers(names: Iterable[str]) -> dict[str, str]:
    """A marker for each name, so that no figure depends on colour alone."""
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(names)}


def dashes(names: Iterable[str]) -> dict[str, str]:
    """A line style for each name: solid for the first round of colours, then dashed."""
    return {name: DASHES[i % len(DASHES)] for i, name in enumerate(names)}


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
