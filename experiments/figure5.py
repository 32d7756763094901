"""Figure 5: new images between two reconstructed ones of CIFAR-100, 10 images per class.

    python -m experiments.figure5 --data_dir=DIR                   # 10 of the classes
    python -m experiments.figure5 --scale=paper --data_dir=DIR     # all, on a GPU

At the scale of a CPU it shares its cGLO with Figure 4: some minutes on two cores.
"""

import jax
import numpy as np
from PIL import Image

from cglo_jax.data import dataset as data
from cglo_jax.report import figures
from cglo_jax.stages import sample
from experiments import entry, trained

ROWS = 10  # classes


def draw(dataset: data.Dataset, model: sample.Restored) -> Image.Image:
    """Walks from the first image of a class to its second, with one draw of noise per row."""
    members = model.sampler.classes.members
    shown = np.linspace(0, len(members) - 1, ROWS).round().astype(int)
    first, second = members[shown, 0], members[shown, 1]
    key = jax.random.key(0)
    images, t = sample.generate_walks(model, key, first, second)
    names = [dataset.class_names[dataset.labels[i]] for i in first]
    return figures.interpolation_grid(images, t, names)


def main() -> None:
    """Trains the cGLO if it is not there and draws the figure."""
    args = trained.parse(__doc__)
    config = trained.cifar100_config(args.scale, args.data_dir)
    run = trained.train_cglo(config, args.workdir / args.scale / "cifar100")
    trained.save(draw(*run), f"figure5_{args.scale}.png")


if __name__ == "__main__":
    entry.run(main)
