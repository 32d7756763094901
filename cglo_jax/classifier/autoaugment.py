"""AutoAugment's policy for CIFAR on the device: a function of one key and one image.

Cubuk et al. (2018) searched 25 pairs of operations on reduced CIFAR-10; an image gets one
pair. Pairs, probabilities and magnitudes on ten levels are those of torchvision's policy
"CIFAR10", and the operations are Pillow's, level for level, but AutoContrast, which is 1
higher where Pillow's float64 just misses a whole level. One thing differs on purpose: the
pixels that a geometric operation moves in are mid-grey, not black, as in the code of Cubuk
et al., which sets them to 0 after normalisation.

The code of the paper of cGLO has the same pairs but other magnitudes: it cuts the range
from the least to the largest value (-30 to 30 degrees, say) into ten bins and draws
from bin m, so a sign is not random but follows from m. It warps with cubic splines, shears
about the centre too, fills with black, and its ShearY shears along x.

Under `jax.vmap` every image passes through every operation, so they are made of few:
(1) a warp by nearest neighbours, in Pillow's 16.16 fixed point; (2) a look-up table per
channel; (3) a blend with a degenerate image. Each operation is one of them and leaves the
other two at the identity. What does not depend on pixels is computed on the host.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cglo_jax.data import dataset

FILL = 128  # level of the pixels that a geometric operation moves in

# (operation, probability, level of magnitude 0 to 9), twice; level 0 if it has none.
POLICY = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)

# Operations that depend on the image beyond one pixel; the others are all in `Operation`.
_NONE, _AUTOCONTRAST, _EQUALIZE, _CONTRAST, _COLOR, _SHARPNESS = range(6)
_KINDS = {
    "AutoContrast": _AUTOCONTRAST,
    "Equalize": _EQUALIZE,
    "Contrast": _CONTRAST,
    "Color": _COLOR,
    "Sharpness": _SHARPNESS,
}


class Operation(NamedTuple):
    """An operation of known magnitude, as `apply` takes it.

    Attributes:
      kind: int32 [], which of _KINDS, or _NONE.
      matrix: int32 [2, 3], gives the (column, row) that the pixel in row y and column x is
        taken from as matrix @ (x, y, 1), in units of 2**-16 pixels.
      table: int32 [256], level after level before.
      factor: float32 [], 1 keeps the image, 0 gives the degenerate image.
    """

    kind: np.ndarray | jax.Array
    matrix: np.ndarray | jax.Array
    table: np.ndarray | jax.Array
    factor: np.ndarray | jax.Array


def create_operation(
    name: str, level: int, sign: int, height: int, width: int
) -> Operation:
    """Looks up a magnitude and computes what depends on it and the image's size.

    Args:
      name: One of the operations in POLICY.
      level: Of magnitude, 0 to 9.
      sign: -1 or 1, of the operations that can go two ways.
      height: Of the image, in pixels.
      width: Of the image, in pixels.

    Raises:
      ValueError: There is no such operation.
    """
    levels = np.arange(256)
    matrix, table, factor = np.eye(2, 3), levels, 1.0
    match name:
        case "ShearY":
            matrix[1, 0] = sign * 0.3 * level / 9
        case "TranslateX":
            matrix[0, 2] = -sign * math.trunc(150 / 331 * width * level / 9)
        case "TranslateY":
            matrix[1, 2] = -sign * math.trunc(150 / 331 * height * level / 9)
        case "Rotate":
            matrix = _rotation(sign * 30 * level / 9, height, width)
        case "Posterize":  # clears the lowest bits, none to four
            table = levels & ~((1 << round(4 * level / 9)) - 1)
        case "Solarize":
            table = np.where(levels < 255 * (9 - level) / 9, levels, 255 - levels)
        case "Invert":
            table = 255 - levels
        case "Brightness" | "Contrast" | "Color" | "Sharpness":
            factor = 1 + sign * 0.9 * level / 9
        case "AutoContrast" | "Equalize":
            pass  # no magnitude
        case _:
            raise ValueError(f"there is no operation {name!r}")
    return Operation(
        kind=np.int32(_KINDS.get(name, _NONE)),
        matrix=_to_fixed_point(matrix),
        table=table.astype(np.int32),
        factor=np.float32(factor),
    )


def _rotation(degrees: float, height: int, width: int) -> np.ndarray:
    """A counter-clockwise turn about the centre: where pixels come from, float64 [2, 3]."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])
    centre = np.array([width / 2, height / 2])
    return np.column_stack([turn, centre - turn @ centre])


def _to_fixed_point(matrix: np.ndarray) -> np.ndarray:
    """From coordinates, pixel centres at .5, to indices in units of 2**-16; int32 [2, 3]."""
    at_centres = matrix @ np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.floor(at_centres * 65536 + 0.5).astype(np.int32)


@functools.cache
def _policy(height: int, width: int) -> tuple[Operation, np.ndarray]:
    """-> operations [pair, 2, sign], leaves stacked, and probabilities float32 [pair, 2]."""
    operations = [
        create_operation(name, level, sign, height, width)
        for pair in POLICY
        for name, _, level in pair
        for sign in (-1, 1)
    ]

    def stack(*leaves: np.ndarray) -> np.ndarray:
        return np.stack(leaves).reshape(len(POLICY), 2, 2, *leaves[0].shape)

    probabilities = [[p for _, p, _ in pair] for pair in POLICY]
    return jax.tree.map(stack, *operations), np.array(probabilities, np.float32)


def _warp(levels: jax.Array, matrix: jax.Array) -> jax.Array:
    """Takes every pixel from where `matrix` says, FILL from outside."""
    height, width, _ = levels.shape
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None]
    column, row = ((m[0] * x + m[1] * y + m[2]) >> 16 for m in matrix)  # [H, W]
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    taken = levels[row.clip(0, height - 1), column.clip(0, width - 1)]
    return jnp.where(inside[..., None], taken, FILL)


def _stretched(counts: jax.Array) -> jax.Array:
    """AutoContrast: stretches the levels in use to 0 to 255; histogram -> table [256]."""
    used = counts > 0
    low, high = jnp.argmax(used), 255 - jnp.argmax(used[::-1])
    levels = jnp.arange(256)
    stretched = 255 * (levels - low) // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched.clip(0, 255), levels)


def _equalized(counts: jax.Array) -> jax.Array:
    """Equalize: makes all levels about equally frequent; histogram -> table [256]."""
    last = counts[255 - jnp.argmax(counts[::-1] > 0)]
    step = (counts.sum() - last) // 255
    below = jnp.cumsum(counts) - counts
    equalized = (step // 2 + below) // jnp.maximum(step, 1)
    return jnp.where(step > 0, equalized.clip(0, 255), jnp.arange(256))


def _table(levels: jax.Array, operation: Operation) -> jax.Array:
    """The look-up table of each channel, int32 [256, C]."""
    channels = levels.shape[-1]
    pixels = levels.reshape(-1, channels)
    counts = jnp.zeros((256, channels), jnp.int32)
    counts = counts.at[pixels, jnp.arange(channels)[None]].add(1)
    per_channel = functools.partial(jax.vmap, in_axes=1, out_axes=1)
    table = jnp.broadcast_to(operation.table[:, None], counts.shape)
    table = jnp.where(
        operation.kind == _AUTOCONTRAST, per_channel(_stretched)(counts), table
    )
    return jnp.where(
        operation.kind == _EQUALIZE, per_channel(_equalized)(counts), table
    )


def _grey(levels: jax.Array) -> jax.Array:
    """Luma of ITU-R 601-2 in Pillow's fixed point, [H, W, 1]."""
    if levels.shape[-1] == 1:
        return levels
    red, green, blue = jnp.split(levels, 3, axis=-1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _smooth(levels: jax.Array) -> jax.Array:
    """Pillow's SMOOTH: 3x3 means, the middle weighing 5; the outermost pixels are kept."""
    rows = levels[:-2] + levels[1:-1] + levels[2:]
    sums = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * levels[1:-1, 1:-1]
    return levels.at[1:-1, 1:-1].set((2 * sums + 13) // 26)  # rounded


def _degenerate(levels: jax.Array, kind: jax.Array) -> jax.Array:
    """What `factor` 0 gives: the mean grey, grey or smooth image, or else black."""
    grey = _grey(levels)
    mean = (2 * grey.sum() + grey.size) // (2 * grey.size)  # rounded
    image = jnp.where(kind == _CONTRAST, mean, jnp.zeros_like(levels))
    image = jnp.where(kind == _COLOR, grey, image)
    return jnp.where(kind == _SHARPNESS, _smooth(levels), image)


def _blend(levels: jax.Array, kind: jax.Array, factor: jax.Array) -> jax.Array:
    """Moves from the degenerate image (factor 0) to `levels` (1) and beyond."""
    base = _degenerate(levels, kind)
    # This clip changes nothing but forbids a fused multiply-add: Pillow rounds in between.
    change = (factor * (levels - base)).clip(-512, 512)
    return (base + change).clip(0, 255).astype(jnp.int32)  # truncated, as in Pillow


def apply(levels: jax.Array, operation: Operation) -> jax.Array:
    """Applies one operation.

    Args:
      levels: int32 [H, W, C], values 0 to 255; C is 1 or 3, H and W are at least 3.
      operation: Leaves may be traced; made for this height and width.

    Returns:
      int32 [H, W, C].
    """
    levels = _blend(levels, operation.kind, operation.factor)
    levels = _warp(levels, operation.matrix)
    table = _table(levels, operation)
    flat = levels.reshape(-1, levels.shape[-1])
    return jnp.take_along_axis(table, flat, axis=0).reshape(levels.shape)


def autoaugment(key: jax.Array, x: jax.Array) -> jax.Array:
    """Applies a random pair of POLICY, each of its operations with its probability.

    Args:
      key: PRNG key.
      x: Image float32 [H, W, C] in [-1, 1], C = 1 or 3; rounded to 256 levels first.

    Returns:
      float32 [H, W, C], `data.dataset.to_float` of levels 0 to 255.
    """
    key_pair, key_apply, key_sign = jax.random.split(key, 3)
    operations, probabilities = jax.tree.map(jnp.asarray, _policy(*x.shape[:2]))
    pair = jax.random.randint(key_pair, (), 0, len(POLICY))
    applied = jax.random.bernoulli(key_apply, probabilities[pair])  # [2]
    sign = jax.random.bernoulli(key_sign, shape=(2,)).astype(jnp.int32)
    chosen = jax.tree.map(lambda leaf: leaf[pair, jnp.arange(2), sign], operations)

    def step(levels: jax.Array, inputs: tuple[Operation, jax.Array]):
        operation, applied = inputs
        return jnp.where(applied, apply(levels, operation), levels), None

    levels = jnp.round((x + 1) * 127.5).clip(0, 255).astype(jnp.int32)
    levels, _ = jax.lax.scan(step, levels, (chosen, applied))
    return dataset.to_float(levels)
