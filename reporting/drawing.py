"""How every plot begins."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_DPI = 130


def figure_of(panels: int = 1, *, width: float = 8.0, height: float = 3.6) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels below one another.

    Args:
        width, height: of a panel, in inches.
    """
    figure = Figure(figsize=(width, height * panels), dpi=_DPI, layout="constrained")
    places = list(figure.subplots(panels, squeeze=False)[:, 0])
    for axes in places:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, places
