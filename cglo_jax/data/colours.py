"""How stored colours become sRGB: backgrounds of transparent images, bits of deep ones, profiles.

One `Conversion` holds for all images of a data set, and for the images that its classifiers see later.
"""

import functools
import io
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cglo_jax.config.values import NAMED_COLOURS, parse_colour

# What "auto" chooses from, the first that does.
BACKGROUNDS = (*NAMED_COLOURS.values(), "#c0c0c0", "#404040")
DEPTHS = (8, 10, 12, 14, 16)  # bits of the values that are stored with 16
_VISIBLE = (
    24  # of 255, by which a pixel must differ from the background in some channel
)
_LEAST = 0.02  # share of an image's pixels (but for nearly transparent ones) that must be visible
_CLEAR = 32  # of 255; a pixel of less alpha is nearly transparent and does not count
_TOLERATED = 0.05  # share of a class that may be hard to see on white
_EQUAL = 3  # of 255; a profile that moves every colour by less is sRGB
_BUILDING = threading.Lock()


class Conversion(NamedTuple):
    """How stored colours are read where files leave it open; the defaults are Pillow's.

    Attributes:
      background: "#rrggbb", the colour behind transparent images.
      bits: how many bits the values of images stored with 16 bits use.
      profiles: whether colours are converted by the ICC profile in a file.
    """

    background: str = NAMED_COLOURS["white"]
    bits: int = 16
    profiles: bool = False


DEFAULT = Conversion()


class Visibility:
    """Finds on which backgrounds an image cannot be seen, given its parts one by one.

    Attributes:
      anything: whether some pixel is not wholly transparent.
    """

    def __init__(self) -> None:
        self._content = 0  # pixels that are not nearly transparent
        self._visible = np.zeros(len(BACKGROUNDS), np.int64)
        self.anything = False

    def add(self, rgb: Image.Image, alpha: Image.Image) -> None:
        """Adds a part of the image: mode "RGB", and its alpha, mode "L" or "1"."""
        colours = np.asarray(rgb).astype(np.int16)
        share = np.asarray(alpha.convert("L"))
        self.anything |= bool(share.any())
        counted = share >= _CLEAR
        self._content += int(counted.sum())
        colours, share = colours[counted], share[counted].astype(np.int32)
        for i, background in enumerate(BACKGROUNDS):
            distance = np.abs(
                colours - np.array(parse_colour(background), np.int16)
            ).max(-1)
            visible = distance * share > _VISIBLE * 255
            self._visible[i] += int(visible.sum())

    def hidden_on(self) -> tuple[str, ...]:
        """Returns the backgrounds, "#rrggbb", that (nearly) all pixels of the image look like."""
        seen = self._visible >= max(1, _LEAST * self._content)
        return tuple(b for b, ok in zip(BACKGROUNDS, seen, strict=True) if not ok)


def choose_background(hidden_on: Mapping[int, Sequence[Sequence[str]]]) -> str:
    """Chooses what all transparent images are put on: white, unless a class vanishes on it.

    White remains if at most 5 % of each class cannot be seen on it; else it is the background
    whose worst class has the smallest share of images that cannot be seen.

    Args:
      hidden_on: label -> for each image of that class the backgrounds that it cannot be seen on (none
        if it is opaque).

    Returns:
      One of `BACKGROUNDS`.
    """

    def worst(background: str) -> float:
        return max(
            (
                sum(background in hidden for hidden in images) / len(images)
                for images in hidden_on.values()
            ),
            default=0.0,
        )

    if worst(BACKGROUNDS[0]) <= _TOLERATED:
        return BACKGROUNDS[0]
    return min(BACKGROUNDS, key=worst)  # the first of equals


def choose_bits(largest: int) -> int:
    """Returns the fewest bits, one of `DEPTHS`, that hold the value `largest`, 0 to 65535."""
    return next(bits for bits in DEPTHS if largest < 1 << bits)


class Profile(NamedTuple):
    """An ICC profile, and the transform to sRGB that it stands for.

    Attributes:
      state: "" if it changes nothing (it is sRGB's), "converted", or "unusable".
      mode: the mode of images that `transform` takes: "RGB", "L" or "CMYK".
      transform: the transform to sRGB of `PIL.ImageCms`; None if the profile is unusable.
    """

    state: str
    mode: str = ""
    transform: Any = None


# A folder has few profiles, and building a transform takes milliseconds.
@functools.lru_cache(maxsize=64)
def read_profile(content: bytes, mode: str) -> Profile:
    """Reads an ICC profile for images of a mode ("RGB", "L" or "CMYK").

    Without littlecms no profile is usable.
    """
    try:
        from PIL import ImageCms

        with _BUILDING:  # transforms themselves may be shared by threads
            profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
            space = profile.profile.xcolor_space.strip()
            takes = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space, "")
            if takes != mode and (takes, mode) != ("RGB", "L"):
                return Profile("unusable")
            transform = ImageCms.buildTransform(
                profile,
                ImageCms.createProfile("sRGB"),
                takes,
                "RGB",
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        return Profile(
            "" if _keeps_colours(transform, takes) else "converted", takes, transform
        )
    except Exception:  # noqa: BLE001 - whatever is wrong with it, the image is there
        return Profile("unusable")


def apply_profile(image: Image.Image, profile: Profile) -> Image.Image:
    """Converts an image of mode "RGB", "L" or "CMYK" to sRGB, mode "RGB"."""
    from PIL import ImageCms

    if image.mode != profile.mode:  # a grey image with a colour profile
        image = image.convert(profile.mode)
    return ImageCms.applyTransform(image, profile.transform)


def _keeps_colours(transform: Any, mode: str) -> bool:
    from PIL import ImageCms

    if mode == "CMYK":
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(18, -1, 3)
    before = grid if mode == "RGB" else grid[..., 0]
    after = ImageCms.applyTransform(Image.fromarray(before), transform)
    reference = np.asarray(Image.fromarray(before).convert("RGB")).astype(int)
    return bool(np.abs(reference - np.asarray(after)).max() < _EQUAL)
