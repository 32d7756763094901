"""A service: models used from many threads, event loops and processes leave the process as it was."""

import asyncio
import concurrent.futures
import gc
import logging
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import absl.logging
import numpy as np
import pytest
from PIL import Image

import cglo_jax
from cglo_jax.errors import UserError
from cglo_jax.inference.classifier import Classifier
from cglo_jax.inference.generator import TrainedModel
from tests.helpers.saved_run import put_classifier, put_run

THREADS = 8
GROWTH_MB = 40  # of a process, by chance: 1,000 leaks of one image of 100 KB are more


class Service(NamedTuple):
    """A run, image files (the last one is none), and what there is to use."""

    workdir: pathlib.Path
    files: list[pathlib.Path]
    classifier: Classifier
    model: TrainedModel


@pytest.fixture(name="service", scope="module")
def _service(tmp_path_factory) -> Service:
    root = tmp_path_factory.mktemp("service")
    config, dataset = put_run(root / "run")
    put_classifier(root / "run", config, dataset, "cglo", 0)
    files = [root / f"{i}.png" for i in range(6)]
    for file, image in zip(files, dataset.images, strict=False):
        Image.fromarray(image[..., 0]).resize((40, 50)).save(file)
    (root / "bad.png").write_text("no image")
    loaded = cglo_jax.load_classifier(root / "run", "cglo"), cglo_jax.load(root / "run")
    return Service(root / "run", [*files, root / "bad.png"], *loaded)


def describe_process() -> dict[str, object]:
    """Returns what belongs to all of the process, and so to whoever began it."""
    status = os.fstat(2)
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "standard error": (status.st_dev, status.st_ino),
        "streams": (sys.stdout, sys.stderr),
        "threads": {thread.name for thread in threading.enumerate()},
        "warnings": list(warnings.filters),
        "show": warnings.showwarning,
        "logs": {name: logging.getLogger(name).level for name in ("", "PIL", "jax")},
        "absl": absl.logging.get_verbosity(),
        "hooks": (sys.unraisablehook, sys.excepthook, threading.excepthook),
        "signals": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "environment": dict(os.environ),
        "loops": (asyncio.run, asyncio.BaseEventLoop.run_until_complete),
    }


def memory_mb() -> float:
    """Returns the memory of this process that is resident."""
    gc.collect()
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def in_threads(work: Callable[[int], None]) -> None:
    """Calls work(0), work(1), ... at once, each on a thread that ends."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for job in [pool.submit(work, k) for k in range(THREADS)]:
            job.result()


def test_a_thousand_predictions_on_threads(service, capfd):
    *files, bad = service.files[-4:]
    classifier, model = service.classifier, service.model
    want = [classifier.predict(files[: n + 1])[1] for n in range(len(files))]
    made = model.sample(1, n=2, key=3), model.reconstruct([0, 1]), model.walk(0, 1, 3)
    errors = set()

    def work(k: int) -> None:
        for i in range(1000 // THREADS):
            n = (i + k) % len(files)
            np.testing.assert_array_equal(
                classifier.predict(files[: n + 1])[1], want[n]
            )
            if i % 25 == k:
                with pytest.raises(UserError) as error:
                    classifier.predict([files[0], bad])
                errors.add(str(error.value))
                errors.add(str(classifier.read([bad])[0]))
                new = (
                    model.sample(1, n=2, key=3),
                    model.reconstruct([0, 1]),
                    model.walk(0, 1, 3),
                )
                for one, other in zip(made, new, strict=True):
                    np.testing.assert_array_equal(one, other)

    in_threads(lambda k: classifier.predict(files))  # the memory of so many threads
    before, memory = describe_process(), memory_mb()
    in_threads(work)
    grown = memory_mb() - memory
    assert grown < GROWTH_MB
    assert describe_process() == before
    why = "not an image (no valid PNG, JPEG, BMP, GIF, WEBP, TIFF, PPM)"
    assert errors == {why, f"{bad} cannot be used: {why}"}
    os.write(2, b"heard")
    assert capfd.readouterr() == ("", "heard")


def test_loading_on_threads(service, capfd):
    file = service.files[0]
    want, z = service.classifier.predict(file)[1], service.model.z
    refused = set()

    def work(_: int) -> None:
        classifier = cglo_jax.load_classifier(service.workdir, "cglo")
        np.testing.assert_array_equal(classifier.predict(file)[1], want)
        np.testing.assert_array_equal(cglo_jax.load(service.workdir).z, z)
        for workdir, method in [(file.parent, "cglo"), (service.workdir, "mixup")]:
            with pytest.raises(UserError) as error:
                cglo_jax.load_classifier(workdir, method)
            refused.add(str(error.value))

    before = describe_process()
    in_threads(work)
    assert describe_process() == before
    assert len(refused) == 2
    assert capfd.readouterr() == ("", "")


def test_event_loops(service):
    """Loading works in a running loop, too, and leaves nothing of its own loop behind."""
    file, classifier = service.files[0], service.classifier
    want = classifier.predict(file)[1]

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        jobs = [asyncio.to_thread(classifier.predict, file) for _ in range(30)]
        jobs += [loop.run_in_executor(None, classifier.predict, file) for _ in range(9)]
        for _, found in await asyncio.gather(*jobs):
            np.testing.assert_array_equal(found, want)
        with pytest.raises(UserError, match="cannot be used: not an image"):
            await asyncio.to_thread(classifier.predict, service.files[-1])
        again = cglo_jax.load_classifier(service.workdir, "cglo")
        np.testing.assert_array_equal(again.predict(file)[1], want)

    before = describe_process()
    for _ in range(2):
        asyncio.run(serve())
    assert describe_process() == before


def test_a_forked_process_says_so_instead_of_hanging(service, tmp_path):
    def refuse() -> None:
        calls = [
            lambda: service.classifier.predict(service.files[0]),
            lambda: service.classifier.read(service.files),
            lambda: service.model.sample(0),
            lambda: service.model.reconstruct([0]),
            lambda: service.model.walk(0, 1),
            lambda: cglo_jax.load(service.workdir),
            lambda: cglo_jax.load_classifier(service.workdir, "cglo"),
        ]
        with (tmp_path / "said").open("w") as said:
            for call in calls:
                try:
                    call()
                except UserError as error:
                    print(error, file=said)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of any fork
        child = os.fork()
    if not child:
        try:
            refuse()
        finally:
            os._exit(0)
    end = time.monotonic() + 20
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    lines = (tmp_path / "said").read_text().splitlines()
    assert len(lines) == 7 and len(set(lines)) == 1
    assert re.match(r"this process was forked from one that had loaded a mod", lines[0])
    assert "get_context('spawn')" in lines[0]


_loaded: list[Classifier] = []  # in a worker


def _load(workdir: pathlib.Path) -> None:
    _loaded.append(cglo_jax.load_classifier(workdir, "cglo"))


def _answer(file: pathlib.Path) -> np.ndarray:
    return _loaded[0].predict(file)[1]


@pytest.mark.slow
def test_processes_that_start_anew(service):
    *files, bad = service.files
    want = [service.classifier.predict(file)[1] for file in files]
    with concurrent.futures.ProcessPoolExecutor(
        2,
        multiprocessing.get_context("spawn"),
        initializer=_load,
        initargs=(service.workdir,),
    ) as pool:
        for found, wanted in zip(pool.map(_answer, files * 50), want * 50, strict=True):
            np.testing.assert_array_equal(found, wanted)
        with pytest.raises(UserError, match="cannot be used: not an image"):
            pool.submit(_answer, bad).result()
