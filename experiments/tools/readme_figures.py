"""The pictures of README.md and docs/paper.md, from what is committed: nothing is trained.

    python -m experiments.tools.readme_figures

figures/readme_results.png: walks of figures/figure5_cpu.png (`experiments.paper_figures`) beside the gains on
fresh draws (`experiments.our_tables`, lines of results/paper.jsonl). figures/readme_method.svg: how cGLO
works, drawn around images of the same walks.
"""

import base64
import statistics
from typing import Any

import numpy as np
from PIL import Image

from cglo_jax.report.figures import PALETTE
from cglo_jax.report.verdict import paired_difference
from cglo_jax.stages.sample_formats import encode_png
from experiments.harness import entry, runs
from experiments.harness.paths import FIGURES
from experiments.harness.table import BASELINE
from experiments.our_tables import CONFIRM

WALKS, RECONSTRUCTIONS = "figure5_cpu.png", "figure4_cpu.png"
ROWS, STEPS = 10, 9  # of the walks
COLUMNS, GAP = 8, 12  # of the reconstructions, see `figures.reconstruction_grid`
CELL = 66  # pixels: an image of 64 and its gutter, see `figures.image_grid`
SHOWN = (0, 2, 3, 7, 8)  # apple, clock, forest, snail, tiger
CHOICE = runs.Choice("cpu", "cifar100")


def read_tiles() -> np.ndarray:
    """Returns the images of the walks, uint8 [ROWS, STEPS, 64, 64, 3]."""
    walks = np.asarray(Image.open(FIGURES / WALKS).convert("RGB"))
    grid = walks[-ROWS * CELL :, -STEPS * CELL :]
    tiles = grid.reshape(ROWS, CELL, STEPS, CELL, 3).swapaxes(1, 2)
    return tiles[:, :, : CELL - 2, : CELL - 2]


def read_pair() -> tuple[np.ndarray, np.ndarray]:
    """Returns the first training image of figures/figure4_cpu.png and its reconstruction."""
    picture = np.asarray(Image.open(FIGURES / RECONSTRUCTIONS).convert("RGB"))
    x = picture.shape[1] - COLUMNS * CELL
    y = (
        picture.shape[0] - GAP
    ) // 2 - 2 * CELL  # below the names of the first of two blocks
    side = CELL - 2
    return tuple(picture[top : top + side, x : x + side] for top in (y, y + CELL))


def gains() -> list[tuple[str, float, float, float]]:
    """Returns (row, mean, low, high) of each row minus the baseline, 95 % t-intervals, in points."""
    planned, _ = runs.expand(CONFIRM, CHOICE)
    results = {row: lines for (row, _), lines in runs.results_of(planned).items()}
    base = results.pop(BASELINE)
    resolution = 100 / next(iter(base.values()))["n_test"]
    found = []
    for row, lines in results.items():
        seeds = sorted(lines.keys() & base.keys())
        values = ([side[seed]["top1"] for seed in seeds] for side in (lines, base))
        found.append((row, *paired_difference(*values, 0.95, resolution)))
    return found


def baseline_mean() -> tuple[float, int]:
    """Returns the baseline's mean top-1 in percent, and of how many draws."""
    planned, _ = runs.expand(CONFIRM, CHOICE)
    lines = runs.results_of(planned)[BASELINE, "10"].values()
    return statistics.fmean(line["top1"] for line in lines), len(lines)


def draw_results() -> Image.Image:
    """Draws five walks beside the gains, 2000 pixels wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.5), dpi=200)
    canvas = FigureCanvasAgg(figure)
    figure.text(0.015, 0.93, "New images between two training images", fontsize=11)
    figure.text(0.555, 0.93, "Classifiers trained with them, and others", fontsize=11)
    _draw_walks(figure.add_axes((0.015, 0.03, 0.5, 0.79)))
    _draw_gains(figure.add_axes((0.705, 0.2, 0.275, 0.66)))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _draw_walks(axes: Any) -> None:
    height, width = len(SHOWN) * CELL - 2, STEPS * CELL - 2
    strip = np.full((height, width, 3), 255, np.uint8)
    for r, row in enumerate(read_tiles()[list(SHOWN)]):
        for c, tile in enumerate(row):
            strip[r * CELL : r * CELL + CELL - 2, c * CELL : c * CELL + CELL - 2] = tile
    axes.imshow(strip, interpolation="nearest")
    axes.set_anchor("NW")
    axes.axis("off")
    style = {"fontsize": 8.5, "color": "0.35"}
    axes.text(0, -8, "one training image", ha="left", **style)
    axes.text(width, -8, "another of its class", ha="right", **style)


def _draw_gains(axes: Any) -> None:
    found = sorted(gains(), key=lambda gain: gain[1])
    for y, (row, mean, low, high) in enumerate(found):
        color = PALETTE[1] if row == "cGLO" else "0.45"
        axes.plot([low, high], [y, y], color=color, linewidth=1.6)
        axes.plot([mean], [y], "o", color=color, markersize=5.5)
    axes.axvline(0, color="0.2", linewidth=0.8)
    axes.set(yticks=range(len(found)), ylim=(-0.6, len(found) - 0.4))
    for label in axes.set_yticklabels([row for row, *_ in found], fontsize=9):
        if label.get_text() == "cGLO":
            label.set(color=PALETTE[1], fontweight="bold")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    mean, draws = baseline_mean()
    text = (
        f"points of top-1 above the baseline's {mean:.1f} %\n"
        f"(95 % interval, {draws} draws of 100 images)"
    )
    axes.set_xlabel(text, fontsize=8.5)


def _image(tile: np.ndarray, x: float, y: float, side: float = 64) -> str:
    url = "data:image/png;base64," + base64.b64encode(encode_png(tile)).decode()
    place = f'x="{x}" y="{y}" width="{side}" height="{side}"'
    return f'<image {place} href="{url}" style="image-rendering: pixelated"/>'


def _text(x: float, y: float, lines: str, kind: str = "") -> str:
    spans = [
        f'<tspan x="{x}" dy="{0 if i == 0 else 16}">{line}</tspan>'
        for i, line in enumerate(lines.split("|"))
    ]
    return f'<text x="{x}" y="{y}" class="{kind}">{"".join(spans)}</text>'


def _box(x: float, y: float, width: float, height: float, lines: str) -> str:
    count = lines.count("|") + 1
    middle = y + height / 2 + 5 - 8 * (count - 1)
    frame = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
    return frame + _text(x + width / 2, middle, lines)


def _arrow(path: str, kind: str = "") -> str:
    return f'<path d="{path}" class="arrow {kind}" marker-end="url(#head)"/>'


_STYLE = f"""
text {{ font: 13px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1d2126; text-anchor: middle; }}
.step {{ font-weight: 600; text-anchor: start; font-size: 14px; }}
.quiet {{ fill: #5c646d; font-size: 12px; }}
.left {{ text-anchor: start; }}
rect {{ fill: #eef3f7; stroke: {PALETTE[0]}; }}
.arrow {{ fill: none; stroke: #5c646d; stroke-width: 1.5; }}
.back {{ stroke-dasharray: 4 3; }}
.sphere {{ fill: #fff; stroke: #9aa4ae; }}
.page {{ fill: #fff; stroke: none; }}
"""


def draw_method() -> str:
    """Draws the three steps, learn, walk, classify, as one SVG."""
    walk = read_tiles()[0]  # apples
    original, painted = read_pair()
    between, other = walk[3], walk[-1]
    orange = PALETTE[1]
    dot = f'r="5" fill="{PALETTE[0]}"'
    parts = [
        '<rect class="page" width="880" height="470"/>',
        _text(20, 30, "1  Learn a generator, and a code for each training image", "step"),
        '<circle class="sphere" cx="84" cy="112" r="54"/>',
        f'<circle cx="66" cy="84" {dot}/><circle cx="112" cy="134" {dot}/>',
        _text(20, 190, "codes on the unit sphere", "quiet left"),
        _arrow("M144 112H232"),
        _text(190, 102, "+ noise", "quiet"),
        _box(238, 84, 110, 56, "generator"),
        _arrow("M348 112H408"),
        _image(painted, 416, 80),
        _text(448, 162, "reconstruction", "quiet"),
        _arrow("M488 112H556"),
        _box(562, 84, 150, 56, "same image?|same class?"),
        _arrow("M776 112H718"),
        _image(original, 784, 80),
        _text(816, 162, "training image", "quiet"),
        _arrow("M637 140V182H293V146", "back"),
        _arrow("M293 182H176V118", "back"),
        _text(468, 200, "gradients change the generator and the image's own code", "quiet"),
        _text(20, 250, "2  Walk between two codes of a class", "step"),
        '<circle class="sphere" cx="84" cy="340" r="54"/>',
        f'<path d="M66 312Q104 314 112 362" class="arrow" style="stroke: {orange}"/>',
        f'<circle cx="66" cy="312" {dot}/><circle cx="112" cy="362" {dot}/>',
        f'<circle cx="91" cy="321" r="5" fill="{orange}"/>',
        _arrow("M144 340H166"),
        _box(172, 312, 90, 56, "generator"),
        _arrow("M262 340H284"),
        _image(between, 292, 308),
        _text(324, 390, "a new image", "quiet"),
        _text(324, 406, "of that class", "quiet"),
        _text(412, 250, "3  Train classifiers with and without them: a verdict", "step"),
        _image(other, 424, 272, 48),
        _text(482, 300, "real", "quiet left"),
        _image(between, 424, 326, 48),
        _text(482, 354, "new", "quiet left"),
        _text(662, 370, "half of each batch", "quiet"),
        _arrow("M512 296H560C584 296 584 318 604 318"),
        _arrow("M512 350H560C584 350 584 332 604 332"),
        _box(610, 298, 104, 54, "cGLO"),
        _image(original, 424, 398, 48),
        _text(482, 426, "real only", "quiet left"),
        _arrow("M540 422H604"),
        _box(610, 395, 104, 54, "baseline"),
        _arrow("M714 325H740C756 325 756 356 770 360"),
        _arrow("M714 422H740C756 422 756 390 770 386"),
        _box(776, 346, 92, 54, "did they|help?"),
        _text(822, 422, "same steps,|seed by seed", "quiet"),
    ]  # fmt: skip
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#5c646d"/></marker>'
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 470" width="880" role="img" '
        'aria-label="How cGLO works in three steps">'
        f"<defs>{head}<style>{_STYLE}</style></defs>{''.join(parts)}</svg>\n"
    )


def main() -> None:
    """Writes both."""
    draw_results().save(FIGURES / "readme_results.png", optimize=True)
    (FIGURES / "readme_method.svg").write_text(draw_method(), encoding="utf-8")
    print(FIGURES / "readme_results.png", FIGURES / "readme_method.svg", sep="\n")


if __name__ == "__main__":
    entry.run(main)
