"""ImageNet's weights: fetched once from a pinned commit, then kept in a folder.

A file that is downloaded whole is checked against its pinned sha256. Of VGG-16 only the
convolutions are fetched, 49 of 553 MB, which the digest of the whole file cannot check: the
part is trusted because of TLS and the pinned commit, after its layout, types, shapes and
sizes were checked. `full=True` downloads the whole file, checks the pinned sha256 and keeps
the same tensors, in the same bytes. A kept file is compared with its own digest when a
process first uses it, and again if it has changed since. That finds damage; it does not
protect against somebody who may write to the folder.
"""

import http.client
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cglo_jax.errors import UserError
from cglo_jax.files import download, storage
from cglo_jax.files.download import Archive
from cglo_jax.pretrained import files, remote
from cglo_jax.pretrained.files import Shape, sha256_of
from cglo_jax.process.setup import cache_dir

HOST = "https://huggingface.co"


class Pinned(NamedTuple):
    """A published weight file, by commit and digest."""

    network: str
    file: str  # its name in the cache
    repo: str
    commit: str
    size: int  # bytes
    sha256: str
    trained_on: str
    licence: str
    in_part: bool  # whether only the needed tensors are fetched and kept
    option: str  # the program's option for a copy downloaded by hand

    @property
    def url(self) -> str:
        """The address of the whole file."""
        return f"{HOST}/{self.repo}/resolve/{self.commit}/model.safetensors"

    @property
    def origin(self) -> str:
        """repository@commit."""
        return f"{self.repo}@{self.commit}"


_VGG16 = Pinned(
    network="vgg16",
    file="vgg16-to-conv5_2-3394518c.safetensors",
    repo="timm/vgg16.tv_in1k",
    commit="3394518cba29aee1ea82a49d971be90d2dd1dab7",
    size=553432986,
    sha256="57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
    trained_on="ImageNet-1k",
    licence="BSD-3-Clause",
    in_part=True,
    option="--config.reconstruction.weights",
)
PINNED = {
    "vgg16": _VGG16,
    # With the last convolution, which only conv5_3 and pool5 need: 59 MB of the same file.
    "vgg16_conv5_3": _VGG16._replace(
        network="vgg16_conv5_3", file="vgg16-to-conv5_3-3394518c.safetensors"
    ),
    "resnet50": Pinned(
        network="resnet50",
        file="resnet50-aa6c2d36.safetensors",
        repo="timm/resnet50.tv_in1k",
        commit="aa6c2d36d56bc0209040c02b5a7b7d7bf11d57b8",
        size=102469840,
        sha256="5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
        trained_on="ImageNet-1k",
        licence="BSD-3-Clause",
        in_part=False,
        option="--config.classify.weights",
    ),
}


# The folder


def _digest_path(path: Path) -> Path:
    """Returns the file beside `path` that holds its sha256, in the form of `sha256sum --check`."""
    return path.with_name(f"{path.name}.sha256")


def is_intact(path: Path, pinned: Pinned) -> bool:
    """Returns whether a file in the cache exists and has the sha256 with which it was kept."""
    try:
        digest = pinned.sha256
        if pinned.in_part:
            digest = _digest_path(path).read_text().split()[0]
        return sha256_of(path) == digest
    except (OSError, ValueError, IndexError):  # absent, or a damaged digest
        return False


def get(pinned: Pinned, shapes: Mapping[str, Shape], *, full: bool = False) -> Path:
    """Returns the cached weights, fetched if they are not there or were damaged.

    A fetched file gets its name by a rename once it is complete and checked, so nothing
    incomplete is ever used, and two processes at once do no harm: both write the same bytes.

    Args:
        pinned: the published file.
        shapes: {name: shape} of the tensors that must be in it.
        full: download the whole file again if only a part was fetched.

    Raises:
        UserError: the weights cannot be fetched or kept, or are not the published weights.
    """
    path = cache_dir() / pinned.file
    for file in (path, _digest_path(path)):
        if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
            raise UserError(
                f"{file} is not a file that was kept there, but a link, a folder, a pipe or the "
                "like: move it away, or set CGLO_CACHE to another folder"
            )
    again = full and pinned.in_part
    if not again and is_intact(path, pinned):
        return path
    if path.exists() and not again:
        print(f"{path} is damaged: fetching it again", file=sys.stderr, flush=True)
    try:
        # Only this user may write to it: `setup.keep_programs` uses it, too, and checks that.
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="incomplete.") as work:
            fetched = _fetch(pinned, shapes, Path(work), full=full)
            if pinned.in_part:
                # A kill between the two renames leaves a file that counts as damaged.
                line = f"{sha256_of(fetched)}  {path.name}\n"
                _digest_path(fetched).write_text(line)
                _digest_path(fetched).replace(_digest_path(path))
            fetched.replace(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): set CGLO_CACHE to another folder"
        ) from error
    return path


def _fetch(
    pinned: Pinned, shapes: Mapping[str, Shape], work: Path, *, full: bool
) -> Path:
    """Fetches the published weights into folder `work` and checks them.

    Returns:
        The whole file or, if `pinned.in_part`, a new one with the tensors of `shapes`.

    Raises:
        UserError: as for `get`; the message says how to continue.
    """
    try:
        if full or not pinned.in_part:
            whole = _download_whole(pinned, work)
            if not pinned.in_part:
                return whole
            tensors, _ = files.read(whole, shapes)
        else:
            tensors = remote.fetch(pinned.url, pinned.size, shapes)
    except (OSError, http.client.HTTPException, UserError) as error:
        raise UserError(
            f"the weights of {pinned.network} could not be fetched ({storage.explain(error)}): "
            f"run python -m cglo_jax.pretrained {pinned.network} where there is a network and copy "
            f"{cache_dir()} from there, or give {pinned.option}=FILE, such as {pinned.url}"
        ) from error
    about = {
        "licence": pinned.licence,
        "origin": pinned.origin,
        "trained_on": pinned.trained_on,
    }
    path = work / "part.safetensors"
    path.write_bytes(files.serialize(tensors, about))
    return path


def _download_whole(pinned: Pinned, work: Path) -> Path:
    """Downloads all of a published file into `work` and checks its sha256.

    Raises:
        OSError, http.client.HTTPException: the download failed.
        UserError: it is not the published file.
    """
    path = work / "whole.safetensors"
    archive = Archive(
        pinned.option, "model.safetensors", pinned.url, pinned.size, pinned.sha256
    )
    download.keep_trying(
        lambda: download.fetch(archive, path), lambda: download.size_of(path)
    )
    return download.verify(archive, path, "what the server has")
