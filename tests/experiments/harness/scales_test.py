"""Tests of experiments/harness/scales.py."""

from cglo_jax.config.defaults import flatten
from experiments.harness import scales


def test_cutout_is_a_quarter_of_small_and_half_of_large_images():
    shares = {}
    for key, setting in scales.SETTINGS.items():
        config = setting.config()
        side = config.dataset.crop or {"digits": 8}.get(key[1], 32)
        shares[key] = config.classify.cutout_size / side
    assert {k: v for k, v in shares.items() if k[1] != "cub"} == {
        k: 0.25 for k in shares if k[1] != "cub"
    }
    assert shares["paper", "cub"] == shares["hour", "cub"] == 0.5


def test_paper_scale_is_as_configured():
    from configs import cifar10, cifar100, cub

    configs = {"cifar10": cifar10, "cifar100": cifar100, "cub": cub}
    for data, config in configs.items():
        setting = scales.SETTINGS["paper", data]
        assert flatten(setting.config()) == flatten(config.get_config())
        assert setting.seeds == (0, 1, 2)
        assert not setting.own_images
