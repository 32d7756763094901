"""What of a configuration determines what is trained, and whether two of them agree in it."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cglo_jax.config import flatten
from cglo_jax.errors import UserError, printable, shorten

# What may change between two calls on one work directory without touching what was trained.
_FREE = {
    "seeds",
    "devices",
    # Content counts, not where it lies: of images their ids, of weights their digest.
    "dataset.data_dir",
    "dataset.path",
    "dataset.strict",
    "dataset.split_file",
    "reconstruction.weights",
    "reconstruction.cache_gb",
    "latent.init_weights",
    "classify.weights",
    "train.only_codes",
    "train.checkpoint_every_epochs",
    "train.log_every_steps",
    "classify.checkpoint_every_epochs",
    "classify.log_every_steps",
}
_TRAIN_SECTIONS = (
    "dtype",
    "dataset",
    "latent",
    "generator",
    "weak_classifier",
    "reconstruction",
    "train",
)
_CLASSIFY_SECTIONS = (
    *_TRAIN_SECTIONS,
    "sample.interpolation",
    "sample.t_values",
    "sample.batch_statistics",
    "classify",
    "mixmatch",
)


def _fingerprint(config: ConfigDict, sections: tuple[str, ...]) -> dict[str, Any]:
    names = flatten(config).items()
    return {
        name: value
        for name, value in names
        if name not in _FREE
        and any(name == s or name.startswith(s + ".") for s in sections)
    }


def train_fingerprint(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields that determine a cGLO checkpoint, by dotted name."""
    return _fingerprint(config, _TRAIN_SECTIONS)


def classify_fingerprint(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields that determine a trained classifier, by dotted name."""
    fields = _fingerprint(config, _CLASSIFY_SECTIONS)
    del fields["classify.methods"]
    return fields


def check_fingerprint(
    saved: Mapping[str, Any], now: Mapping[str, Any], where: str, numbers: str = ""
) -> None:
    """Raises UserError if `saved` (read from `where`) differs from `now`, naming field and values.

    Args:
      numbers: what there is to say of images, of which only a hash is compared.
    """
    for name in sorted(saved.keys() | now.keys()):
        if saved.get(name) != now.get(name):
            # A hash tells people nothing.
            if name in ("images", "test_images", "weights"):
                told = f" ({numbers})" if numbers and name != "weights" else ""
                raise UserError(
                    f"{where} was made with other {name.replace('_', ' ')} than this call "
                    f"reads{told}: use another --workdir or the old ones"
                )
            values = [shorten(repr(of.get(name))) for of in (saved, now)]
            longer = name.endswith((".epochs", ".steps_per_epoch"))
            hint = "; a run cannot be made longer or shorter" if longer else ""
            raise UserError(
                f"{where} was made with {shorten(printable(name))}={values[0]}, this call has "
                f"{values[1]}: use another --workdir or the old value{hint}"
            )
