"""What the figures share: their flags, and a cGLO that is trained if it is not there."""

import argparse
import pathlib

from ml_collections import ConfigDict
from PIL import Image

from cglo_jax.config import validation
from cglo_jax.data import dataset as data
from cglo_jax.inference import sampler
from cglo_jax.stages import sample, train
from cglo_jax.workdir import directory
from configs import cifar100

FIGURES = pathlib.Path(__file__).parent / "figures"


def parse(doc: str) -> argparse.Namespace:
    """Parses the flags of a figure, whose file has the docstring `doc`."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/figures")
    parser.add_argument(
        "--scale", choices=("cpu", "paper"), default="cpu", help="paper: needs a GPU"
    )
    parser.add_argument("--data_dir", default="", help="prepared TFDS directory")
    return parser.parse_args()


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
) -> tuple[data.Dataset, sample.Restored]:
    """Trains the cGLO of the first seed to its end, unless it is there.

    Returns:
      Its training images and itself.

    Raises:
      UserError: see `data.load` and `train.run`.
    """
    validation.validate(config)
    dataset, test_set = data.load(config.dataset)
    print(data.describe(dataset, test_set), flush=True)
    directory.create(config, workdir)
    seed = config.seeds[0]
    train.run(config, workdir, dataset, seed)
    return dataset, sampler.restore(config, workdir, dataset, seed)


def save(picture: Image.Image, name: str) -> None:
    """Saves a Pillow image to figures/ and says where."""
    FIGURES.mkdir(exist_ok=True)
    picture.save(FIGURES / name, optimize=True)
    print(FIGURES / name, flush=True)
