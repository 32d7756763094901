"""Pretrained networks: verified weight files -> Flax params."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cglo_jax.errors import UserError
from cglo_jax.models import resnet, vgg
from cglo_jax.pretrained import cache, files
from cglo_jax.pretrained.cache import PINNED
from cglo_jax.pretrained.files import Shape, Stamp, sha256_of, stamp_of

NAMES = {
    "vgg16": "VGG-16",
    "vgg16_conv5_3": "VGG-16",
    "resnet50": "ResNet-50",
    "resnet18": "ResNet-18",
}
_LINE_LIMIT = 200  # characters of a description in a file's metadata


class Origin(NamedTuple):
    """Where weights are from.

    Attributes:
      digest: what resuming compares.
      text: one line that describes them.
    """

    digest: str
    text: str

    @property
    def external(self) -> bool:
        """Whether the weights were trained on other images."""
        return self not in (NO_WEIGHTS, RANDOM)


NO_WEIGHTS, RANDOM = Origin("none", "none"), Origin("random", "random")


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where weights come from.

    Attributes:
        name: the network's name.
        origin: repository@commit, or the file's name without its directory.
        trained_on: the data, 'not stated' if it is not in the file.
        licence: the weights' licence, 'not stated' if it is not in the file.
        sha256: of the file they were loaded from, in hex.
        digest: the tensors' digest, see `digest_of`; the same from any file that has them.
    """

    name: str
    origin: str
    trained_on: str
    licence: str
    sha256: str
    digest: str

    def describe(self) -> str:
        """Returns one line that describes the weights."""
        return (
            f"{self.name} from {self.origin} (trained on: {self.trained_on}; "
            f"licence: {self.licence}; sha256 {self.sha256})"
        )

    @property
    def summary(self) -> Origin:
        """The digest and description that checkpoints and results keep."""
        return Origin(self.digest, self.describe())


def vgg16_with(taps: Sequence[str]) -> str:
    """Returns which of "vgg16" and "vgg16_conv5_3" has the convolutions that features need.

    Args:
        taps: names of features, see models.vgg.VGG16.
    """
    return "vgg16_conv5_3" if "conv5_3" in vgg.layers_until(taps) else "vgg16"


def _vgg16_indices() -> dict[str, int]:
    """Returns {convolution of models.vgg.VGG16: its index in torchvision's `features`}."""
    indices, index = {}, 0
    for name in vgg.LAYERS:
        if name.startswith("pool"):
            index += 1
        else:
            indices[name] = index
            index += 2  # the convolution and its ReLU
    return indices


def vgg16_shapes(last: str = "conv5_2") -> dict[str, Shape]:
    """Returns {torchvision's name: shape} of the VGG-16 up to a convolution, [O, I, 3, 3]."""
    shapes, channels = {}, 3
    widths = [width for block in vgg.BLOCK_WIDTHS.values() for width in block]
    for (name, index), width in zip(_vgg16_indices().items(), widths, strict=True):
        shapes[f"features.{index}.weight"] = (width, channels, 3, 3)
        shapes[f"features.{index}.bias"] = (width,)
        channels = width
        if name == last:
            break
    return shapes


def resnet50_shapes() -> dict[str, Shape]:
    """Returns {torchvision's name: shape} of the ResNet-50 without its `fc`."""
    return _resnet_shapes(
        resnet.BLOCKS, lambda width: ((width, 1), (width, 3), (4 * width, 1))
    )


def resnet18_shapes() -> dict[str, Shape]:
    """Returns {torchvision's name: shape} of the ResNet-18 without its `fc`."""
    return _resnet_shapes(resnet.BLOCKS_18, lambda width: ((width, 3), (width, 3)))


def _resnet_shapes(
    blocks: Sequence[int], convolutions: Callable[[int], Sequence[tuple[int, int]]]
) -> dict[str, Shape]:
    """Returns the shapes of a ResNet.

    Args:
        blocks: how many there are in layer1 to layer4.
        convolutions: width of a block -> (channels, side of the kernel) of its convolutions.
    """
    convs = {"conv1": ("bn1", (64, 3, 7, 7))}  # name -> (batch norm after it, kernel)
    channels = 64
    for layer, count in enumerate(blocks, 1):
        for i in range(count):
            at, first = f"layer{layer}.{i}.", channels
            for j, (outputs, side) in enumerate(convolutions(32 * 2**layer), 1):
                kernel = (outputs, channels, side, side)
                convs[f"{at}conv{j}"] = f"{at}bn{j}", kernel
                channels = outputs
            if i == 0 and (layer > 1 or first != channels):
                kernel = (channels, first, 1, 1)
                convs[f"{at}downsample.0"] = f"{at}downsample.1", kernel
    shapes = {}
    for name, (norm, kernel) in convs.items():
        shapes[f"{name}.weight"] = kernel
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{leaf}"] = kernel[:1]
    return shapes


SHAPES = {
    "vgg16": vgg16_shapes,
    "vgg16_conv5_3": functools.partial(vgg16_shapes, "conv5_3"),
    "resnet50": resnet50_shapes,
    "resnet18": resnet18_shapes,
}


def load(network: str, source: str) -> tuple[dict[str, np.ndarray], Provenance]:
    """Loads the tensors that a network needs.

    Args:
        network: 'vgg16' (up to conv5_2), 'vgg16_conv5_3' (up to there), 'resnet50' or
            'resnet18' (without the last layer).
        source: 'imagenet', fetched once and cached (not of 'resnet18'), or the path of a
            .safetensors file.

    Returns:
        ({torchvision's name: float32 tensor, read-only, of the shape in `SHAPES`, kernels
        [O, I, H, W]}, where they come from). The last
        results are kept in memory: an unchanged file is read and hashed once.

    Raises:
        UserError: the weights cannot be fetched, or the file is not what is expected.
    """
    if source == "imagenet" and network not in PINNED:
        raise UserError(
            f"ImageNet's weights of a {NAMES[network]} are not known here: give a .safetensors "
            "file with torchvision's names in place of imagenet, or random"
        )
    if source == "imagenet":
        path = cache.get(PINNED[network], SHAPES[network]())
    else:
        path = Path(os.path.expanduser(source)).absolute()
    tensors, provenance = _load(network, path, source == "imagenet", stamp_of(path))
    return dict(tensors), provenance


@functools.lru_cache(maxsize=len(NAMES))
def _load(
    network: str, path: Path, published: bool, stamp: Stamp | None
) -> tuple[dict[str, np.ndarray], Provenance]:
    """Reads a file that has this `stamp`; `published`: whether it is one of `cache`'s."""
    tensors, metadata = files.read(path, SHAPES[network]())
    for tensor in tensors.values():
        tensor.setflags(write=False)
    pinned, sha256 = PINNED.get(network), sha256_of(path)
    if published:  # another process may have written the same bytes again
        intact = cache.is_intact(path, pinned)
    else:
        intact = stamp_of(path) == stamp
    if not intact:
        raise UserError(f"{path} changed while it was read: start this again")
    if published or (pinned and sha256 == pinned.sha256):
        origin, trained_on, licence = pinned.origin, pinned.trained_on, pinned.licence
    else:
        origin, trained_on = path.name, metadata.get("trained_on", "")
        licence = metadata.get("licence") or metadata.get("license", "")
    words = (_one_line(text) or "not stated" for text in (origin, trained_on, licence))
    return tensors, Provenance(NAMES[network], *words, sha256, digest_of(tensors))


def digest_of(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns the sha256, in hex, of float32 tensors [...]: their names, shapes and values.

    Equal tensors have the same digest, whatever file, order or stored type they were read from.
    """
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {list(tensor.shape)}\n".encode())
        sha256.update(tensor.astype("<f4").tobytes())
    return sha256.hexdigest()


def _one_line(text: str) -> str:
    """Returns a text of a file's metadata as one line of at most 200 printable characters."""
    words = " ".join(text.split())
    return "".join(c for c in words if c.isprintable())[:_LINE_LIMIT]


def _to_hwio(kernel: np.ndarray) -> np.ndarray:
    """Reorders a convolution's kernel, [O, I, H, W] -> [H, W, I, O]."""
    return np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))


def vgg16_params(tensors: Mapping[str, np.ndarray]) -> dict:
    """Converts the tensors of `load('vgg16', ...)` to params of models.vgg.VGG16.

    Returns:
        {'conv1_1': {'kernel': [3, 3, I, O], 'bias': [O]}, ..., 'conv5_2' or 'conv5_3': ...}.
    """
    return {
        layer: {
            "kernel": _to_hwio(tensors[f"features.{index}.weight"]),
            "bias": tensors[f"features.{index}.bias"],
        }
        for layer, index in _vgg16_indices().items()
        if f"features.{index}.weight" in tensors
    }


def resnet_variables(tensors: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
    """Converts the tensors of `load('resnet50', ...)` to variables of that ResNet.

    Returns:
        (params without 'head', batch_stats): 'layer2.0.downsample.1.running_var' of
        torchvision is batch_stats['layer2_0']['downsample_bn']['var'].
    """
    leaves = {"weight": "scale", "running_mean": "mean", "running_var": "var"}
    modules = {"downsample.0": "downsample_conv", "downsample.1": "downsample_bn"}
    params, batch_stats = {}, {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if module.startswith("layer"):
            layer, block, module = module.split(".", 2)
            path = (f"{layer}_{block}", modules.get(module, module))
        else:
            path = (module,)
        tree = batch_stats if leaf.startswith("running_") else params
        node = functools.reduce(lambda tree, key: tree.setdefault(key, {}), path, tree)
        if tensor.ndim == 4:
            node["kernel"] = _to_hwio(tensor)
        else:
            node[leaves.get(leaf, leaf)] = tensor
    return params, batch_stats
