"""What the figures of several chapters have in common; nothing is measured here.

Figures are made without pyplot, so that no window system is ever asked.
"""

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH = 4.8  # inches; with 9 points the text is still legible on a phone
MARKERS = "osD^vP*X"
PAGE_AND_TEXT_COLORS = {"light": ("#ffffff", "#1c1f23"), "dark": ("#16191d", "#e6e8ea")}


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Returns an empty figure of this size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def styles(items: Sequence[Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yields each item with its color and marker, which are the same in all figures."""
    for place, item in enumerate(items):
        marker = MARKERS[place % len(MARKERS)]
        yield item, {"color": f"C{place % 10}", "marker": marker}


def show_image(axes: Axes, image_uint8: np.ndarray) -> None:
    """Shows one image without axes."""
    axes.imshow(image_uint8.squeeze(), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def render(draw: Callable[[], Figure], form: str, theme: str = "light") -> bytes:
    """Draws a "light" or "dark" figure; returns the bytes of an "svg" or "png" file."""
    page, text = PAGE_AND_TEXT_COLORS[theme]
    on_text = "text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color"
    on_page = "figure.facecolor", "axes.facecolor", "savefig.facecolor"
    settings: Any = dict.fromkeys((*on_text, "ytick.color"), text)
    settings |= dict.fromkeys((*on_page, "legend.facecolor"), page)
    settings |= {
        "font.size": 9,
        "image.interpolation": "none",  # a page may enlarge the figure
        "svg.hashsalt": "analysis",  # the same figure gives the same file
    }
    stream = BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    with matplotlib.rc_context(settings):
        draw().savefig(stream, format=form, dpi=150, metadata=metadata)
    return stream.getvalue()


def to_pixels(figure: Figure) -> np.ndarray:
    """Renders a figure to an image: uint8 (height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
