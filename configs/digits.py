"""Hand-written digits, 5 labelled images per class: every stage in minutes on a CPU.

Run card

    python -m cglo_jax.main --config=configs/digits.py --workdir=runs/digits

2 cores of a shared virtual machine (x86-64, jax 0.10.2): 2 minutes and 1.5 GB for all stages and
3 seeds. Top-1 on 797 test images: baseline 90.63 +- .70 %, cGLO 90.67 +- 1.49 %, pixelmix 90.17 +-
1.06 %; on these fifty images no measurable difference (95 % interval -3.88 to +3.96); with weaker
noise and other rounding it was once "hurt" (-1.42 to -0.34). Over ten other draws of fifty, with
weaker noise (docs/measurements.md), cGLO is above the baseline by 0.55 +- .47. No external weights.
"""

from ml_collections import ConfigDict

from cglo_jax import config as defaults


def get_config() -> ConfigDict:
    """Returns the defaults with what differs for 8x8 grey images on two cores."""
    config = defaults.get_config()
    config.external_weights = False
    config.reconstruction.loss = "laplacian"
    # Of gamma, code rate and noise no cell of experiments/studies/sweep_digits.py was measurably
    # better than the authors' values.
    config.weak_classifier.gamma = 0.5
    config.train.epochs = 20
    config.train.steps_per_epoch = 50
    config.train.lr_drop_epochs = (10, 15)
    config.train.batch_size = 50
    config.classify.depth = 10
    config.classify.width = 2
    config.classify.dropout = 0.0
    config.classify.epochs = 20
    config.classify.steps_per_epoch = 50
    config.classify.batch_size = 50
    config.classify.lr_drop_epochs = (12, 16)
    config.classify.pad = 1
    config.classify.pad_value = -1.0
    config.classify.flip = False
    config.classify.cutout_size = 2  # a quarter of the side
    config.mixmatch.ema = 0.99  # the average of 1000 steps must forget the first ones
    config.mixmatch.ramp = 1.0  # not before the classifier knows anything
    config.classify.methods = ("baseline", "cglo", "pixelmix")
    return config
