"""Quality of synthetic images where there are too few real images per class for FID.

FID compares the means and covariances of thousands of features, which cannot be estimated from a
few images per class. These checks compare single images instead: are synthetic images copies of
training images (after Meehan et al., 2020: nearest neighbours, against the neighbours of held-out
images), do they differ among themselves as real images do, and does a classifier of real images recognise
their class. Pure functions on the host; distances are root mean squares over
values, in the units of the values, so that they can be compared between image sizes.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from cglo_jax.data.dataset import batch_that_fits, to_float
from cglo_jax.errors import UserError
from cglo_jax.training import parallel

_ROWS = 1024  # at most so many in a block of distances
_VALUES = 1 << 24  # at most so many in the rows of a block: 128 MB
_COPY_PERCENTILE = 1.0  # of the distances of held-out images


def _slices(n: int, features: int) -> Iterator[slice]:
    rows = max(1, min(_ROWS, _VALUES // max(1, features)))
    return (slice(i, min(i + rows, n)) for i in range(0, n, rows))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns squared Euclidean distances of rows, float64 [m, n]; float64 limits cancellation."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = (a**2).sum(1)[:, None] + (b**2).sum(1)
    return np.maximum(norms - 2 * a @ b.T, 0)


def spread(n: int, most: int) -> np.ndarray:
    """Returns up to `most` of the positions 0 ... n - 1, evenly spread, int [min(n, most)]."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest row of `b` for each row of `a`, the first of equally near ones.

    Args:
      a: number [m, F]. b: number [n, F], n > 0.

    Returns:
      (distance float64 [m], root mean square of the F differences; index int64 [m] into `b`).
    """
    features = b.shape[1]
    index = np.zeros(len(a), np.int64)
    for rows in _slices(len(a), features):
        best = np.full(rows.stop - rows.start, np.inf)
        for others in _slices(len(b), features):
            block = _squared_distances(a[rows], b[others])
            i = block.argmin(1)
            smallest = np.take_along_axis(block, i[:, None], 1)[:, 0]
            nearer = smallest < best
            index[rows][nearer] = i[nearer] + others.start
            best = np.minimum(best, smallest)
    distance = np.zeros(len(a))
    for rows in _slices(len(a), features):  # recomputed: a copy is at exactly 0
        difference = a[rows].astype(np.float64) - b[index[rows]].astype(np.float64)
        distance[rows] = np.sqrt((difference**2).mean(1))
    return distance, index


def nearest_of_class(
    a: np.ndarray, a_labels: np.ndarray, b: np.ndarray, b_labels: np.ndarray
) -> np.ndarray:
    """Computes the distance from each row of `a` to the nearest row of `b` with its label.

    Args:
      a: number [m, F]. a_labels: int [m]. b: number [n, F]. b_labels: int [n].

    Returns:
      float64 [m], root mean squares; infinite where `b` has no row of the label.
    """
    distance = np.full(len(a), np.inf)
    for label in np.intersect1d(a_labels, b_labels):
        rows = a_labels == label
        distance[rows], _ = nearest(a[rows], b[b_labels == label])
    return distance


class CopyCheck(NamedTuple):
    """Distances to the nearest training image: synthetic images against held-out real images.

    Attributes:
      synthetic, real: median distances.
      ratio: synthetic / real; far below 1 if synthetic images are close to training images.
      copies: percentage of synthetic images that are nearer than the 1st percentile of the real
        images: about 1 if they are as new as real images.
    """

    synthetic: float
    real: float
    ratio: float
    copies: float


def check_copies(synthetic: np.ndarray, real: np.ndarray) -> CopyCheck:
    """Compares distances of synthetic and of held-out real images to the nearest training image.

    Args:
      synthetic: float [m], from `nearest` or `nearest_of_class`.
      real: float [r], from the same function.

    Raises:
      UserError: half of the held-out images are training images.
    """
    medians = float(np.median(synthetic)), float(np.median(real))
    if not medians[1]:
        raise UserError(
            "half of the held-out images are copies of training images: hold others out"
        )
    copies = 100 * float((synthetic < np.percentile(real, _COPY_PERCENTILE)).mean())
    return CopyCheck(*medians, medians[0] / medians[1], copies)


def parent_share(index: np.ndarray, parents: np.ndarray) -> float:
    """Returns the percentage of new images whose nearest training image is a parent.

    Args:
      index: int [m], positions of the nearest training images, see `nearest`.
      parents: int [m, 2], positions of source and partner among the same training images.
    """
    return 100 * float((index[:, None] == parents).any(1).mean())


def mean_pairwise(x: np.ndarray) -> float:
    """Computes the mean distance between two different rows.

    Args:
      x: number [n, F], n > 1.
    """
    n, features = x.shape
    total = 0.0
    for rows in _slices(n, features):
        for others in _slices(n, features):
            block = _squared_distances(x[rows], x[others])
            total += np.sqrt(block / features).sum()
    return total / (n * (n - 1))


def class_diversity(
    synthetic: np.ndarray,
    synthetic_labels: np.ndarray,
    real: np.ndarray,
    real_labels: np.ndarray,
) -> float:
    """Computes how much images of a class differ, synthetic relative to real, mean over classes.

    Args:
      synthetic: number [m, F]. synthetic_labels: int [m].
      real: number [n, F]. real_labels: int [n].

    Returns:
      The mean ratio of mean pairwise distances, over the classes with at least two synthetic
      images and two different real ones; 1 = as diverse as real images, 0 = all the same.

    Raises:
      UserError: there is no such class.
    """
    ratios = []
    for label in np.intersect1d(synthetic_labels, real_labels):
        new, old = synthetic[synthetic_labels == label], real[real_labels == label]
        if len(new) > 1 and len(old) > 1 and (spread := mean_pairwise(old)):
            ratios.append(mean_pairwise(new) / spread)
    if not ratios:
        raise UserError(
            "diversity needs a class with two synthetic and two different real images: use "
            "more of both"
        )
    return float(np.mean(ratios))


def code_angles(z: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Computes the mean angles between codes of the same class and of different classes (Fig. 2).

    Args:
      z: float [n, d], no row 0. labels: int [n]; codes with label -1 are left out.

    Returns:
      (intra-class, inter-class) in degrees, each the mean over all pairs; NaN without a pair.
    """
    z, labels = z[labels >= 0].astype(np.float64), labels[labels >= 0]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    sums, counts = np.zeros(2), np.zeros(2)  # intra, inter
    positions = np.arange(len(z))
    for rows in _slices(len(z), len(z)):  # a block is rows x n
        angles = np.degrees(np.arccos(np.clip(z[rows] @ z.T, -1, 1)))
        same = labels[rows, None] == labels
        pair = positions[rows, None] != positions  # not a code with itself
        for i, chosen in enumerate((same & pair, ~same)):
            sums[i] += angles[chosen].sum()
            counts[i] += chosen.sum()
    means = np.divide(sums, counts, out=np.full(2, np.nan), where=counts > 0)
    return float(means[0]), float(means[1])


def class_accuracy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Computes the top-1 accuracy of each class.

    Args:
      logits: float [n, K]. labels: int [n].

    Returns:
      float64 [K] in percent; NaN for a class without an image.
    """
    num_classes = logits.shape[1]
    right = np.bincount(labels[logits.argmax(1) == labels], minlength=num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    accuracy = np.full(num_classes, np.nan)
    return np.divide(100.0 * right, counts, out=accuracy, where=counts > 0)


@functools.cache
def _compiled_forward(model: nn.Module) -> Callable:
    def forward(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, features = model.apply(variables, to_float(images), train=False)
        return logits, features["embedding"]

    return jax.jit(forward)


def embed(
    variables: Any, model: nn.Module, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Applies a trained classifier on one device, with its running batch statistics.

    Args:
      variables: `params` and `batch_stats` of `model`.
      model: a network of `step.StepSpec`.
      images: uint8 [n, H, W, C].

    Returns:
      (logits float32 [n, K], input of its last layer float32 [n, F]).
    """
    size = min(len(images), batch_that_fits(images.shape[1]))
    forward = functools.partial(_compiled_forward(model), variables)
    return parallel.map_batches(forward, images, size)
