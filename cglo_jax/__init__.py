"""cGLO JAX: better image classifiers from a few labelled images per class.

import cglo_jax, jax

model = cglo_jax.load("runs/digits")
images = model.sample("3", n=8, key=jax.random.key(0))  # uint8 [8, H, W, C]
again = model.reconstruct(model.ids[:8])
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # JAX takes seconds to import
    from cglo_jax.inference.classifier import Classifier
    from cglo_jax.inference.generator import TrainedModel

__version__ = "0.1.0"


def load(workdir: str | os.PathLike, seed: int | None = None) -> "TrainedModel":
    """Loads the newest generator and codes of a run, without its images.

    Args:
      workdir: the --workdir of the run, wherever it lies now.
      seed: a seed of `config.seeds`; None: the first seed that was trained.

    Raises:
      errors.UserError: there is no such run, or no usable checkpoint of the seed, or JAX finds
        no device of the kind that the environment asks for.
    """
    from cglo_jax.process import platforms

    platforms.start()
    from cglo_jax.inference import generator

    return generator.load(workdir, seed)


def load_classifier(
    workdir: str | os.PathLike, method: str, seed: int | None = None
) -> "Classifier":
    """Loads the classifiers that a run trained with `method`, to be averaged.

    Args:
      workdir: the --workdir of the run, wherever it lies now.
      method: a method of `config.classify.methods`: "cglo", "baseline", ...
      seed: a seed of the run; None: the classifiers of all seeds.

    Raises:
      errors.UserError: there is no such run, or no trained classifier of this method and seed,
        or JAX finds no device of the kind that the environment asks for.
    """
    from cglo_jax.process import platforms

    platforms.start()
    from cglo_jax.inference import classifier

    return classifier.load(workdir, method, seed)
