"""What every test needs: four CPU devices, strict ranks, and made-up data."""

import hashlib
import logging as stdlib_logging
import os
import pathlib
import shutil
import signal
from collections.abc import Iterator
from typing import NamedTuple

# Before JAX starts. Four CPU devices, with threads enough for them on few cores. Tests compile a lot
# and compute little, so LLVM optimises nothing; XLA's own passes, which matter here, still run.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # t-SNE of few points on shared cores
os.environ.setdefault("GLIBC_TUNABLES", "")  # no program starts itself anew
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # tests count compilations
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        "--xla_backend_optimization_level=0",
    ]
)

# As in a job of a script, or under nohup: programs that tests start would ignore them, too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from cglo_jax import process

process.prepare()  # the kernels that programs compute with

import jax
import numpy as np
import pytest
import report_workdir
from absl import logging
from ml_collections import ConfigDict

from cglo_jax import config as defaults
from cglo_jax import data, decode, previews, train
from cglo_jax.data import Dataset
from cglo_jax.errors import UserError

COMPILED = "/jax/core/compile/backend_compile_duration"  # one event per program
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def cifar100_dir() -> str:
    """Directory with a prepared cifar100, to be given as `config.dataset.data_dir`."""
    shared = os.environ.get("CGLO_SHARED")
    if not shared:
        pytest.skip("needs CGLO_SHARED, a directory holding data/tensorflow_datasets")
    directory = pathlib.Path(shared) / "data" / "tensorflow_datasets"
    if not (directory / "cifar100").is_dir():
        pytest.skip(f"CGLO_SHARED: there is no {directory / 'cifar100'}")
    return str(directory)


@pytest.fixture(autouse=True)
def _quiet_again():
    """Gives other tests absl's verbosity back, which stages lower."""
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)


@pytest.fixture
def ours(monkeypatch) -> Iterator[int | None]:
    """Lets the test be in a program of ours, which silences Pillow; yields libtiff's own printer."""
    libtiff, logger = decode.find_libtiff(), stdlib_logging.getLogger("PIL")
    level, printer = logger.level, libtiff.TIFFSetErrorHandler(None)
    monkeypatch.setattr(process, "_ours", True)
    yield printer  # pytest itself gives the filters of warnings back
    logger.setLevel(level)
    libtiff.TIFFSetErrorHandler(printer)


@pytest.fixture(autouse=True, scope="session")
def _no_pictures():
    """Draws nothing for TensorBoard where a test trains: it costs a program each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(previews, "draw", lambda *_: {})
        yield


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Frees what a module compiled: a process may map only so many pieces of memory."""
    yield
    jax.clear_caches()


def create_dataset(
    n: int = 24,
    *,
    classes: int = 3,
    unlabelled: int = 0,
    size: int = 8,
    channels: int = 1,
    seed: int = 0,
    split: str = "train",
) -> Dataset:
    """Makes smooth images whose brightness depends on the class, labelled in turn 0, 1, 2, 0, ...

    Args:
      n: images, the last `unlabelled` of them without a label.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 128, (n, size // 4, size // 4, channels))
    images = (
        coarse.repeat(4, 1).repeat(4, 2)
        + 40 * (np.arange(n) % classes)[:, None, None, None]
    )
    labels = np.arange(n, dtype=np.int32) % classes
    labels[n - unlabelled :] = -1
    return Dataset(
        images=images.astype(np.uint8),
        labels=labels,
        class_names=tuple(f"class {c}" for c in range(classes)),
        ids=tuple(f"{seed:02x}{i:030x}" for i in range(n)),
        split=split,
    )


def fields(**changes: object) -> ConfigDict:
    """Returns `config.dataset` of the defaults with `changes`."""
    dataset = defaults.get_config().dataset
    dataset.update(changes)
    return dataset


def error_of(dataset: ConfigDict) -> str:
    """Returns the one line with which loading `dataset` is refused."""
    with pytest.raises(UserError) as error:
        data.load(dataset)
    assert "\n" not in str(error.value)
    return str(error.value)


def hash_pixels(image: np.ndarray) -> str:
    """Returns the id that an image of these pixels should have."""
    text = repr(image.shape).encode() + image.tobytes()
    return hashlib.sha256(text).hexdigest()[:32]


def create_config(**changes: object) -> ConfigDict:
    """Returns the defaults shrunk to a second's work, with `changes` by dotted names."""
    config = defaults.get_config()
    tiny = {
        "seeds": (0,),
        "devices": 1,
        "latent.dim": 8,
        "latent.noise_dim": 4,
        "generator.width": 4,
        "generator.max_width": 8,
        "weak_classifier.width": 4,
        "weak_classifier.gamma": 0.5,
        "reconstruction.loss": "laplacian",
        "train.epochs": 2,
        "train.steps_per_epoch": 3,
        "train.batch_size": 8,
        "train.checkpoint_every_epochs": 1,
        "train.log_every_steps": 1,
        "train.lr_drop_epochs": (),  # equal constants share a compiled step
        "sample.per_class": 2,
        "sample.projection": "pca",
        "classify.depth": 10,
        "classify.width": 1,
        "classify.dropout": 0.0,
        "classify.epochs": 2,
        "classify.steps_per_epoch": 3,
        "classify.batch_size": 8,
        "classify.pad": 1,
        "classify.checkpoint_every_epochs": 1,
        "classify.log_every_steps": 1,
        "classify.lr_drop_epochs": (),
    }
    config.update_from_flattened_dict({**tiny, **changes})
    return config


@pytest.fixture
def tiny_dataset() -> Dataset:
    """24 images of 3 classes, 8x8 grey, all labelled."""
    return create_dataset()


@pytest.fixture
def tiny_config() -> ConfigDict:
    """A config of seconds for `tiny_dataset`."""
    return create_config()


def assert_trees_equal(one, other) -> None:
    """Fails unless two trees have one structure and equal leaves."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def differ(one, other) -> bool:
    """Whether two trees of one structure have an unequal leaf."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any(np.any(a != b) for a, b in pairs)


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """A list that grows by one with every program that XLA compiles."""
    events: list[str] = []

    def count(event: str, duration: float, **_: object) -> None:
        if event == COMPILED:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    yield events
    jax.monitoring.unregister_event_duration_listener(count)


class Run(NamedTuple):
    """A finished `train.run` of seed 0."""

    config: ConfigDict
    dataset: Dataset
    workdir: pathlib.Path


@pytest.fixture(scope="session")
def _trained_once(tmp_path_factory) -> Run:
    workdir = tmp_path_factory.mktemp("trained")
    # Enough steps for batch norm's running statistics: before, all images look the same.
    config = create_config(**{"train.steps_per_epoch": 30, "train.log_every_steps": 10})
    dataset = create_dataset()
    train.run(config, workdir, dataset, 0)
    return Run(config, dataset, workdir)


@pytest.fixture
def trained(_trained_once: Run, tmp_path: pathlib.Path) -> Run:
    """A copy of a tiny trained cGLO, to sample from and to classify with."""
    workdir = tmp_path / "trained"
    shutil.copytree(_trained_once.workdir, workdir)
    config, dataset, _ = _trained_once
    return Run(config.copy_and_resolve_references().lock(), dataset, workdir)


@pytest.fixture
def config() -> ConfigDict:
    """The config of `workdir`."""
    return report_workdir.make_config()


@pytest.fixture
def workdir(tmp_path, config) -> pathlib.Path:
    """A made-up work directory in which every stage but the report has run."""
    report_workdir.put_workdir(tmp_path, config)
    return tmp_path
