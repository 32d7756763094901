"""CIFAR-10 with a few images per class, as in the published paper; ':10' = 10 images per class.

Run card

    python -m cglo_jax.prepare cifar10
    python -m cglo_jax.main --config=configs/cifar10.py:10          # the paper's protocol
    python -m cglo_jax.main --config=configs/cifar10.py:10,authors  # as their released code
    python -m cglo_jax.main --config=configs/cifar10.py:10,scratch  # no external weights
    python -m cglo_jax.main --config=configs/cifar10.py:10,cpu      # small, for two cores; none either

The published version has a figure of CIFAR-10 with 10, 25, 50 and 100 images per class; its numbers
are not in our copy, the preprint. Everything but the images is as for CIFAR-100, in the authors'
code, too: cglo_jax/config/cifar.py, which configs/cifar100.py shares. An epoch is 390 steps of 128
images, as 50,000 / 128. The real CIFAR-10 was not at hand: only a made-up one in its format was run.
"""

from ml_collections import ConfigDict

from cglo_jax.config import cifar


def get_config(argument: str = "10") -> ConfigDict:
    """Returns the paper's protocol for 'SHOTS', see `profiles.py` for 'SHOTS,authors'.

    'SHOTS,scratch' is without external weights, 'SHOTS,cpu' small and also without.
    """
    return cifar.create("cifar10", argument)
