"""Figure 3: straight lines against great circles, on a circle and in a latent space.

    python -m experiments.figure3                    # digits; a minute on two cores
    python -m experiments.figure3 --scale=paper --data_dir=DIR     # CIFAR-100, on a GPU

Above, both paths between two unit vectors in the plane, from `codes.lerp` and `codes.slerp`; below,
what a trained cGLO paints along them between two codes of one class.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from cglo_jax.cglo import codes
from cglo_jax.inference import sampler
from cglo_jax.report import figures
from cglo_jax.stages import sample
from configs import digits
from experiments import entry, trained

ENDS = np.radians([150.0, 30.0])  # of the two vectors in the plane
T_VALUES = (0.0, 0.25, 0.5, 0.75, 1.0)
LABEL = 2  # class of the painted codes
NAMES = {"lerp": "linear", "slerp": "spherical"}


def walk(
    method: str, q1: np.ndarray, q2: np.ndarray, t_values: Sequence[float] = T_VALUES
) -> np.ndarray:
    """Interpolates between two codes [d] at T values -> float32 [T, d]."""
    path = jax.vmap(codes.INTERPOLATIONS[method], (None, None, 0))
    q1, q2, t = (jnp.asarray(x, jnp.float32) for x in (q1, q2, t_values))
    return np.asarray(path(q1, q2, t))


def paint(model: sample.Restored, z: np.ndarray) -> np.ndarray:
    """Generates images of codes [B, d] with the same noise -> uint8 [B, H, W, C]."""
    keys = jnp.repeat(jax.random.key(0)[None], len(z))
    return sampler.generate_uint8(model, z, keys)


def draw_circle(axes: Any, method: str) -> None:
    """Draws the vectors of a path in the plane, from a half circle's centre."""
    ends = np.stack([np.cos(ENDS), np.sin(ENDS)], 1)
    vectors, turn = walk(method, *ends), np.linspace(0, np.pi, 181)
    axes.plot(np.cos(turn), np.sin(turn), color="0.75", linewidth=1)
    axes.plot([-1.1, 1.1], [0, 0], color="0.75", linewidth=1)
    line = walk(method, *ends, np.linspace(0, 1, 100))
    axes.plot(*line.T, color=figures.PALETTE[1], linewidth=2)
    for t, vector in zip(T_VALUES, vectors, strict=True):
        name = {0: "$v_1$", 1: "$v_2$"}.get(t, f"$t$ = {t:g}")
        color = "black" if t in (0, 1) else figures.PALETTE[0]
        arrow = {"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", vector, (0, 0), arrowprops={**arrow, "linewidth": 1.6})
        text = f"{name}\nlength {np.linalg.norm(vector):.2f}"
        side = {0: "right", 1: "left"}.get(t, "center")
        out = {"lerp": vector + np.array([0, 0.12]), "slerp": 1.18 * vector}[method]
        place = out if side == "center" else 1.05 * vector
        axes.text(*place, text, fontsize=8, ha=side, va="center")
    draw_arcs(axes, vectors)
    axes.set(xlim=(-1.4, 1.4), ylim=(-0.03, 1.3), aspect="equal")
    axes.set_title(f"{NAMES[method]} interpolation ({method})", fontsize=11)
    axes.set_axis_off()


def draw_arcs(axes: Any, vectors: np.ndarray) -> None:
    """Draws the angles between successive vectors [n, 2] near the origin."""
    for a, b in itertools.pairwise(np.arctan2(vectors[:, 1], vectors[:, 0])):
        arc, middle = np.linspace(a, b, 30), (a + b) / 2
        axes.plot(0.22 * np.cos(arc), 0.22 * np.sin(arc), color="0.4", linewidth=1)
        place = 0.41 * np.cos(middle), 0.41 * np.sin(middle)
        text = f"{np.degrees(a - b):.0f}°"
        axes.text(*place, text, fontsize=8, ha="center", va="center")


def draw_images(
    all_axes: np.ndarray, method: str, model: sample.Restored, pair: np.ndarray
) -> None:
    """Draws what the generator makes of a path between the codes of two images."""
    z = walk(method, *model.z[pair])
    for axes, t, code, image in zip(
        all_axes, T_VALUES, z, paint(model, z), strict=True
    ):
        grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.shape[-1] == 1 else {}
        axes.imshow(image.squeeze(), interpolation="nearest", **grey)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(f"$t$ = {t:g}", fontsize=8)
        axes.set_xlabel(f"length {np.linalg.norm(code):.2f}", fontsize=8)


def draw(model: sample.Restored) -> Image.Image:
    """Draws the whole figure."""
    pair = model.sampler.classes.members[LABEL, :2]
    figure = Figure(figsize=(10, 4.4), dpi=200, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for half, method in zip(figure.subfigures(1, 2), NAMES, strict=True):
        above, below = half.subfigures(2, 1, height_ratios=(2, 1))
        draw_circle(above.subplots(), method)
        draw_images(below.subplots(1, len(T_VALUES)), method, model, pair)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def main() -> None:
    """Trains the cGLO if it is not there and draws the figure."""
    args = trained.parse(__doc__)
    if args.scale == "paper":
        config = trained.cifar100_config(args.scale, args.data_dir)
        _, model = trained.train_cglo(config, args.workdir / "paper" / "cifar100")
    else:
        _, model = trained.train_cglo(
            digits.get_config(), args.workdir / "cpu" / "digits"
        )
    trained.save(draw(model), f"figure3_{args.scale}.png")


if __name__ == "__main__":
    entry.run(main)
