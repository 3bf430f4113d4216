"""Matplotlib's figures as <svg> elements of a page: in the page's own text colour, light or dark."""

import io
from collections.abc import Callable
from html import escape
from typing import Any

INK = "#010203"  # stands for the page's text colour, light or dark, and is replaced by it


def svg(size: tuple[float, float], label: str, draw: Callable[[Any], None]) -> str:
    """Draw a figure of `size` inches; returns an <svg> element that screen readers call `label`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "neuralblack",
        "font.family": "sans-serif",
        "font.size": 11,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    found = text.getvalue()
    found = found[found.index("<svg") :].replace(INK, "currentColor")
    return found.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def plain(axes: Any, title: str) -> None:
    """Give axes a title, a faint grid and no box around them."""
    axes.set_title(title, loc="left", fontsize=12)
    axes.patch.set_alpha(0)
    axes.grid(alpha=0.18, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
