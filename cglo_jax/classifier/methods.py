"""The methods that a final classifier can be trained with (sections 4.2 and 5.3), a line each.

To add one, write its function here, or import it, and put it into METHODS.
"""

import difflib
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from cglo_jax.cglo import codes, losses, sampling
from cglo_jax.classifier import augment, autoaugment
from cglo_jax.classifier.step import Method, one_hot, take_images
from cglo_jax.errors import UserError
from cglo_jax.training import draws


def _take_pairs(shared, keys, first, second):
    """-> two batches of real images [B, H, W, C] in [-1, 1]."""
    fold_in = jax.vmap(jax.random.fold_in, (0, None))
    crops = [fold_in(keys, pair) for pair in draws.Pair]
    pairs = zip(crops, (first, second), strict=True)
    return [take_images(shared, key, indices) for key, indices in pairs]


def _cglo(keys, key_t, indices, shared, spec):
    images, _, _ = sampling.synthesize(
        shared.sampler, keys, indices, spec=spec.sample, key_t=key_t
    )
    return images, one_hot(shared, indices)


def _pixelmix(keys, key_t, indices, shared, spec):
    """Control for cGLO: the same pairs and t, mixed as pixels instead of codes."""
    partners, t, _ = sampling.draw_pairs(
        shared.sampler, keys, indices, spec=spec.sample, key_t=key_t
    )
    x, y = _take_pairs(shared, keys, indices, partners)
    return jax.vmap(codes.lerp)(x, y, t), one_hot(shared, indices)


def _mixup(keys, key_t, indices, shared, spec):
    """mixup (Zhang et al., 2018): mixes each image and its target with those of any random image.

    The weight of the image is drawn from Beta(alpha, alpha), alpha = `classify.mixup_alpha`.
    Random crops of whole images are taken before mixing; the padded crop and the flip are applied
    to the mixed image.
    """

    def draw(key):
        key_partner, key_share = jax.random.split(key)
        partner = jax.random.randint(key_partner, (), 0, len(shared.images))
        return partner, jax.random.beta(key_share, spec.mixup_alpha, spec.mixup_alpha)

    partners, share = jax.vmap(draw)(keys)
    mix = jax.vmap(lambda x, y, s: s * x + (1 - s) * y)
    x, y = _take_pairs(shared, keys, indices, partners)
    targets = mix(one_hot(shared, indices), one_hot(shared, partners), share)
    return mix(x, y, share), targets


def _cutout(key, x, spec):
    forms = {"square": augment.cutout, "authors": augment.authors_cutout}
    return forms[spec.cutout_form](key, x, spec.cutout_size)


def _random_erasing(key, x, spec):
    return augment.random_erasing(key, x, spec.erasing_probability, spec.erasing_fill)


def _autoaugment(key, x, spec):
    return autoaugment.autoaugment(key, x)


def _cosine_and_cross_entropy(outputs, targets):
    """Barz & Denzler (2019), section 3.3, on the same outputs; they add a layer for the second."""
    cosine = losses.cosine_loss(outputs, targets)
    return cosine + 0.1 * losses.soft_cross_entropy(outputs, targets)


_REPLACES = (
    "classify.replace_probability",
    "classify.draw_per",
    "classify.augment_synthetic",
)
_AUGMENTS = ("classify.augment_probability",)
_POOL = ("dataset.unlabelled", "dataset.transductive")
_SAMPLES = (*_POOL, "sample.t_values", *_REPLACES)

METHODS = {
    "baseline": Method(reads=()),
    "cglo": Method(_cglo, from_cglo=True, reads=_SAMPLES),
    "pixelmix": Method(_pixelmix, reads=("sample.t_values", *_REPLACES)),
    "cutout": Method(
        None,
        _cutout,
        reads=("classify.cutout_size", "classify.cutout_form", *_AUGMENTS),
    ),
    "random_erasing": Method(
        None,
        _random_erasing,
        reads=("classify.erasing_probability", "classify.erasing_fill", *_AUGMENTS),
    ),
    "autoaugment": Method(None, _autoaugment, reads=_AUGMENTS),
    "autoaugment_cglo": Method(
        _cglo, _autoaugment, from_cglo=True, reads=(*_SAMPLES, *_AUGMENTS)
    ),
    "mixup": Method(_mixup, reads=("classify.mixup_alpha", *_REPLACES)),
    "mixmatch": Method(semi_supervised=True, reads=("mixmatch.", *_POOL)),
    "pixelmix_cosine": Method(
        _pixelmix, loss=losses.cosine_loss, reads=("sample.t_values", *_REPLACES)
    ),
    "cosine": Method(loss=losses.cosine_loss, reads=()),
    "cosine_ce": Method(loss=_cosine_and_cross_entropy, reads=()),
    "cglo_cosine": Method(
        _cglo, loss=losses.cosine_loss, from_cglo=True, reads=_SAMPLES
    ),
}


def check_names(names: Sequence[str]) -> None:
    """Checks `config.classify.methods`, which `validation` cannot: it does not import JAX.

    Raises:
      UserError: there is no such method.
    """
    for name in names:
        if name not in METHODS:
            close = difflib.get_close_matches(name, METHODS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UserError(
                f"config.classify.methods: there is no method {name!r}{hint}: use some of "
                f"{', '.join(METHODS)}, such as baseline,cglo"
            )


def check_images(fields: ConfigDict, side: int, channels: int) -> None:
    """Checks what the methods of `config.classify` do to images of `side` pixels and `channels`.

    Raises:
      UserError: Cutout would leave nothing of them, or Random Erasing's colour has other channels.
    """
    size = fields.cutout_size
    if "cutout" in fields.methods and size >= side:
        raise UserError(
            f"config.classify.cutout_size is {size}, but images have {side}x{side} pixels: use "
            f"less, such as {side // 2}"
        )
    fill = fields.erasing_fill
    if "random_erasing" in fields.methods and len(fill) not in (1, channels):
        raise UserError(
            f"config.classify.erasing_fill has {len(fill)} values, but images have {channels} "
            f"channel{'s' * (channels > 1)}: give one value"
            + (f", or {channels}" if channels > 1 else "")
        )


def need_cglo(names: Sequence[str]) -> bool:
    """Returns whether any of these methods trains on cGLO's images."""
    return any(METHODS[name].from_cglo for name in names)
