"""Model cards: README.md beside the checkpoints, for people who get that folder alone.

They contain nothing that differs between two equal runs: no date, no time, no path.
"""

import pathlib
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from cglo_jax.classifier.methods import METHODS
from cglo_jax.config.defaults import get_config
from cglo_jax.config.fingerprint import classify_fingerprint, train_fingerprint
from cglo_jax.data.dataset import Dataset, split_seed_of
from cglo_jax.files import ownership
from cglo_jax.report import verdict
from cglo_jax.report.markdown import render
from cglo_jax.training import logged
from cglo_jax.training.checkpoints import Checkpoints
from cglo_jax.workdir import trained
from cglo_jax.workdir.results import Result, count_labels, name_data, result_path

NAME = "README.md"
_VERSIONS = ("python", "jax", "jaxlib", "flax", "optax", "numpy")
_OF_CGLO = {"latent.", "generator.", "weak_classifier.", "reconstruction.", "train."}
_KINDS = {
    "digits": "scikit-learn's hand-written digits",
    "folder": "a folder of images",
}


def write_generator_card(
    config: ConfigDict, workdir: pathlib.Path, dataset: Dataset, seed: int
) -> None:
    """Writes checkpoints/seed-N/README.md of a cGLO that was trained on `dataset`.

    Raises:
      UserError: its checkpoints or metrics.jsonl are damaged.
    """
    directory = trained.checkpoint_dir(workdir, seed)
    with Checkpoints(directory, read_only=True) as saved:
        step = saved.latest_step()
        meta, environment = saved.meta(step), saved.environment(step)
    losses = logged.last_values(workdir, {"stage": "train", "seed": seed})
    text = render(
        "generator_card.md.jinja",
        data=_describe_source(config),
        counts=list(zip(dataset.class_names, count_labels(dataset), strict=True)),
        example=repr(dataset.class_names[0]),  # Python code
        n_labelled=dataset.num_labelled,
        n_unlabelled=len(dataset.ids) - dataset.num_labelled,
        shape=meta["shape"],
        config=config,
        split_seed=split_seed_of(config.dataset, seed),
        seed=seed,
        meta=meta,
        changed=_changed(train_fingerprint, config),
        losses=list(losses.items()),
        environment=environment,
    )
    name = (directory / NAME).relative_to(workdir).as_posix()
    ownership.write(workdir, name, text)


def write_classifier_card(
    config: ConfigDict, workdir: pathlib.Path, result: Result
) -> None:
    """Writes classifiers/<method>-<seed>/README.md.

    Args:
      result: the content of result.json, see `results.Result`.
    """
    data, versions = result["dataset"], result["environment"]
    names = data["class_names"]
    counts = zip(names, data["train_counts"], data["test_counts"], strict=True)
    _, right = verdict.count_right(result["confusion"])
    text = render(
        "classifier_card.md.jinja",
        data=_describe_source(config),
        counts=list(counts),
        right=[right[label] for label in range(len(names))],
        error=verdict.accuracy_error(result["top1"], result["n_test"]),
        network=_describe_network(config),
        config=config,
        split_seed=split_seed_of(config.dataset, result["seed"]),
        result=result,
        changed=_changed_for(result["method"], config),
        versions=", ".join(f"{k} {v}" for k, v in versions.items() if k in _VERSIONS),
        index=_index(result),
    )
    path = result_path(workdir, result["method"], result["seed"])
    name = path.with_name(NAME).relative_to(workdir).as_posix()
    ownership.write(workdir, name, text)


def _describe_source(config: ConfigDict) -> str:
    name = config.dataset.name
    return f"{name_data(config)} ({_KINDS.get(name, f'TFDS data set {name}')})"


def _describe_network(config: ConfigDict) -> str:
    c = config.classify
    wide = f"WideResNet-{c.depth}-{c.width}"
    return "ResNet-50" if c.network == "resnet50" else wide


def _changed(
    fingerprint: Callable[[ConfigDict], dict[str, Any]], config: ConfigDict
) -> list[tuple[str, Any]]:
    """Returns the fields of a fingerprint that are not the defaults, with their values."""
    defaults = fingerprint(get_config())
    fields = fingerprint(config).items()
    return [(name, value) for name, value in fields if value != defaults[name]]


def _changed_for(name: str, config: ConfigDict) -> list[tuple[str, Any]]:
    """Returns the changed fields of a classifier, without those that its method does not read."""
    method = METHODS[name]
    of_others = {f for m in METHODS.values() for f in m.reads or ()}
    unread = of_others - set(of_others if method.reads is None else method.reads)
    unread |= set() if method.from_cglo else _OF_CGLO
    changed = _changed(classify_fingerprint, config)
    return [(f, v) for f, v in changed if not {f, f"{f.split('.')[0]}."} & unread]


def _index(result: Result) -> list[dict[str, Any]]:
    """Returns the model-index of the front matter: the accuracies for machines to read."""
    data = result["dataset"]["name"]
    metrics = [
        {
            "type": "accuracy",
            "name": f"top-{k} accuracy",
            "value": round(result[f"top{k}"], 2),
        }
        for k in (1, 5)
    ]
    of_task = {
        "task": {"type": "image-classification"},
        "dataset": {"name": data, "type": data},
        "metrics": metrics,
    }
    name = f"{result['method']}-{result['seed']}"
    return [{"name": name, "results": [of_task]}]
