"""Tests of cglo_jax/config/fields.py."""

import re

from cglo_jax.classifier.methods import METHODS
from cglo_jax.config.checks import EXPORTS, SIDES
from cglo_jax.config.fields import FIELDS, ROWS, SECTIONS, Section


def test_no_name_is_there_twice():
    assert len(FIELDS) + len(SECTIONS) == len(ROWS)


def test_fields_stand_below_their_section():
    heading = None
    for row in ROWS:
        if isinstance(row, Section):
            heading = row.name
        else:
            assert row.section == heading, row.name


def test_every_default_may_be():
    for field in FIELDS.values():
        value = field.default
        value = list(value) if isinstance(value, tuple) else value
        assert field.check is None or field.check.holds(value), field.name


def test_the_source_follows_the_meaning():
    assert FIELDS["latent.dim"].description.endswith(" [P 4.3]")
    assert FIELDS["devices"].description == FIELDS["devices"].meaning


def test_every_meaning_can_be_read_by_itself():
    for field in FIELDS.values():
        words = field.meaning.split()
        assert len(words) >= 2, field
        assert words[:2] not in (["of", "both"], ["of", "it"], ["as", "above"]), field


def test_choices_are_in_the_meaning():
    for field in FIELDS.values():
        if field.check and field.check.want.startswith("one of "):
            for choice in field.check.want.removeprefix("one of ").split(", "):
                assert choice in field.meaning, field.name


def test_meanings_list_what_there_is_to_choose_from():
    listed = re.match(r"any of ([\w, ]+);", FIELDS["classify.methods"].meaning)[1]
    assert sorted(listed.split(", ")) == sorted(METHODS)
    exports = re.findall(r'"(\w+)"', FIELDS["sample.export"].meaning)
    assert exports == list(EXPORTS)
    sides = re.search(r": ([\d, ]+), \.\.\.", FIELDS["dataset.size"].meaning)[1]
    assert [int(side) for side in sides.split(", ")] == list(
        SIDES[: sides.count(",") + 1]
    )


def test_defaults_of_the_protocol():
    """By hand: what docs/paper.md says of our defaults, which are those of CIFAR-100."""
    expected = {
        "seeds": (0, 1, 2),
        "dataset.shortfall": 0,
        "dataset.unlabelled": 0,
        "dataset.transductive": False,
        "latent.dim": 128,
        "latent.noise": "concat",
        "latent.noise_dim": 100,
        "latent.noise_std": 0.15,
        "latent.init": "sphere",
        "generator.width": 64,
        "generator.max_width": 512,
        "weak_classifier.input": "image",
        "weak_classifier.loss": "cross_entropy",
        "weak_classifier.width": 64,
        "weak_classifier.gamma": 0.02,
        "reconstruction.loss": "perceptual",
        "reconstruction.layer_weights": (1.0,) * 5,
        "reconstruction.pixel_weight": 1.0,
        "reconstruction.normalize": True,
        "train.epochs": 200,
        "train.steps_per_epoch": 390,
        "train.unlabelled_steps": 0,
        "train.epoch_ends_on": "labelled",
        "train.batch_size": 128,
        "train.generator_lr": 7e-4,
        "train.code_lr": 1e-3,
        "train.adam_b1": 0.5,
        "train.adam_b2": 0.999,
        "train.lr_drop_epochs": (70, 140),
        "train.lr_drop": 0.5,
        "train.weak_lr": 0.1,
        "train.weak_momentum": 0.9,
        "train.weak_weight_decay": 1e-4,
        "sample.interpolation": "slerp",
        "sample.t_values": (0.1, 0.2, 0.3, 0.4),
        "sample.batch_statistics": "running",
        "classify.replace_probability": 0.5,
        "classify.augment_probability": 0.5,
        "classify.draw_per": "example",
        "classify.cutout_size": 8,
        "classify.network": "wide_resnet",
        "classify.depth": 28,
        "classify.width": 10,
        "classify.dropout": 0.3,
        "classify.epochs": 200,
        "classify.steps_per_epoch": 390,
        "classify.batch_size": 128,
        "classify.lr": 0.1,
        "classify.momentum": 0.9,
        "classify.weight_decay": 5e-4,
        "classify.lr_drop_epochs": (60, 120, 160),
        "classify.lr_drop": 0.2,
        "classify.pad": 4,
        "classify.pad_value": 0.0,
        "classify.flip": True,
        "classify.augment_synthetic": True,
        "report.confidence": 0.95,
    }
    assert {name: FIELDS[name].default for name in expected} == expected
