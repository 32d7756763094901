"""A made-up work directory with checkpoints, as a finished run leaves it; nothing is trained."""

import json
import math
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import algorithm
from cglo_jax.classifier import step as classifier
from cglo_jax.classifier.methods import METHODS
from cglo_jax.config.fingerprint import classify_fingerprint, train_fingerprint
from cglo_jax.data.dataset import Dataset
from cglo_jax.stages import train
from cglo_jax.training.checkpoints import Checkpoints
from cglo_jax.workdir import directory, trained
from cglo_jax.workdir.results import result_path
from tests.helpers.tiny import create_config, create_dataset

STEP = 6


def draw(tree, seed: int):
    """Draws arrays of these shapes with which every layer's output is about as large as its input."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        drawn = rng.standard_normal(shape.shape)
        if name == "kernel":
            drawn *= 1.5 / math.sqrt(math.prod(shape.shape[:-1]))
        elif name in ("var", "scale"):
            drawn = 1 + np.abs(drawn) / 2
        else:  # bias, mean
            drawn *= 0.3
        return drawn.astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def put_run(
    workdir: pathlib.Path,
    *,
    seeds: tuple[int, ...] = (0,),
    dataset: Dataset | None = None,
    **changes: object,
) -> tuple[ConfigDict, Dataset]:
    """Fills a work directory with one cGLO per seed; returns what it was "trained" with."""
    config = create_config(seeds=seeds, **changes)
    dataset = dataset or create_dataset()
    directory.create(config, workdir)
    for seed in seeds:
        put_cglo(workdir, config, dataset, seed)
    return config, dataset


def put_cglo(workdir, config, dataset, seed) -> None:
    spec = algorithm.create_spec(config, dataset)
    dim = config.latent.dim
    outline = jax.eval_shape(
        lambda key: algorithm.init_state(key, spec=spec, n=len(dataset.ids), dim=dim),
        jax.random.key(0),
    )
    model, _ = train.split_state(outline)
    networks = draw({k: model[k] for k in ("params", "batch_stats")}, seed)
    z = np.random.default_rng(seed).standard_normal(model["z"].shape)
    z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    ids = trained.hash_ids(dataset.ids)
    model = {**networks, "z": z, "ids": ids, "labels": dataset.labels}
    meta = {
        "fingerprint": train_fingerprint(config),
        "images": dataset.digest,
        "names": list(dataset.class_names),
        "shape": list(dataset.images.shape[1:]),
        "total": STEP,
        "weights": "none",
        "n_labelled": dataset.num_labelled,
        "notes": {"weights": "none", "added": 0},
        "batch_size": config.train.batch_size,
        "rate": 1.0,
    }
    with Checkpoints(trained.checkpoint_dir(workdir, seed)) as saved:
        saved.save(STEP, model, {"step": np.int32(STEP)}, meta)


def put_classifier(workdir, config, dataset, method, seed, step=STEP) -> dict:
    """Adds a classifier and its result; returns its {params, batch_stats}."""
    spec = classifier.create_spec(
        config, *dataset.side_and_channels, dataset.num_classes, METHODS[method]
    )
    outline = jax.eval_shape(
        lambda key: classifier.init_state(key, spec=spec), jax.random.key(0)
    )
    model, _ = classifier.split_state(outline)
    model = draw(model, 100 + seed)
    path = result_path(workdir, method, seed)
    fingerprint = {**classify_fingerprint(config), "images": dataset.digest}
    fingerprint["weights"] = "random"
    meta = {
        "fingerprint": fingerprint,
        "names": list(dataset.class_names),
        "shape": list(dataset.images.shape[1:]),
        "conversion": dataset.conversion._asdict(),
        "rate": 1.0,
    }
    with Checkpoints(path.parent / "checkpoints") as saved:
        saved.save(step, model, {"step": np.int32(step)}, meta)
    path.write_text(json.dumps(create_result(dataset, method, seed, fingerprint)))
    return model


def create_result(dataset, method, seed, fingerprint) -> dict:
    """Returns what `classify.run` writes."""
    k = len(dataset.class_names)
    return {
        "method": method,
        "seed": seed,
        "top1": 80.0,
        "top5": 100.0,
        "n_test": 100,
        "confusion": [[0, 0, 80], [0, 1, 20]],  # of images of the first class only
        "steps": STEP,
        "fingerprint": fingerprint,
        "dataset": {
            "name": "shapes",
            "num_classes": k,
            "n_labelled": dataset.num_labelled,
            "n_unlabelled": 0,
            "transductive": False,
            "test_split": "test",
            "class_weights": False,
            "class_names": list(dataset.class_names),
            "train_counts": [dataset.num_labelled // k] * k,
            "test_counts": [100] + [0] * (k - 1),
            "near_copies": 0,
            "near_copies_shown": [],
        },
        "classifier_weights": "random",
        "perceptual_weights": "none",
        "perceptual_digest": "none",
        "codes_added_later": 0,
        "rates_times": {"classifier": 1.0},
        "environment": {"python": "3.11.9", "device": "cpu", "commit": "0123abc"},
    }
