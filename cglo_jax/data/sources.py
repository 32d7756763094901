"""What every source of images has in common, and the embedded digits.

A source knows the ids and labels of a whole split and reads only the images asked for.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cglo_jax.data.colours import DEFAULT, Conversion

_BAND = 1 << 20  # pixels that are hashed at once
_DIGITS_TEST = 797  # of the 1797 digits; the other 1000 are to train on

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Source:
    """A split of a data set before any image is chosen: everything but the pixels.

    Attributes:
      ids: n content hashes, unique within the split: of the pixels, or of the file's bytes
        where the pixels depend on the decoder (JPEG), so the same on every machine.
      labels: int [n], 0 to K - 1, -1 = unknown.
      read: (positions, use) -> what `use` returns for each image, in the order of `positions`. Images
        have any size and one mode, "L" or "RGB". `use` runs as soon as an image is decoded, on
        several threads, and few images are held at once: photos take 36 MB each.
      eligible: bool [n], which images may become labelled training images; None = all.
    """

    ids: list[str]
    labels: np.ndarray
    read: Callable[[Sequence[int], Callable[[Image.Image], T]], list[T]]
    eligible: np.ndarray | None = None


class Splits(NamedTuple):
    """A data set: what to train on, what to test on, and what to print about it.

    Attributes:
      notes: one line each, to be printed before training.
      skipped: "file: why" for each file that is not used.
      test_name: which images the test images are, in words.
      conversion: how files became these images; a classifier reads later images in the same way.
      near: id -> (group, file) of each image that is a near copy of the others in its group.
    """

    class_names: tuple[str, ...]
    train: Source
    test: Source
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    test_name: str = "test"
    conversion: Conversion = DEFAULT
    near: Mapping[str, tuple[int, str]] = MappingProxyType({})


def keep_classes(source: Source, kept: np.ndarray) -> Source:
    """Keeps the images of the classes `kept`, int [K], renumbered, and the images of unknown class."""
    renumbered = {int(old): new for new, old in enumerate(kept)} | {-1: -1}
    labels = source.labels.tolist()
    positions = [i for i, label in enumerate(labels) if label in renumbered]

    def read(chosen: Sequence[int], use: Callable[[Image.Image], T]) -> list[T]:
        return source.read([positions[i] for i in chosen], use)

    return Source(
        ids=[source.ids[i] for i in positions],
        labels=np.array([renumbered[labels[i]] for i in positions], np.int64),
        read=read,
        eligible=None if source.eligible is None else source.eligible[positions],
    )


def rank_ids(ids: Sequence[str], seed: int, purpose: str) -> np.ndarray:
    """Orders ids by sha256("seed/purpose/id"): int [n], positions, the same everywhere."""
    digests = [_hash_id(i, seed, purpose) for i in ids]
    return np.array(sorted(range(len(ids)), key=digests.__getitem__), np.int64)


def draw(id_: str, seed: int, purpose: str) -> float:
    """Draws a number from [0, 1], sha256("seed/purpose/id") / 2**256; in the order of `rank_ids`."""
    return int.from_bytes(_hash_id(id_, seed, purpose)) / 2**256


def _hash_id(id_: str, seed: int, purpose: str) -> bytes:
    return hashlib.sha256(f"{seed}/{purpose}/{id_}".encode()).digest()


def make_unique(hashes: Iterable[str]) -> list[str]:
    """Returns the hashes, with suffixes -2, -3 ... where one occurs again, so that ids are unique."""
    seen: dict[str, int] = {}
    ids = []
    for h in hashes:
        seen[h] = seen.get(h, 0) + 1
        ids.append(h if seen[h] == 1 else f"{h}-{seen[h]}")
    return ids


def hash_pixels(image: np.ndarray) -> str:
    """Hashes a uint8 image, [H, W] or [H, W, C], to 32 hexadecimal digits."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:32]


def hash_image(image: Image.Image) -> str:
    """Hashes an image to the digits that `hash_pixels` returns, by bands of rows, to save memory."""
    width, height = image.size
    shape = (height, width, *([len(image.getbands())] if image.mode != "L" else []))
    digest, rows = hashlib.sha256(repr(shape).encode()), max(1, _BAND // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        digest.update(band.tobytes())
    return digest.hexdigest()[:32]


def read_digits(fields: ConfigDict) -> Splits:
    """Opens scikit-learn's 1797 hand-written digits, 8x8 grey; which are test images never changes."""
    from sklearn.datasets import load_digits  # a second to import

    del fields
    bunch = load_digits()
    # [n, 8, 8]; scikit-learn's values are 0 to 16.
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    ids = make_unique(map(hash_pixels, pixels))

    def source(positions: np.ndarray) -> Source:
        def read(chosen: Sequence[int], use: Callable[[Image.Image], T]) -> list[T]:
            return [use(Image.fromarray(pixels[positions[i]])) for i in chosen]

        return Source([ids[i] for i in positions], bunch.target[positions], read)

    order = rank_ids(ids, 0, "digits")
    names = tuple(str(n) for n in bunch.target_names)
    train, test = np.sort(order[_DIGITS_TEST:]), np.sort(order[:_DIGITS_TEST])
    return Splits(names, source(train), source(test))
