"""CUB-200-2011 with a few images per class, as in the paper; ':10' = 10 images per class.

Run card

    python -m cglo_jax.prepare caltech_birds2011                # 1.2 GB, official archives
    python -m cglo_jax.main --config=configs/cub.py:10          # the paper: 5, 10, 20 or 30
    python -m cglo_jax.main --config=configs/cub.py:10,authors  # as their released code
    python -m cglo_jax.main --config=configs/cub.py:10,scratch  # no external weights
    ... --config.dataset.split_file=train_test_split.txt        # the images of a list

Neither the real CUB-200 nor ImageNet's weights were available when this was written, so no
accuracy is known. The paper has 51.52, 65.13, 74.16 and 77.75 % for 5, 10, 20 and 30.
':30' is all of the 5,994 training images: 29 of some classes, 30 of the others.
What was run is in docs/measurements.md.

Weights: VGG-16 in the loss of cGLO and the ResNet-50 that the classifier starts from were trained
on ImageNet, whose images include many of CUB-200's birds' species: every number names this prior.
"""

from ml_collections import ConfigDict

from cglo_jax import config as defaults
from cglo_jax.errors import UserError
from cglo_jax.profiles import apply_profile


def get_config(argument: str = "10") -> ConfigDict:
    """Returns the paper's protocol for 'SHOTS', see `profiles.py` for 'SHOTS,authors'.

    'SHOTS,scratch' is without external weights.
    """
    shots, _, variant = argument.partition(",")
    variants = ("", "authors", "scratch")
    if not shots.isdecimal() or int(shots) < 1 or variant not in variants:
        raise UserError(
            f"{argument!r} is not 'SHOTS', 'SHOTS,authors' or 'SHOTS,scratch', such as 10 or "
            "10,scratch"
        )
    config = defaults.get_config()
    config.dataset.name = "caltech_birds2011"
    config.dataset.shots = int(shots)
    config.dataset.shortfall = 1  # its 5994 training images are 29 or 30 of each class
    config.dataset.size = 256  # short side [P 4.3]
    config.dataset.crop = 224  # [P 4.3]
    epoch = 375  # 5994 training images / 16, whatever the shots
    config.train.batch_size = 16  # [P 4.3]
    config.train.steps_per_epoch = epoch
    config.classify.network = "resnet50"  # [P 4.2]
    config.classify.weights = "imagenet"
    config.classify.batch_size = 16  # [P 4.3]
    config.classify.steps_per_epoch = epoch
    config.classify.lr = 1e-3  # [P 4.3]
    config.classify.weight_decay = 1e-5  # [A]
    config.classify.lr_drop = 0.9  # [A]
    config.classify.lr_drop_epochs = tuple(range(2, 200, 2))  # [A]
    config.classify.pad = 0  # the crop is out of the larger image
    config.classify.cutout_size = 112  # half of the side
    if variant == "authors":
        return apply_profile(config, variant)
    return _without_external_weights(config) if variant else config


def _without_external_weights(config: ConfigDict) -> ConfigDict:
    config.external_weights = False
    config.reconstruction.loss = "laplacian"
    config.classify.weights = "random"
    # The rates above are for fine-tuning; these are CIFAR-100's, from random weights [P 4.3].
    config.classify.lr = 0.1
    config.classify.weight_decay = 5e-4
    config.classify.lr_drop = 0.2
    config.classify.lr_drop_epochs = (60, 120, 160)
    return config
