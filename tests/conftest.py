"""What every test needs: four CPU devices, strict ranks, and made-up data."""

import logging as stdlib_logging
import os
import pathlib
import shutil
import signal
from collections.abc import Iterator

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

from cglo_jax.process import setup

setup.prepare()  # the kernels that programs compute with

import jax
import pytest
from absl import logging
from ml_collections import ConfigDict

from cglo_jax.data import decode
from cglo_jax.data.dataset import Dataset
from cglo_jax.stages import previews, train
from tests.helpers import report_workdir
from tests.helpers.tiny import Run, create_config, create_dataset

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
    monkeypatch.setattr(setup, "_ours", True)
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


@pytest.fixture(scope="module")
def kept_programs(tmp_path_factory) -> Iterator[None]:
    """Lets the processes that a module starts find what others compiled, as a person's do."""
    kept = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in kept.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def tiny_dataset() -> Dataset:
    """24 images of 3 classes, 8x8 grey, all labelled."""
    return create_dataset()


@pytest.fixture
def tiny_config() -> ConfigDict:
    """A config of seconds for `tiny_dataset`."""
    return create_config()


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
