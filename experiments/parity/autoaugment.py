"""AutoAugment's operations on the device against Pillow's.

    python -m experiments.parity.autoaugment       # half a minute

Applies every operation of the policy at all ten levels, in both directions, to made-up
images of 32 x 32 pixels, and prints how far the results are from Pillow's as a Markdown
table, then how long the whole augmentation of a batch takes.
"""

import argparse
import time

import jax
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from cglo_jax.classifier import autoaugment
from cglo_jax.data import dataset
from experiments.harness import entry

NAMES = sorted({name for pair in autoaugment.POLICY for name, _, _ in pair})
IMAGES = 32
BATCH = 128


def create_images(n: int, height: int, width: int, channels: int) -> np.ndarray:
    """Makes smooth noise of differing brightness and contrast, uint8 [n, H, W, C]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, -(-height // 4), -(-width // 4), channels))
    smooth = coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width]
    noisy = smooth + rng.normal(0, 12, smooth.shape)
    contrast, brightness = rng.uniform([[0.2], [0]], [[1], [90]], (2, n))
    noisy = noisy * contrast[:, None, None, None] + brightness[:, None, None, None]
    return noisy.clip(0, 255).astype(np.uint8)


def apply_pillow(name: str, level: int, sign: int, image: np.ndarray) -> np.ndarray:
    """Applies an operation of torchvision's policy with Pillow, filling with 128.

    Args:
      name: Of the operation.
      level: Of magnitude, 0 to 9.
      sign: -1 or 1.
      image: uint8 [H, W, C], C = 1 or 3.
    """
    height, width, channels = image.shape
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    signed = sign * np.linspace(0, 1, 10)[level]
    reach = 150 / 331 * signed

    def warp(*matrix: float) -> Image.Image:
        fill = (128,) * channels if channels > 1 else 128
        nearest, affine = Image.Resampling.NEAREST, Image.Transform.AFFINE
        return picture.transform(picture.size, affine, matrix, nearest, fillcolor=fill)

    match name:
        case "ShearY":
            result = warp(1, 0, 0, 0.3 * signed, 1, 0)
        case "TranslateX":
            result = warp(1, 0, -int(reach * width), 0, 1, 0)
        case "TranslateY":
            result = warp(1, 0, 0, 0, 1, -int(reach * height))
        case "Rotate":
            fill = (128,) * channels if channels > 1 else 128
            result = picture.rotate(30 * signed, fillcolor=fill)
        case "Posterize":
            result = ImageOps.posterize(picture, 8 - round(level * 4 / 9))
        case "Solarize":
            result = ImageOps.solarize(picture, np.linspace(255, 0, 10)[level])
        case "AutoContrast" | "Equalize" | "Invert":
            result = getattr(ImageOps, name.lower())(picture)
        case _:
            result = getattr(ImageEnhance, name)(picture).enhance(1 + 0.9 * signed)
    return np.asarray(result).reshape(image.shape)


def differences(name: str, images: np.ndarray) -> np.ndarray:
    """Compares an operation, at all levels and signs, with Pillow's.

    Args:
      name: Of the operation.
      images: uint8 [n, H, W, C].

    Returns:
      int [20, n, H, W, C], ours minus Pillow's, in levels of 256.
    """
    size = images.shape[1:3]
    settings = [(level, sign) for level in range(10) for sign in (-1, 1)]
    made = [autoaugment.create_operation(name, *pair, *size) for pair in settings]
    operations = jax.tree.map(lambda *leaves: np.stack(leaves), *made)
    ours = _apply(images.astype(np.int32), operations)
    pillow = [[apply_pillow(name, *pair, i) for i in images] for pair in settings]
    return np.asarray(ours) - np.array(pillow, int)


_apply = jax.jit(  # [n, H, W, C], [s] -> [s, n, H, W, C]
    jax.vmap(jax.vmap(autoaugment.apply, in_axes=(0, None)), in_axes=(None, 0))
)


def measure_time(channels: int) -> tuple[float, float]:
    """-> seconds to compile `autoaugment` for a batch, and to augment it, the median."""
    x = dataset.to_float(create_images(BATCH, 32, 32, channels))
    keys = jax.random.split(jax.random.key(0), BATCH)
    start = time.perf_counter()
    batched = jax.jit(jax.vmap(autoaugment.autoaugment)).lower(keys, x).compile()
    compiling, seconds = time.perf_counter() - start, []
    for _ in range(20):
        start = time.perf_counter()
        jax.block_until_ready(batched(keys, x))
        seconds.append(time.perf_counter() - start)
    return compiling, float(np.median(seconds))


def main() -> None:
    """Prints the table and the times."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(
        "| operation | largest difference | differing pixels | grey: largest | differing |"
        "\n|---|---|---|---|---|"
    )
    for name in NAMES:
        cells = []
        for channels in (3, 1):
            error = np.abs(differences(name, create_images(IMAGES, 32, 32, channels)))
            cells += [f"{error.max()}", f"{(error > 0).any(-1).mean():.3%}"]
        print("|", " | ".join([name, *cells]), "|")
    for channels in (3, 1):
        compiling, seconds = measure_time(channels)
        print(
            f"\n{BATCH} images of 32 x 32 x {channels}: {1e3 * seconds:.1f} ms on "
            f"{jax.default_backend()}, compiled in {compiling:.1f} s"
        )


if __name__ == "__main__":
    entry.run(main)
