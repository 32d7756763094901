"""Two ways to run everything: as the paper says, or as the authors' released code does it."""

from typing import Any

from ml_collections import ConfigDict

from cglo_jax.errors import UserError

# "paper" is config.py's defaults: the paper and, where it is silent, what we decided. "authors" has
# what their code does instead, as far as fields reach that do not set the length of a run. What
# still differs from that code:
# - 202 epochs, and for CUB-200 a batch of 32 in training cGLO;
# - G is oversampled here, there only the final classifier is;
# - their generator has no batch norm, two dense and two transposed layers, at CUB-200 some 200 M
#   parameters; conv3_2 is taken before its ReLU; at CUB-200 the loss is also taken at a quarter
#   of the side, images are squashed to 256 pixels and cropped by RandomResizedCrop;
# - codes start as N(0, .01) and the whole table is projected after every step, optimisers are
#   rebuilt every epoch, the angle of slerp is taken over the batch's axis, a partner may be the
#   image itself, and accuracies are means over batches.
PROFILES: dict[str, dict[str, Any]] = {
    "paper": {},
    "authors": {
        "latent.dim": 512,
        # Three taps, relu1_2, relu2_2 and conv3_2, of images in [-1, 1]; five at 224 px.
        "reconstruction.layer_weights": (1.0, 1.0, 1.0, 0.0, 0.0),
        "reconstruction.normalize": False,
        "weak_classifier.loss": "double_softmax",
        "weak_classifier.gamma": 0.5,
        "sample.batch_statistics": "batch",
        "classify.draw_per": "batch",
        "classify.augment_synthetic": False,
    },
}


def apply_profile(config: ConfigDict, name: str) -> ConfigDict:
    """Returns `config` with the fields of the profile set.

    Raises:
      UserError: there is no such profile.
    """
    if name not in PROFILES:
        raise UserError(f"there is no profile {name!r}: use {' or '.join(PROFILES)}")
    fields = dict(PROFILES[name])
    if config.dataset.crop or config.dataset.size > 64:
        fields.pop("reconstruction.layer_weights", None)
    config.update_from_flattened_dict(fields)
    return config
