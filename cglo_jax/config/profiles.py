"""Two sets of values: those of the paper, and those of the authors' released code."""

from typing import Any

from ml_collections import ConfigDict

from cglo_jax.errors import UserError

# "paper" has the defaults: the paper's values and, where it gives none, ours. "authors" has the
# values of their code, but for fields that set the length of a run. What no field reaches, in short
# (docs/paper.md, "What --profile=authors still does otherwise", has it in full):
# - length: 202 epochs, cGLO of CUB-200 with batches of 32, labelled images of cGLO not oversampled
#   (train.steps_per_epoch=0 is that), the generator of the least labelled loss kept;
# - images: exactly 10 unlabelled ones of each class; CUB-200 squashed to 256 pixels for G, and cropped by
#   RandomResizedCrop for classifiers; a baseline whose labelled images are those of seed 0;
# - generator: two dense and two transposed layers without batch norm, xavier, into [0, 1] (for
#   CUB-200 some 200 M parameters at 256 pixels);
# - loss: for CUB-200 at a quarter of the side, too, of pixels and four layers;
# - codes: N(0, .01) at first, all projected after each step, one Adam for the table, and moved by
#   f_phi's SGD as well; optimisers made anew for each epoch; hypercubes of neighbouring vertices; a
#   ResNet-18 that sees pixels rounded down to 0 and 1;
# - f_phi: inputs in [0, 1], xavier, last map never averaged, its rate lower from the 60th batch of each
#   epoch on, and no cosine loss that runs;
# - sampling: slerp's angle over the batch's axis, partners that may be the image itself;
# - final classifiers: inputs normalised by the data's mean and deviation, AutoAugment of other
#   magnitudes; MixMatch otherwise throughout; means of batches' accuracies.
PROFILES: dict[str, dict[str, Any]] = {
    "paper": {},
    "authors": {
        "latent.dim": 512,
        # As many activations as codes have dimensions; read with latent.init=resnet.
        "latent.init_network": "resnet18",
        "latent.init_size": 224,
        # Of images in [-1, 1]. ReLUs in place change what was tapped, but for the last.
        "reconstruction.layers": ("conv1_2", "conv2_2", "conv3_2_pre"),
        "reconstruction.layer_weights": (1.0, 1.0, 1.0),
        "reconstruction.normalize": False,
        "generator.normalize_codes": True,
        "train.epoch_ends_on": "unlabelled",
        # LeakyReLU(True) is the identity; of slope .1 after pooling, which is .1 before it.
        "weak_classifier.negative_slope": 0.1,
        "weak_classifier.loss": "double_softmax",
        "weak_classifier.gamma": 0.5,
        "sample.batch_statistics": "batch",
        "classify.draw_per": "batch",
        "classify.augment_synthetic": False,
        # AutoAugment and Cutout change every real image, Random Erasing every other one.
        "classify.augment_probability": 1.0,
        "classify.erasing_probability": 0.5,
        "classify.cutout_form": "authors",
        "classify.pad_value": -1.0,
    },
}

# What the authors' commands and tables of constants have for a data set, besides. Digits stand in for
# CIFAR in the tables; their 8 pixels are too few for a Cutout of 5, and have no mean colour.
_CIFAR_COMMAND = {"dataset.transductive": True, "dataset.split_per_seed": True}
_OF_DATA: dict[str, dict[str, Any]] = {
    "digits": _CIFAR_COMMAND,
    "cifar10": {
        **_CIFAR_COMMAND,
        "classify.cutout_size": 5,
        "classify.erasing_fill": (-0.0172, -0.0356, -0.107),
    },
    "cifar100": {
        **_CIFAR_COMMAND,
        "classify.cutout_size": 5,
        "classify.erasing_fill": (0.014, -0.026, -0.118),
    },
    "caltech_birds2011": {  # its subsets are the same for every seed
        "dataset.transductive": True,
        "latent.noise": "none",
        "classify.cutout_size": 5,
        "classify.erasing_fill": (-0.03, -0.088, -0.188),
    },
}
_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}
_UNLABELLED_PER_CLASS = 10
_AUTHORS_ABOVE_64_PX: dict[str, Any] = {
    "reconstruction.layers": ("conv1_2", "conv2_2", "conv3_2", "conv4_3", "pool5"),
    "reconstruction.layer_weights": (1.0,) * 5,
}


def apply_profile(config: ConfigDict, name: str) -> ConfigDict:
    """Returns `config` with the fields of the profile set, some of which depend on its data set.

    Its `dataset.name`, `size`, `crop` and `classes` are read: they must be set before.

    Raises:
      UserError: there is no such profile.
    """
    if name not in PROFILES:
        raise UserError(f"there is no profile {name!r}: use {' or '.join(PROFILES)}")
    fields = dict(PROFILES[name])
    if name == "authors":
        data = config.dataset
        fields |= _OF_DATA.get(data.name, {})
        if data.name in _CLASSES:
            classes = data.classes or _CLASSES[data.name]
            fields["dataset.unlabelled"] = _UNLABELLED_PER_CLASS * classes
        if (data.crop or data.size) > 64:
            fields |= _AUTHORS_ABOVE_64_PX
    config.update_from_flattened_dict(fields)
    return config
