"""Makes a folder of images to try configs/folder.py with: digits and CIFAR-100, of several kinds.

    python -m experiments.tools.make_folder --data_dir=DIR --out=runs/pictures
    python -m cglo_jax.main --config=configs/folder.py --config.dataset.path=runs/pictures

Three classes of hand-written digits (grey, 8x8) and seven of CIFAR-100 (colour, 32x32), 12 to 30
images each, as PNG, JPEG and with transparency, and two files that are no images.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from cglo_jax.config import defaults
from cglo_jax.data import dataset
from experiments.harness import entry

CIFAR = ("apple", "bicycle", "castle", "leopard", "rocket", "sunflower", "tractor")
DIGITS = (0, 1, 7)


def write_class(folder: pathlib.Path, images: np.ndarray) -> None:
    """Writes uint8 [n, H, W] or [n, H, W, 3] as PNG, as JPEG and with transparency, in turn."""
    folder.mkdir(parents=True)
    for i, image in enumerate(map(Image.fromarray, images)):
        if i % 3 == 0:
            image.convert("RGBA").save(folder / f"{i:02d}.png")
        elif i % 3 == 1:
            image.save(folder / f"{i:02d}.png")
        else:
            image.save(folder / f"{i:02d}.jpg", quality=95)


def main() -> None:
    """Writes the folder, which must not be there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="", help="prepared TFDS directory")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    fields = defaults.get_config().dataset
    fields.update(name="cifar100", data_dir=args.data_dir, shots=30)
    cifar, _ = dataset.load(fields)
    digits = load_digits()
    for number, name in enumerate(CIFAR):
        images = cifar.images[cifar.labels == cifar.class_names.index(name)]
        write_class(args.out / name, images[: 12 + 3 * number])
    for digit in DIGITS:
        images = np.round(digits.images[digits.target == digit][:20] * (255 / 16))
        write_class(args.out / f"digit {digit}", images.astype(np.uint8))
    (args.out / "apple" / "notes.txt").write_text("These are apples.\n")
    (args.out / "apple" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")


if __name__ == "__main__":
    entry.run(main)
