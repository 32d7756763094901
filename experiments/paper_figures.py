"""Figures 2 to 5 of the paper, from cGLOs that are trained if they are not there.

    python -m experiments.paper_figures figure2 --data_dir=DIR   # 6 classes of CIFAR-100; two minutes on two cores
    python -m experiments.paper_figures figure3                  # digits; a minute
    python -m experiments.paper_figures figure4 --data_dir=DIR   # 10 classes of CIFAR-100; some minutes
    python -m experiments.paper_figures figure5 --data_dir=DIR   # the same classes, and the same cGLO
    python -m experiments.paper_figures figure2 --scale=paper --data_dir=DIR    # any, on a GPU

Figure 2: the latent space of vanilla GLO, of cGLO, of cGLO whose weak classifier takes codes, and of
that with images without a label. Six classes of CIFAR-100 with 25 labelled images each; on two cores
those of `studies.settings`, which found where the paper's effect appears. Codes are brought to the
plane by t-SNE; below each map are the mean angles in the latent space itself.

Figure 3: straight lines against great circles. Above, both paths between two unit vectors in the plane,
from `codes.lerp` and `codes.slerp`; below, what a trained cGLO generates along them between two codes
of one class.

Figure 4: training images above their reconstructions, 10 labelled images per class; at --scale=paper
of CUB-200.

Figure 5: new images between two reconstructed ones of CIFAR-100, 10 images per class.
"""

import argparse
import itertools
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from PIL import Image

from cglo_jax.cglo import codes, quality
from cglo_jax.config import validation
from cglo_jax.data import dataset as data
from cglo_jax.inference import sampler
from cglo_jax.inference.sampler import Restored
from cglo_jax.report import code_maps, figures
from cglo_jax.stages import sample, train
from cglo_jax.workdir import directory
from configs import cifar100, cub, digits
from experiments.harness import entry
from experiments.harness.paths import FIGURES
from experiments.studies import settings

UNLABELLED = 60  # of Figure 2
OF_CODES = {"weak_classifier.input": "latent", "weak_classifier.gamma": 0.1}
PANELS = {
    "(a) vanilla GLO": {"weak_classifier.gamma": 0.0},
    "(b) cGLO": {},
    "(c) cGLO, classifier of codes": OF_CODES,
    # What is tested on is reconstructed: unused training images, to have few of them.
    "(d) as (c), transductive": {
        **OF_CODES,
        "dataset.transductive": True,
        "dataset.holdout": UNLABELLED,
    },
}
ENDS = np.radians([150.0, 30.0])  # of the two vectors of Figure 3
T_VALUES = (0.0, 0.25, 0.5, 0.75, 1.0)
LABEL = 2  # class of the codes of Figure 3
NAMES = {"lerp": "linear", "slerp": "spherical"}
SHOWN = 16  # images of Figure 4
ROWS = 10  # classes of Figure 5


def cifar100_config(scale: str, data_dir: str) -> ConfigDict:
    """Returns CIFAR-100 with 10 images per class as in the paper, or 10 of its classes."""
    config = cifar100.get_config("10" if scale == "paper" else "10,cpu")
    config.dataset.data_dir = data_dir
    if scale == "cpu":
        config.dataset.classes = 10
        config.train.batch_size = 50  # more steps for the same number of images
        config.train.epochs = 32
        config.train.lr_drop_epochs = (16, 24)
    return config


def train_cglo(
    config: ConfigDict, workdir: pathlib.Path
) -> tuple[data.Dataset, Restored]:
    """Trains the cGLO of the first seed to its end, unless it is there.

    Returns:
      Its training images and itself.

    Raises:
      UserError: see `data.dataset.load` and `train.run`.
    """
    validation.validate(config)
    seed = config.seeds[0]
    dataset, test_set = data.load(config.dataset, seed)
    print(data.describe(dataset, test_set), flush=True)
    directory.create(config, workdir)
    train.run(config, workdir, dataset, seed)
    return dataset, sampler.restore(config, workdir, dataset, seed)


def save(picture: Image.Image, name: str) -> None:
    """Saves a Pillow image to figures/ and says where."""
    FIGURES.mkdir(exist_ok=True)
    picture.save(FIGURES / name, optimize=True)
    print(FIGURES / name, flush=True)


def figure2_config(scale: str, data_dir: str) -> ConfigDict:
    """Returns the fields that all panels of Figure 2 share."""
    if scale == "paper":
        config = cifar100.get_config("25")
        config.dataset.classes = 6
    else:
        config = settings.six_classes()
    config.dataset.data_dir = data_dir
    return config


def figure2(args: argparse.Namespace) -> None:
    """Draws the codes of each of PANELS in the plane."""
    names, maps, notes = (), [], []
    for title, changes in PANELS.items():
        config = figure2_config(args.scale, args.data_dir)
        config.update_from_flattened_dict(changes)
        name = f"figure2-{title[1]}"
        dataset, model = train_cglo(config, args.workdir / args.scale / name)
        names, labels = dataset.class_names, dataset.labels
        maps.append((code_maps.project(model.z, "tsne"), labels))
        intra, inter = quality.code_angles(model.z, labels)
        notes.append(f"angle within a class {intra:.1f}°, between classes {inter:.1f}°")
    picture = code_maps.code_panels(maps, list(PANELS), notes, names)
    save(picture, f"figure2_{args.scale}.png")


def walk(
    method: str, q1: np.ndarray, q2: np.ndarray, t_values: Sequence[float] = T_VALUES
) -> np.ndarray:
    """Interpolates between two codes [d] at T values -> float32 [T, d]."""
    path = jax.vmap(codes.INTERPOLATIONS[method], (None, None, 0))
    q1, q2, t = (jnp.asarray(x, jnp.float32) for x in (q1, q2, t_values))
    return np.asarray(path(q1, q2, t))


def generate(model: Restored, z: np.ndarray) -> np.ndarray:
    """Generates images of codes [B, d] with the same noise -> uint8 [B, H, W, C]."""
    keys = jnp.repeat(jax.random.key(0)[None], len(z))
    return sampler.generate_uint8(model, z, keys)


def _draw_circle(axes: Axes, method: str) -> None:
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
    _draw_arcs(axes, vectors)
    axes.set(xlim=(-1.4, 1.4), ylim=(-0.03, 1.3), aspect="equal")
    axes.set_title(f"{NAMES[method]} interpolation ({method})", fontsize=11)
    axes.set_axis_off()


def _draw_arcs(axes: Axes, vectors: np.ndarray) -> None:
    """Draws the angles between successive vectors [n, 2] near the origin."""
    for a, b in itertools.pairwise(np.arctan2(vectors[:, 1], vectors[:, 0])):
        arc, middle = np.linspace(a, b, 30), (a + b) / 2
        axes.plot(0.22 * np.cos(arc), 0.22 * np.sin(arc), color="0.4", linewidth=1)
        place = 0.41 * np.cos(middle), 0.41 * np.sin(middle)
        text = f"{np.degrees(a - b):.0f}°"
        axes.text(*place, text, fontsize=8, ha="center", va="center")


def _draw_images(
    all_axes: np.ndarray, method: str, model: Restored, pair: np.ndarray
) -> None:
    """Draws what the generator makes of a path between the codes of two images."""
    z = walk(method, *model.z[pair])
    for axes, t, code, image in zip(
        all_axes, T_VALUES, z, generate(model, z), strict=True
    ):
        grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.shape[-1] == 1 else {}
        axes.imshow(image.squeeze(), interpolation="nearest", **grey)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(f"$t$ = {t:g}", fontsize=8)
        axes.set_xlabel(f"length {np.linalg.norm(code):.2f}", fontsize=8)


def draw_paths(model: Restored) -> Image.Image:
    """Draws the whole of Figure 3."""
    pair = model.sampler.classes.members[LABEL, :2]
    figure = Figure(figsize=(10, 4.4), dpi=200, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for half, method in zip(figure.subfigures(1, 2), NAMES, strict=True):
        above, below = half.subfigures(2, 1, height_ratios=(2, 1))
        _draw_circle(above.subplots(), method)
        _draw_images(below.subplots(1, len(T_VALUES)), method, model, pair)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def figure3(args: argparse.Namespace) -> None:
    """Draws lerp and slerp, in the plane and in the latent space."""
    if args.scale == "paper":
        config = cifar100_config(args.scale, args.data_dir)
        _, model = train_cglo(config, args.workdir / "paper" / "cifar100")
    else:
        _, model = train_cglo(digits.get_config(), args.workdir / "cpu" / "digits")
    save(draw_paths(model), f"figure3_{args.scale}.png")


def draw_reconstructions(dataset: data.Dataset, model: Restored) -> Image.Image:
    """Draws images of classes spread over the list, one or two of each."""
    last = dataset.num_labelled - 1
    shown = np.linspace(0, last, SHOWN).round().astype(int)  # ordered by class
    key = jax.random.key(0)
    return sample.draw_reconstructions(dataset, model, key, shown)


def figure4(args: argparse.Namespace) -> None:
    """Draws training images above their reconstructions."""
    if args.scale == "paper":
        config, name = cub.get_config("10"), "cub"
        config.dataset.data_dir = args.data_dir
    else:
        config, name = cifar100_config(args.scale, args.data_dir), "cifar100"
    run = train_cglo(config, args.workdir / args.scale / name)
    save(draw_reconstructions(*run), f"figure4_{args.scale}.png")


def draw_walks(dataset: data.Dataset, model: Restored) -> Image.Image:
    """Walks from the first image of a class to its second, with one draw of noise per row."""
    members = model.sampler.classes.members
    shown = np.linspace(0, len(members) - 1, ROWS).round().astype(int)
    first, second = members[shown, 0], members[shown, 1]
    key = jax.random.key(0)
    images, t = sample.generate_walks(model, key, first, second)
    names = [dataset.class_names[dataset.labels[i]] for i in first]
    return figures.interpolation_grid(images, t, names)


def figure5(args: argparse.Namespace) -> None:
    """Draws walks between the codes of two images of a class."""
    config = cifar100_config(args.scale, args.data_dir)
    run = train_cglo(config, args.workdir / args.scale / "cifar100")
    save(draw_walks(*run), f"figure5_{args.scale}.png")


COMMANDS = {
    "figure2": figure2,
    "figure3": figure3,
    "figure4": figure4,
    "figure5": figure5,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what is not trained yet and draws the figure that the first argument names."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.paper_figures", description=__doc__.splitlines()[0]
    )
    parser.add_argument("figure", choices=COMMANDS)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/figures")
    parser.add_argument(
        "--scale", choices=("cpu", "paper"), default="cpu", help="paper: needs a GPU"
    )
    parser.add_argument("--data_dir", default="", help="prepared TFDS directory")
    args = parser.parse_args(argv)
    COMMANDS[args.figure](args)


if __name__ == "__main__":
    entry.run(main)
