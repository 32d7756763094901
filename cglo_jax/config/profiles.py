"""Two sets of values: those of the paper, and those of the authors' released code."""

from typing import Any

from ml_collections import ConfigDict

from cglo_jax.errors import UserError

# "paper" has the defaults: the paper's values and, where it gives none, ours. "authors" has the
# values of their code, but for fields that set the length of a run. What still differs: their code
# - trains for 202 epochs, and cGLO for CUB-200 with batches of 32 images;
# - oversamples the few labelled images for the final classifier only, not for cGLO;
# - has a generator without batch norm, of two dense and two transposed layers with LeakyReLU .2 and
#   a sigmoid (for CUB-200 a DCGAN with batch norm and some 200 M parameters), and initialises
#   convolutions, too, by xavier_normal with gain sqrt 2;
# - steps codes a second time, by f_phi's SGD (rate 1e-3, momentum .9, weight decay 1e-4), and
#   multiplies f_phi's and this rate by .2 after 60, 120 and 160 steps of every epoch;
# - flattens f_phi's last map at any side, ours is averaged above 4x4;
# - adds, for CUB-200, the loss at a quarter of the side, of pixels and the first four layers;
# - with latent.init=resnet does not centre activations, takes those of labelled images only, and
#   truncates the pixels to 0 and 1 before (so that its network sees hardly anything);
# - keeps the generator of the least training loss among every fifth epoch, not the last;
# - for CUB-200 squashes images to 256 pixels and crops them by RandomResizedCrop;
# - starts codes as N(0, .01), projects the whole table after every step, and creates the optimisers
#   again every epoch;
# - takes the angle of slerp over the batch's axis, and an image may be its own partner;
# - reports the means of batches' accuracies.
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
        # LeakyReLU(True) is the identity; of slope .1 after pooling, which is .1 before it.
        "weak_classifier.negative_slope": 0.1,
        "weak_classifier.loss": "double_softmax",
        "weak_classifier.gamma": 0.5,
        "sample.batch_statistics": "batch",
        "classify.draw_per": "batch",
        "classify.augment_synthetic": False,
    },
}

_AUTHORS_ABOVE_64_PX: dict[str, Any] = {
    "reconstruction.layers": ("conv1_2", "conv2_2", "conv3_2", "conv4_3", "pool5"),
    "reconstruction.layer_weights": (1.0,) * 5,
}


def apply_profile(config: ConfigDict, name: str) -> ConfigDict:
    """Returns `config` with the fields of the profile set.

    Raises:
      UserError: there is no such profile.
    """
    if name not in PROFILES:
        raise UserError(f"there is no profile {name!r}: use {' or '.join(PROFILES)}")
    fields = dict(PROFILES[name])
    if name == "authors" and (config.dataset.crop or config.dataset.size) > 64:
        fields |= _AUTHORS_ABOVE_64_PX
    config.update_from_flattened_dict(fields)
    return config
