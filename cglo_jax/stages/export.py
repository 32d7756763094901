"""The stage export: generators, codes and classifiers as files that need no code of ours.

`jax.export` writes programs (StableHLO for any number of images, on CPU, GPU or TPU), safetensors
the classifiers' tensors; README.md beside them says how to use both. A generator's weights are in its
program, a classifier's are what its program is called with.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
import safetensors.numpy
from flax import traverse_util
from jax._src.config import traceback_in_locations_limit  # for one thread
from ml_collections import ConfigDict

from cglo_jax import __version__
from cglo_jax.cglo import sampling
from cglo_jax.config import saved
from cglo_jax.config.fingerprint import check_fingerprint, train_fingerprint
from cglo_jax.data.dataset import to_float, to_uint8
from cglo_jax.errors import UserError
from cglo_jax.files import lock, ownership
from cglo_jax.inference import classifier as ensemble
from cglo_jax.inference import generator
from cglo_jax.inference.classifier import Classifier
from cglo_jax.inference.generator import TrainedModel
from cglo_jax.models.layers import BATCH_NORM_EPSILON
from cglo_jax.process import numerics
from cglo_jax.report.markdown import render
from cglo_jax.workdir import directory as workdirs
from cglo_jax.workdir import trained

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@numerics.with_ours
def run(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    """Writes workdir/exports: every trained generator and every trained classifier.

    Returns:
      The directory written, which is replaced as a whole.

    Raises:
      UserError: nothing is trained there, or it is of another configuration.
    """
    path = saved.find_workdir(workdir)
    workdirs.check(config, path)
    seeds, results = generator.trained_seeds(path), ensemble.find(path)
    if not seeds and not results:
        raise UserError(f"nothing is trained in {path}: run --stage=train first")
    with lock.hold(path), ownership.replacing(path, "exports") as new:
        model = classifier = None  # one of each in memory
        for seed in seeds:
            model = _restore(config, path, seed)
            write_generator(new / f"seed-{seed}", model)
        names = [f"{method}-{seed}" for method, seed in results]
        for name, (key, result) in zip(names, results.items(), strict=True):
            classifier = ensemble.restore(path, *key, result)
            write_classifier(new / name, classifier)
        readme = _describe(model, seeds, classifier, names)
        (new / "README.md").write_text(readme, encoding="utf-8")
    return path / "exports"


def _restore(config: ConfigDict, workdir: pathlib.Path, seed: int) -> TrainedModel:
    cglo = trained.restore_with_added(workdir, seed)
    where = str(trained.checkpoint_dir(workdir, seed))
    saved, now = cglo.meta["fingerprint"], train_fingerprint(config)
    check_fingerprint(saved, now, where, may_grow=("train",))
    return generator.create(config, seed, cglo, workdir)


def write_generator(directory: pathlib.Path, model: TrainedModel) -> None:
    """Writes generator.jax_export and codes.npz.

    The program takes codes float32 [b, d] and noise float32 [b, e], drawn from N(0, I); e is 0
    for a generator without noise. It returns images uint8 [b, H, W, C].
    """
    variables, spec = model.restored.sampler.variables, model.restored.spec

    def generate(z: jax.Array, noise: jax.Array) -> jax.Array:
        eps = spec.generator.noise_std * noise if noise.shape[1] else None
        return to_uint8(sampling.generate_with(variables, z, eps, spec=spec))

    (b,) = jax.export.symbolic_shape("b")
    dim, noise_dim = model.z.shape[1], _noise_dim(model)
    inputs = [jax.ShapeDtypeStruct((b, d), np.float32) for d in (dim, noise_dim)]
    directory.mkdir(parents=True)
    _write_program(directory / "generator.jax_export", generate, *inputs)
    np.savez(
        directory / "codes.npz",
        z=model.z,
        labels=model.labels,
        class_names=np.array(model.class_names, str),
        ids=np.array(model.ids, str),
    )


def _noise_dim(model: TrainedModel) -> int:
    return model.restored.spec.generator.noise_length(model.z.shape[1])


def write_classifier(directory: pathlib.Path, classifier: Classifier) -> None:
    """Writes classifier.safetensors and classifier.jax_export.

    The program takes the tensors, {name: array}, and images uint8 [b, H, W, C]; it returns logits
    float32 [b, K].
    """
    (variables,) = classifier.variables
    tensors = traverse_util.flatten_dict(jax.device_get(variables), sep=".")

    def classify(tensors: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        variables = traverse_util.unflatten_dict(tensors, sep=".")
        return classifier.network.apply(variables, to_float(images), train=False)[0]

    (b,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((b, *classifier.image_shape), np.uint8)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tensors)
    directory.mkdir(parents=True)
    _write_program(directory / "classifier.jax_export", classify, shapes, images)
    content = safetensors.numpy.save(
        {name: np.ascontiguousarray(a) for name, a in tensors.items()},
        # One entry: several would have another order every time.
        metadata={"cglo_jax": json.dumps(_metadata(classifier))},
    )
    (directory / "classifier.safetensors").write_bytes(content)


def _metadata(classifier: Classifier) -> dict[str, Any]:
    """Returns what a reader must know to compute the same logits."""
    fields = dataclasses.asdict(classifier.network)
    kept = ("depth", "width", "normalize")
    return {
        "architecture": type(classifier.network).__name__,
        **{name: fields[name] for name in kept if name in fields},
        "class_names": classifier.class_names,
        "image_shape": classifier.image_shape,
        "input": "uint8 / 127.5 - 1",
        # How files became those: what transparency lies on, the bits of deep images, sRGB or as stored.
        "files": classifier.conversion._asdict(),
        "layout": "images NHWC, convolution kernels HWIO, dense kernels IO",
        "batch_norm_epsilon": BATCH_NORM_EPSILON,
        "method": classifier.method,
        "seed": classifier.seeds[0],
        "version": __version__,
    }


def _write_program(path: pathlib.Path, function: Callable, *shapes: Any) -> None:
    with traceback_in_locations_limit(0):  # no paths of this machine's files
        program = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*shapes)
    path.write_bytes(program.serialize())


def _describe(
    model: TrainedModel | None,
    seeds: Sequence[int],
    classifier: Classifier | None,
    names: Sequence[str],
) -> str:
    """What the files are; `model` and `classifier` are any of them."""
    return render(
        "exports.md.jinja",
        model=model,
        noise_dim=_noise_dim(model) if model else 0,
        pair=_choose_pair(model) if model else None,
        classifier=classifier,
        seeds=seeds,
        names=names,
        platforms=PLATFORMS,
        versions={"cglo_jax": __version__, "jax": jax.__version__},
    )


def _choose_pair(model: TrainedModel) -> tuple[int, int]:
    """Returns two training images, of one class if a class has two."""
    for label in range(len(model.class_names)):
        members = np.flatnonzero(model.labels == label)
        if len(members) > 1:
            return int(members[0]), int(members[1])
    return 0, 1
