"""The same work on 1, 2, 4 and 8 devices: draws, losses, resuming, and what crosses them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from cglo_jax.cglo.algorithm import Schedule
from tests.helpers import scale_runs

SLOW = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(draws, losses) of an uninterrupted run on four devices."""
    return scale_runs.train_on(tmp_path_factory.mktemp("whole"), 4)


@pytest.fixture(scope="module")
def cut(whole, tmp_path_factory):
    """The work directory of such a run that was cut off after its first checkpoint."""
    workdir = tmp_path_factory.mktemp("cut")
    call = Schedule.__call__

    def stop(self, step):
        if step == 4:
            raise KeyboardInterrupt
        return call(self, step)

    with (
        mock.patch.object(Schedule, "__call__", stop),
        pytest.raises(KeyboardInterrupt),
    ):
        scale_runs.run(workdir, 4)
    return workdir


def ask_eight(*questions):
    """Returns what eight devices answer, see `scale_runs.main`."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    done = subprocess.run(
        [sys.executable, scale_runs.__file__, *questions],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    devices, answers = json.loads(done.stdout)
    assert devices == 8
    return answers


@pytest.fixture(params=[1, pytest.param(2, marks=SLOW), pytest.param(8, marks=SLOW)])
def resumed(request, cut, tmp_path):
    """(draws, losses) of the run that was cut off on four devices, resumed on others."""
    shutil.copytree(cut, tmp_path, dirs_exist_ok=True)
    if request.param == 8:
        return ask_eight(str(tmp_path))[str(tmp_path)]
    return scale_runs.train_on(tmp_path, request.param)


def test_a_run_resumed_on_other_devices_has_the_same_draws_and_losses(whole, resumed):
    draws, losses = resumed
    for name in ("order", "noise"):
        expected = whole[0][name][-len(draws[name]) :]
        assert (len(expected), len(whole[0][name])) == (3, 6)
        np.testing.assert_array_equal(draws[name], expected, err_msg=name)
    np.testing.assert_allclose(losses, whole[1], rtol=1e-5)


def assert_draws_equal(draws, expected):
    assert draws.keys() == expected.keys()
    for name, of_steps in expected.items():
        assert len(of_steps) == 3
        assert not np.array_equal(of_steps[0], of_steps[1])
        np.testing.assert_array_equal(draws[name], of_steps, err_msg=name)


@pytest.mark.parametrize("method", ["baseline", "cglo"])
def test_what_a_classifier_draws_is_the_same_on_four_devices(method):
    on_one = scale_runs.classify_on(method, 1)
    assert_draws_equal(scale_runs.classify_on(method, 4), on_one)


@SLOW
def test_what_all_classifiers_draw_is_the_same_on_two_and_eight_devices():
    on_eight = ask_eight(*scale_runs.METHODS)
    for method in scale_runs.METHODS:
        on_one = scale_runs.classify_on(method, 1)
        assert_draws_equal(scale_runs.classify_on(method, 2), on_one)
        assert_draws_equal(on_eight[method], on_one)


def test_what_crosses_devices_is_the_gradients_and_the_batchs_codes():
    few, many = ask_eight("bytes")["bytes"]
    assert few == many
    expected = few["parameters"] + few["batch_stats"] + few["rows"] * few["row"]
    assert few["crossing"] == pytest.approx(expected, rel=0.01)
    assert few["rows"] * few["row"] > 0.05 * expected  # so that it is seen
