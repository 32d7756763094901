"""Near copies: images saved again, resized, brightened or slightly cropped, found by what they show.

A perceptual hash that is compared by correlation: the low frequencies of a thumbnail's brightness,
weighted so that each counts about as much, over slight crops of either image. Two images are near
copies if the correlation is at least .93, and colours and contrast are about the same.

Measured, flowers17 (1,360 photographs): 70 pairs are found, and all 70 show the same photograph
(the data set has them); the greatest correlation of two different photographs is .89. Of 200 photographs
saved as JPEG of quality 30 or 10, at half or a fifth of their size, cropped by 1, 3 or 5 % on every side, by
5 or 8 % on one, brightened by 1.3, darkened by .7, with contrast times 1.3, squashed to a square,
or cropped, brightened, resized and saved at quality 50, 2,799 of 2,800 are found;
cropped by 10 % on every side, 2 %. In 10,000 images of CIFAR-100 22 pairs are found; in 300 icons
of four plain shapes of any colour, place and size, 51 pairs that nearly agree in shape, colour, place and
size. Digits resemble each other too much: `find_pairs` notices it by the many pairs whose correlation is
just too low, and gives up. 10,000 images take about 5 s on two cores.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

_SIDE = 32  # of thumbnails
_COARSE = 8  # side of the thumbnail of colours
_SMALLEST = 16  # pixels of a short side: with fewer, different images look alike
# Least correlation of near copies: the first, or a larger one where different images are nearly as alike
_LEAST = (0.93, 0.95, 0.97, 0.98, 0.99)
_BELOW = 0.05  # how far below the least correlation other pairs are counted
_PLAIN = 2.0  # grey levels: an image that varies by less is not compared
_NEIGHBOURS = 8  # candidates for each image, which are compared closely
_ROUGHLY = 0.6  # least coarse correlation of candidates
MOST = 30_000  # images: the time grows with the square
_BLOCK = 1024

# Shares of the sides that are cut off: left, top, right, bottom.
_Box = tuple[float, float, float, float]


def describe(image: Image.Image) -> np.ndarray:
    """Returns the descriptor of an RGB image: uint8 [1152], zeros if it is too small.

    It has the 32 x 32 thumbnail's brightness, then 8 x 8 of Cb and of Cr.
    """
    if min(image.size) < _SMALLEST:
        return np.zeros(_SIDE**2 + 2 * _COARSE**2, np.uint8)
    # Not BOX, whose aliases differ with the size: noise that was resized would not be found.
    method = Image.Resampling.BICUBIC
    thumbnail = image.resize((_SIDE, _SIDE), method, reducing_gap=3.0)
    brightness, *colours = thumbnail.convert("YCbCr").split()
    coarse = [c.reduce(_SIDE // _COARSE) for c in colours]
    parts = [np.asarray(one, np.uint8).ravel() for one in (brightness, *coarse)]
    return np.concatenate(parts)


def find_pairs(looks: Sequence[np.ndarray]) -> np.ndarray | None:
    """Finds near copies among n images; each is compared with the few images that it resembles most.

    Args:
      looks: n descriptors uint8 [1152], see `describe`; n is at most `MOST`.

    Returns:
      int [m, 2], positions i < j, sorted; None if different images are as alike as near copies.
    """
    looks = np.stack(looks) if len(looks) else np.zeros((0, 1), np.uint8)
    grey = looks[:, : _SIDE**2].reshape(-1, _SIDE, _SIDE)
    usable = np.flatnonzero(grey.std((1, 2), dtype=np.float32) >= _PLAIN)
    grey = grey[usable]
    pairs = _find_candidates(_embed(grey, 8, 0.5))
    if not len(pairs):
        return pairs
    colours = looks[usable, _SIDE**2 :].astype(np.float32) - 128
    alike = _correlate(grey, pairs) * _agree(grey, colours, pairs)
    for least in _LEAST:
        found = alike >= least
        if found.sum() >= ((alike < least) & (alike >= least - _BELOW)).sum():
            return usable[pairs[found]]
    return None


def group(pairs: np.ndarray) -> dict[int, int]:
    """Joins pairs that share an image to groups.

    Args:
      pairs: int [m, 2], positions i < j.

    Returns:
      Position -> the least position of its group, for every position in `pairs`.
    """
    first: dict[int, int] = {}

    def find(i: int) -> int:
        while first.setdefault(i, i) != i:
            first[i] = i = first[first[i]]
        return i

    for i, j in pairs.tolist():
        a, b = sorted((find(i), find(j)))
        first[b] = a
    return {i: find(i) for i in sorted(first)}


def _find_candidates(embedded: np.ndarray) -> np.ndarray:
    """Returns pairs int [m, 2] of each of n images, unit vectors [n, d], and the few it resembles most."""
    n, found = len(embedded), set()
    count = min(_NEIGHBOURS, n - 1)
    for start in range(0, n if count > 0 else 0, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        similar = embedded[rows] @ embedded.T
        similar[rows - start, rows] = -2
        nearest = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        close = np.take_along_axis(similar, nearest, 1) > _ROUGHLY
        both = np.stack([np.repeat(rows, count), nearest.ravel()], 1)[close.ravel()]
        found.update(map(tuple, np.sort(both, 1).tolist()))
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def _correlate(grey: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Computes the greatest correlation float [m] of pairs of thumbnails [n, S, S], either one cropped."""
    i, j = pairs.T
    whole, best = _embed(grey), np.full(len(pairs), -1, np.float32)
    for box in _boxes():
        part = _embed(grey, box=box)
        for a, b in ((i, j), (j, i)):
            best = np.maximum(best, np.einsum("nd,nd->n", part[a], whole[b]))
    return best


def _agree(grey: np.ndarray, colours: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Returns for each pair whether contrast and colours are about the same: bool [m].

    Args:
      grey: uint8 [n, S, S].
      colours: float [n, d], chroma around 0.
      pairs: int [m, 2].
    """
    contrast = grey.std((1, 2), dtype=np.float32)[pairs]
    a, b = colours[pairs[:, 0]], colours[pairs[:, 1]]
    strength = np.maximum(np.abs(a).mean(1), np.abs(b).mean(1))
    same = np.abs(a - b).mean(1) <= 2 + 0.4 * strength
    return same & (contrast.min(1) >= 0.6 * contrast.max(1))


def _boxes() -> Iterator[_Box]:
    """Yields the crops that are tried: of all sides, of one and of two that meet."""
    for share in (0.0, 0.015, 0.03, 0.05, 0.08):
        yield (share,) * 4
    for share in (0.04, 0.08):
        for side in range(4):
            yield tuple(share if k == side else 0.0 for k in range(4))
    for sides in ((0, 1), (0, 3), (2, 1), (2, 3)):
        yield tuple(0.05 if k in sides else 0.0 for k in range(4))


def _embed(
    grey: np.ndarray, size: int = 16, power: float = 1.0, box: _Box = (0, 0, 0, 0)
) -> np.ndarray:
    """Computes unit vectors [n, size**2 - 1] of thumbnails uint8 [n, S, S], cropped.

    They are the lowest size x size frequencies without the mean, times frequency**power, about the
    inverse of how the frequencies of photographs fall.
    """
    left, top, right, bottom = box
    across, down = _waves(size, left, 1 - right), _waves(size, top, 1 - bottom)
    frequency = np.arange(size, dtype=np.float32)
    weights = np.hypot(frequency[:, None], frequency) ** power
    found = np.concatenate(
        [
            (down @ grey[k : k + _BLOCK].astype(np.float32) @ across.T) * weights
            for k in range(0, len(grey), _BLOCK)
        ]
        or [np.zeros((0, size, size), np.float32)]
    )
    vectors = found.reshape(-1, size**2)[:, 1:]
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, 1e-6)


@functools.cache
def _waves(size: int, low: float, high: float) -> np.ndarray:
    """Computes a DCT, float32 [size, S], of the share from `low` to `high` of a row of pixels."""
    middles = (np.arange(_SIDE) + 0.5) / _SIDE
    cosines = np.cos(np.pi * np.arange(size)[:, None] * middles)
    at = (low + middles * (high - low)) * _SIDE - 0.5
    left = np.clip(np.floor(at).astype(int), 0, _SIDE - 2)
    share = np.clip(at - left, 0, 1)
    linear = np.zeros((_SIDE, _SIDE))
    linear[np.arange(_SIDE), left] = 1 - share
    linear[np.arange(_SIDE), left + 1] = share
    return (cosines @ linear).astype(np.float32)
