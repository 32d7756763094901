"""Maps of the codes, projected from the sphere to the plane and coloured by class (Fig. 2).

Pure functions: matplotlib draws them without its global state.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cglo_jax.report import figures, fonts

_TSNE_MOST = 5000  # codes; more would take many minutes
# Okabe & Ito's, as for the methods, then darker ones of Paul Tol's (Colour Schemes, SRON/EPS/TN/09-002):
# with every kind of colour blindness any two are at least 6 apart in OKLab (0 to 100), and two that
# share a marker 18.
_COLORS = (*figures.PALETTE, "#aa4499", "#661100", "#332288", "#882255", "#666633")
_COLORS += ("#000000",)
_MARKERS = "os^DvPX"
_LEGEND_CLASSES = len(_COLORS)  # more classes than these are named on the map instead


def project(z: np.ndarray, method: str) -> np.ndarray:
    """Projects codes to the plane (Fig. 2).

    Args:
      z: float [n, d].
      method: "tsne" or "pca". t-SNE needs 5 to 5000 codes; other numbers get PCA, and a single
        code its first two coordinates.

    Returns:
      float [n, 2].
    """
    from sklearn.decomposition import PCA  # seconds to import
    from sklearn.manifold import TSNE

    if len(z) < 2:
        return z[:, :2]
    if method == "pca" or not 5 <= len(z) <= _TSNE_MOST:
        return PCA(2, random_state=0).fit_transform(z)
    perplexity = min(30.0, (len(z) - 1) / 3)
    options = {"metric": "cosine", "init": "random", "random_state": 0}
    return TSNE(2, perplexity=perplexity, **options).fit_transform(z)


def code_map(
    points: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> Image.Image:
    """Draws projected codes, coloured by class (Fig. 2).

    Up to 12 classes have a legend. More are named on the map, at the median of each class, as far
    as there is room, larger classes first.

    Args:
      points: float [n, 2].
      labels: int [n]; -1 (no label) is drawn small and grey.
      class_names: the name of each class; see `fonts.label_classes`.

    Returns:
      An RGB image, 1200 pixels wide.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.8), dpi=200, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    axes.spines[:].set_color("0.8")
    class_names = fonts.label_classes(class_names)
    few = len(class_names) <= _LEGEND_CLASSES
    hidden = axes.scatter(*points[labels < 0].T, s=3, color="#b3b3b3")
    drawn = [
        _scatter_class(axes, points[labels == k], k, len(class_names))
        for k in range(len(class_names))
    ]
    if few and (labels < 0).any():
        _add_legend(figure, [*drawn, hidden], [*class_names, "unlabelled"])
    elif few:
        _add_legend(figure, drawn, class_names)
    else:
        _add_class_names(canvas, axes, points, labels, class_names)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def code_panels(
    panels: Sequence[tuple[np.ndarray, np.ndarray]],
    titles: Sequence[str],
    notes: Sequence[str],
    class_names: Sequence[str],
) -> Image.Image:
    """Draws maps of several runs' codes side by side with one legend (Fig. 2).

    Args:
      panels: (points float [n, 2], labels int [n]) of each; -1 (no label) is a black "?".
      titles, notes: a text above and one below each panel.
      class_names: the name of each class, at most 12.

    Returns:
      An RGB image, 720 pixels wide for each panel and 180 for the legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class_names = fonts.label_classes(class_names)
    width = 3.6 * len(panels) + 0.9
    figure = Figure(figsize=(width, 3.9), dpi=200, layout="constrained")
    canvas, drawn = FigureCanvasAgg(figure), {}
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    texts = zip(panels, titles, notes, strict=True)
    for axes, ((points, labels), title, note) in zip(all_axes, texts, strict=True):
        axes.set(xticks=[], yticks=[], box_aspect=1)
        _write(axes.set_title(""), title, 11)
        _write(axes.set_xlabel("", labelpad=6), note, 9)
        axes.spines[:].set_color("0.8")
        hidden = axes.scatter(
            *points[labels < 0].T, s=36, marker="$?$", color="black", linewidths=0.2
        )
        drawn |= {"unlabelled": hidden} if (labels < 0).any() else {}
        for k, name in enumerate(class_names):
            of_class = points[labels == k]
            drawn[name] = _scatter_class(axes, of_class, k, len(class_names))
    names = [*class_names, *(["unlabelled"] if "unlabelled" in drawn else [])]
    _add_legend(figure, [drawn[name] for name in names], names)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _scatter_class(axes: Any, points: np.ndarray, k: int, num_classes: int) -> Any:
    from matplotlib import colormaps

    few = num_classes <= _LEGEND_CLASSES
    color = _COLORS[k] if few else colormaps["viridis"](k / num_classes)
    style = {"marker": _MARKERS[k % len(_MARKERS)], "linewidths": 0.4}
    style |= {"s": 26 if few else 14, "color": [color], "edgecolors": "white"}
    return axes.scatter(*points.T, **style)


def _add_legend(figure: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    style = {"loc": "outside right upper", "frameon": False}
    legend = figure.legend(handles, [" "] * len(handles), **style)
    # Set afterwards: matplotlib leaves out names that start with "_".
    for text, name in zip(legend.get_texts(), names, strict=True):
        _write(text, "\n".join(figures.wrap(name, figures.LABEL_WIDTH)), 11)


def _write(place: Any, text: str, size: float) -> None:
    """Sets a matplotlib text in a font that has its letters, without parsing "$" as maths."""
    from matplotlib.font_manager import FontProperties

    lines = [fonts.drawable(line) for line in text.split("\n")]
    font = FontProperties(fname=fonts.find("".join(lines)), size=size)
    place.set(text="\n".join(lines), parse_math=False, font=font)


def _add_class_names(
    canvas: Any, axes: Any, points: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> None:
    from matplotlib.patheffects import withStroke

    canvas.draw()  # text extents need the final layout
    placed = []
    outline = [withStroke(linewidth=2, foreground="white")]
    sizes = np.bincount(labels[labels >= 0], minlength=len(names))
    for k in [k for k in np.argsort(-sizes, kind="stable") if sizes[k]]:
        x, y = np.median(points[labels == k], axis=0)
        text = axes.text(x, y, "", ha="center", va="center", path_effects=outline)
        _write(text, names[k], 7)
        box = text.get_window_extent(canvas.get_renderer())
        inside = axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1
        if inside and not any(box.overlaps(other) for other in placed):
            placed.append(box)
        else:
            text.remove()
