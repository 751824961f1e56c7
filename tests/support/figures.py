"""Figures that are read without a screen."""

from itertools import combinations


def readable(figure):
    """No two labels of an axis, no two titles, and no title and legend overlap; nothing sticks out of the figure."""
    figure.draw_without_rendering()
    whole = figure.get_window_extent()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            drawn = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            drawn = [t for t in drawn if t.label1.get_text() and t.label1.get_visible()]
            labels = [t.label1.get_window_extent() for t in drawn]
            assert not any(a.overlaps(b) for a, b in combinations(labels, 2)), ax.get_title()
            assert all(b.x0 >= whole.x0 - 1 and b.x1 <= whole.x1 + 1 for b in labels)
    titles = [t.get_window_extent() for ax in figure.axes for t in (ax.title, ax._left_title) if t.get_text()]
    assert all(box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1 for box in titles)
    above = [legend.get_window_extent() for legend in figure.legends]
    assert not any(a.overlaps(b) for a, b in combinations([*titles, *above], 2))
    return figure
