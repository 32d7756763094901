"""Figure 4: training images above their reconstructions, 10 labelled images per class.

    python -m experiments.figure4 --data_dir=DIR                   # 10 classes of CIFAR-100
    python -m experiments.figure4 --scale=paper --data_dir=DIR     # CUB-200, on a GPU

At the scale of a CPU it shares its cGLO with Figure 5: some minutes on two cores.
"""

import jax
import numpy as np
from PIL import Image

from cglo_jax.data import dataset as data
from cglo_jax.stages import sample
from configs import cub
from experiments import entry, trained

SHOWN = 16  # images


def draw(dataset: data.Dataset, model: sample.Restored) -> Image.Image:
    """Draws images of classes spread over the list, one or two of each."""
    last = dataset.num_labelled - 1
    shown = np.linspace(0, last, SHOWN).round().astype(int)  # ordered by class
    key = jax.random.key(0)
    return sample.draw_reconstructions(dataset, model, key, shown)


def main() -> None:
    """Trains the cGLO if it is not there and draws the figure."""
    args = trained.parse(__doc__)
    if args.scale == "paper":
        config, name = cub.get_config("10"), "cub"
        config.dataset.data_dir = args.data_dir
    else:
        config, name = trained.cifar100_config(args.scale, args.data_dir), "cifar100"
    run = trained.train_cglo(config, args.workdir / args.scale / name)
    trained.save(draw(*run), f"figure4_{args.scale}.png")


if __name__ == "__main__":
    entry.run(main)
