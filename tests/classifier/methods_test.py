"""Tests of cglo_jax/classifier/methods.py, on the images that `step.create_batch` makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo import codes
from cglo_jax.classifier import augment, autoaugment, step
from cglo_jax.classifier.methods import (
    METHODS,
    check_images,
    check_names,
    need_cglo,
)
from cglo_jax.classifier.step import apply_per_example
from cglo_jax.config.defaults import get_config
from cglo_jax.errors import UserError
from tests.classifier.step_test import (
    INDICES,
    create_batch,
    create_real,
    create_spec,
    shared,
)

__all__ = ["shared"]  # a fixture
AUGMENTING = [name for name, m in METHODS.items() if m.augment]


@pytest.mark.parametrize("method", AUGMENTING)
def test_probability_zero_changes_nothing(shared, method):
    base = "cglo" if METHODS[method].from_cglo else "baseline"
    changes = {"pad": 1, "flip": True}
    expected, _ = create_batch(shared, create_spec(base, **changes))
    found, _ = create_batch(
        shared, create_spec(method, augment_probability=0.0, **changes)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("method", ["cutout", "random_erasing"])
def test_images_are_changed_one_by_one_with_probability_p(shared, method):
    p = 0.3
    x, _ = create_batch(shared, create_spec(method, augment_probability=p))
    changed = (np.abs(x - create_real(shared)) > 1e-5).any((1, 2, 3))
    deviation = np.sqrt(p * (1 - p) / len(INDICES))
    assert changed.mean() == pytest.approx(p, abs=5 * deviation)
    per_image = changed.reshape(-1, 24).mean(0)
    assert 0 < per_image.min()
    assert per_image.max() < 1


def test_autoaugment_is_applied_to_real_and_to_new_images(shared):
    p = {"augment_probability": 1.0}
    plain, _ = create_batch(shared, create_spec("cglo"))
    x, _ = create_batch(shared, create_spec("autoaugment_cglo", **p))
    new = (plain != create_real(shared)).any((1, 2, 3))
    changed = (np.abs(x - plain) > 1 / 255).any((1, 2, 3))
    assert changed[new].mean() > 0.3
    assert changed[~new].mean() > 0.3
    alone, _ = create_batch(shared, create_spec("autoaugment", **p))
    np.testing.assert_array_equal(alone[~new], x[~new])


def test_each_function_gets_its_settings(shared):
    """Each line of the table is the function it names, with the fields of the config."""
    keys = jax.random.split(jax.random.key(0), 6)
    x = create_real(shared)[:6]
    spec = create_spec("cutout", cutout_size=6)
    expected = {
        "cutout": lambda key, image: augment.cutout(key, image, 6),
        "random_erasing": augment.random_erasing,
        "autoaugment": autoaugment.autoaugment,
    }
    for name, function in expected.items():
        found = apply_per_example(METHODS[name].augment, keys, x, 1.0, spec)
        inner = jax.vmap(lambda key: jax.random.split(key)[1])(keys)
        np.testing.assert_array_equal(found, jax.vmap(function)(inner, jnp.asarray(x)))


def test_the_forms_of_erasing_are_those_of_the_fields(shared):
    keys = jax.random.split(jax.random.key(0), 20)
    x = jnp.asarray(create_real(shared)[:20])
    inner = jax.vmap(lambda key: jax.random.split(key)[1])(keys)
    spec = create_spec(
        "cutout",
        cutout_size=3,
        cutout_form="authors",
        erasing_probability=0.5,
        erasing_fill=(-0.25,),
    )
    expected = {
        "cutout": lambda key, image: augment.authors_cutout(key, image, 3),
        "random_erasing": lambda key, image: augment.random_erasing(
            key, image, 0.5, (-0.25,)
        ),
    }
    for name, function in expected.items():
        found = apply_per_example(METHODS[name].augment, keys, x, 1.0, spec)
        np.testing.assert_array_equal(found, jax.vmap(function)(inner, x))


def test_mixup_mixes_images_and_targets_alike(shared):
    """In images of brightness 10 times the class both shares can be read off."""
    labels = np.asarray(shared.sampler.labels)
    flat = np.broadcast_to((labels * 10)[:, None, None, None], (24, 8, 8, 1))
    made = shared._replace(images=jnp.asarray(flat.astype(np.uint8)))
    spec = create_spec("mixup", replace_probability=1.0)
    keys = codes.example_keys(jax.random.key(5), jnp.arange(len(INDICES)))
    batch = jax.jit(
        lambda s: step.create_batch(
            s, keys, INDICES, spec=spec, key_batch=jax.random.key(0)
        )
    )
    x, targets = map(np.asarray, batch(made))
    np.testing.assert_allclose(targets.sum(1), np.ones(len(INDICES)), rtol=1e-6)
    brightness = (x[:, 0, 0, 0] + 1) * 127.5 / 10
    np.testing.assert_allclose(brightness, targets @ np.arange(3), atol=1e-4)
    # alpha = 1: shares are uniform; a partner is of another class in two thirds.
    own = targets[np.arange(len(INDICES)), labels[INDICES]]
    mixed = own < 1
    assert 0.55 < mixed.mean() < 0.78
    quantiles = np.quantile(own[mixed], [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quantiles, [0.25, 0.5, 0.75], atol=0.06)


def test_per_batch_draws(shared):
    """As the authors' code: all or none are replaced, with one t; partners still differ."""
    spec = create_spec("pixelmix", draw_per_batch=True)
    real = create_real(shared)
    seen = set()
    for seed in range(12):
        x, _ = create_batch(shared, spec, seed=seed)
        replaced = (x != real).any((1, 2, 3))
        seen.add(replaced.all())
        assert replaced.all() or not replaced.any()
    assert seen == {True, False}


def test_per_batch_draws_share_t(shared):
    # Image i of its class has brightness 2**rank: a mix tells partner and t.
    rank = np.asarray(shared.sampler.classes.rank)
    flat = np.broadcast_to((2**rank)[:, None, None, None], (24, 8, 8, 1))
    made = shared._replace(images=jnp.asarray(flat.astype(np.uint8)))
    spec = create_spec("pixelmix", draw_per_batch=True, replace_probability=1.0)
    found = set()
    for seed in range(12):
        x, _ = create_batch(made, spec, seed=seed)
        value = (x[:, 0, 0, 0] + 1) * 127.5
        fits = []
        for t in (0.1, 0.2, 0.3, 0.4):
            partner = (value - (1 - t) * 2.0 ** rank[INDICES]) / t
            known = np.abs(partner[:, None] - 2.0 ** np.arange(8)).min(1) < 1e-2
            fits.append(known.all())
        assert sum(fits) == 1
        found.add(int(np.argmax(fits)))
    assert len(found) > 1


def test_losses_of_the_table():
    outputs = jnp.array([[3.0, 4.0]])
    targets = jnp.array([[1.0, 0.0]])
    entropy = np.log(1 + np.exp(1))
    for name, method in METHODS.items():
        expected = {
            "cosine": 0.4,
            "cglo_cosine": 0.4,
            "pixelmix_cosine": 0.4,
            "cosine_ce": 0.4 + 0.1 * entropy,
        }.get(name, entropy)
        np.testing.assert_allclose(method.loss(outputs, targets), [expected], rtol=1e-6)


def test_which_need_a_cglo():
    assert {n for n, m in METHODS.items() if m.from_cglo} == {
        "cglo",
        "autoaugment_cglo",
        "cglo_cosine",
    }


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ("baseline", "cutuot"),
            "no method 'cutuot' (did you mean 'cutout'?): use some of",
        ),
        (("baseline,cglo",), "no method 'baseline,cglo' (did you mean 'baseline'?)"),
        (("zzz",), "no method 'zzz': use some of baseline, cglo, pixelmix, "),
    ],
)
def test_names(names, says):
    with pytest.raises(UserError) as error:
        check_names(names)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    check_names(tuple(METHODS))


def test_a_square_of_cutout_that_leaves_nothing_is_refused():
    fields = get_config().classify
    fields.cutout_size = 8
    check_images(fields, 4, 1)  # no method has it
    fields.methods = ("baseline", "cutout")
    check_images(fields, 9, 1)
    for side, less in ((8, 4), (4, 2)):
        with pytest.raises(UserError) as error:
            check_images(fields, side, 1)
        assert str(error.value) == (
            f"config.classify.cutout_size is 8, but images have {side}x{side} pixels: use less, "
            f"such as {less}"
        )


def test_a_colour_of_random_erasing_with_other_channels_is_refused():
    fields = get_config().classify
    fields.erasing_fill = (0.1, 0.2, 0.3)
    check_images(fields, 8, 1)  # no method has it
    fields.methods = ("random_erasing",)
    check_images(fields, 8, 3)
    with pytest.raises(UserError) as error:
        check_images(fields, 8, 1)
    assert str(error.value) == (
        "config.classify.erasing_fill has 3 values, but images have 1 channel: give one value"
    )


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_the_authors_autoaugment_changes_every_real_and_no_synthetic_image(shared, p):
    """At p = 0 there is no synthetic image, and AutoAugment + cGLO is AutoAugment."""
    spec = create_spec(
        "autoaugment_cglo",
        replace_probability=p,
        augment_probability=1.0,
        augment_synthetic=False,
    )
    plain = create_spec("cglo", replace_probability=p)
    x, _ = create_batch(shared, spec)
    before, _ = create_batch(shared, plain)
    always, _ = create_batch(
        shared, create_spec("autoaugment", augment_probability=1.0)
    )
    synthetic = (before != create_real(shared)).any((1, 2, 3))
    assert synthetic.any() == (p > 0)
    np.testing.assert_allclose(x[synthetic], before[synthetic], atol=1e-6)
    np.testing.assert_allclose(x[~synthetic], always[~synthetic], atol=1e-6)
    assert (always != create_real(shared)).any((1, 2, 3)).mean() > 0.5


def test_which_methods_need_cglo():
    assert not need_cglo(["baseline", "pixelmix", "mixmatch"])
    assert need_cglo(["baseline", "autoaugment_cglo"])
