"""Tests of cglo_jax/report/model_cards.py: what a model card says, and that it is valid for its readers."""

import ast
import dataclasses
import shutil

import numpy as np
import pytest
import yaml

import cglo_jax
from cglo_jax.config.fingerprint import classify_fingerprint
from cglo_jax.files import storage
from cglo_jax.report import model_cards
from cglo_jax.training import checkpoints
from cglo_jax.workdir import trained
from tests.helpers.saved_run import create_result, put_classifier, put_run
from tests.helpers.tiny import create_config, create_dataset

NAMES = ("plain", "<b>&", "a_b|c*")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, config, dataset) of a run with odd class names and two unlabelled images."""
    dataset = create_dataset(26, unlabelled=2)
    dataset = dataclasses.replace(dataset, class_names=NAMES)
    workdir = tmp_path_factory.mktemp("cards") / "run"
    changes = {"dataset.name": "folder", "dataset.path": "/secret/place/my photos"}
    config, _ = put_run(workdir, dataset=dataset, **changes)
    for step, loss in ((3, 0.5), (6, 0.25)):
        tags = {"stage": "train", "seed": 0}
        line = {**tags, "step": step, "epoch": 1.0, "loss": loss}
        storage.append_record(workdir / "metrics.jsonl", line)
    storage.append_record(workdir / "metrics.jsonl", {**line, "seed": 1, "loss": 9.0})
    return workdir, config, dataset


@pytest.fixture(scope="module")
def generator_card(run):
    workdir, config, dataset = run
    model_cards.write_generator_card(config, workdir, dataset, 0)
    return (workdir / "checkpoints" / "seed-0" / "README.md").read_text()


def classifier_card(workdir, config, images, method="cglo", **changes) -> str:
    fingerprint = {
        **classify_fingerprint(config),
        "images": "1234",
        "test_images": "5678",
    }
    result = {**create_result(images, method, 0, fingerprint), **changes}
    model_cards.write_classifier_card(config, workdir, result)
    return (workdir / "classifiers" / f"{method}-0" / "README.md").read_text()


def front_matter(text) -> dict:
    """The YAML between the first two lines of ---."""
    start, matter, rest = text.split("---\n", 2)
    assert start == "" and rest.startswith("\n# ")
    return yaml.safe_load(matter)


def python_of(text) -> str:
    return text.split("```python\n")[1].split("```")[0]


def test_a_generators_card_says_what_it_was_made_of(generator_card):
    assert front_matter(generator_card)["library_name"] == "cglo_jax"
    assert "# A generator of my photos (a folder of images), seed 0" in generator_card
    assert "24 labelled images of 3 classes and 2 without a label" in generator_card
    for line in (
        "| plain | 8 |",
        "| &lt;b&gt;&amp; | 8 |",
        r"| a_b\|c\* | 8 |",
        "- networks trained on other images: none",
        "- unlabelled images: 2",
        "6 steps of 8 images. Fields of the configuration that are not the defaults:",
        "- `latent.dim = 8`",
        "- `train.lr_drop_epochs = []`",
    ):
        assert f"\n{line}\n" in generator_card, line


def test_it_has_the_last_losses_of_its_own_seed(generator_card):
    metrics = generator_card.split("## Metrics")[1].split("##")[0]
    assert "- `loss`: 0.25\n" in metrics
    assert "step`" not in metrics


def test_it_names_no_path_of_this_machine(run, generator_card):
    assert "/secret" not in generator_card
    assert str(run[0]) not in generator_card


def test_priors_and_lowered_rates_are_listed(run, tmp_path):
    workdir, config, dataset = run
    copy = shutil.copytree(workdir, tmp_path / "run")
    model, meta, step = checkpoints.restore_latest_model(
        trained.checkpoint_dir(copy, 0), ""
    )
    meta |= {"weights": "abc123", "rate": 0.25}
    meta["notes"] = {"weights": "ImageNet weights", "added": 0}
    shutil.rmtree(copy / "checkpoints")
    with checkpoints.Checkpoints(trained.checkpoint_dir(copy, 0)) as saved:
        saved.save(step, model, {"step": np.int32(step)}, meta)
    config = config.copy_and_resolve_references()
    config.dataset.transductive = True
    model_cards.write_generator_card(config, copy, dataset, 0)
    text = (copy / "checkpoints" / "seed-0" / "README.md").read_text()
    assert "other images: ImageNet weights (digest `abc123`)\n" in text
    assert "unlabelled images: 2, the test images among them (transductive)" in text
    assert "6 steps of 8 images, learning rates times 0.25 at the end." in text


def test_equal_runs_have_equal_cards(run, generator_card, tmp_path):
    workdir, config, dataset = run
    copy = shutil.copytree(workdir, tmp_path / "other name")
    model_cards.write_generator_card(config, copy, dataset, 0)
    card = copy / "checkpoints" / "seed-0" / "README.md"
    assert card.read_text() == generator_card
    one, two = (classifier_card(d, config, dataset) for d in (workdir, copy))
    assert one == two


def test_a_classifiers_card_has_its_accuracy_for_people_and_machines(run):
    text = classifier_card(*run, top1=81.234)
    (index,) = front_matter(text)["model-index"]
    assert index["name"] == "cglo-0"
    top1, top5 = index["results"][0]["metrics"]
    assert (top1["type"], top1["value"], top5["value"]) == ("accuracy", 81.23, 100.0)
    # p = (81.234 + 2) / 104 = .8003: sqrt(p * (1 - p) / 104) = .0392
    assert "| top-1 accuracy | 81.23 ± 3.92 |" in text
    assert "| | % of 100 test images |" in text
    assert "digest of the training images and their labels\n`1234`" in text
    assert "of the test images `5678`" in text
    data = {**create_result(run[2], "cglo", 0, {})["dataset"], "test_split": "held"}
    assert "100 test images (held) |" in classifier_card(*run, dataset=data)


def test_what_is_right_of_each_class_is_there(run):
    header = "| class | training images | test images |"
    confusion = [[0, 0, 30], [0, 1, 3], [2, 1, 1], [2, 2, 32]]
    config, images = run[1:]
    result = create_result(images, "cglo", 0, {})
    data = {**result["dataset"], "test_counts": [33, 33, 33]}
    text = classifier_card(run[0], config, images, confusion=confusion, dataset=data)
    assert f"{header} classified correctly |\n| --- | --- | --- | --- |\n" in text
    assert "| plain | 8 | 33 | 30 |\n| &lt;b&gt;&amp; | 8 | 33 | 0 |\n" in text
    assert "| a_b\\|c\\* | 8 | 33 | 32 |\n" in text


@pytest.mark.parametrize(
    ("method", "read", "unread"),
    [
        ("baseline", "classify.depth", ("latent.dim", "mixmatch.ema", "cutout_size")),
        ("cglo", "latent.dim", ("mixmatch.ema", "classify.cutout_size")),
        ("cutout", "classify.cutout_size", ("latent.dim", "mixmatch.ema")),
        ("mixmatch", "mixmatch.ema", ("latent.dim", "classify.cutout_size")),
    ],
)
def test_fields_are_those_that_the_method_reads(tmp_path, method, read, unread):
    changes = {"mixmatch.ema": 0.5, "classify.cutout_size": 2}
    config = create_config(**changes)
    text = classifier_card(tmp_path, config, create_dataset(), method)
    assert f"- `{read} = " in text
    assert not [name for name in unread if name in text]


def test_a_class_of_any_name_is_named_in_python(tmp_path):
    names = ("\U0001f600", "b", "c")
    dataset = dataclasses.replace(create_dataset(), class_names=names)
    config, _ = put_run(tmp_path / "run", dataset=dataset)
    model_cards.write_generator_card(config, tmp_path / "run", dataset, 0)
    text = (tmp_path / "run" / "checkpoints" / "seed-0" / "README.md").read_text()
    example = python_of(text).split("sample(")[1].split(", n=8")[0]
    assert ast.literal_eval(example) == names[0]


def test_the_lines_that_load_are_python_that_loads(run, generator_card, monkeypatch):
    workdir, config, dataset = run
    put_classifier(workdir, config, dataset, "cglo", 0)
    asked = []
    load, load_classifier = cglo_jax.load, cglo_jax.load_classifier
    monkeypatch.setattr(
        cglo_jax, "load", lambda path, seed: asked.append(path) or load(workdir, seed)
    )
    monkeypatch.setattr(
        cglo_jax,
        "load_classifier",
        lambda path, *a, **k: asked.append(path) or load_classifier(workdir, *a, **k),
    )
    made = {}
    exec(python_of(generator_card), made)  # noqa: S102 - ours
    assert made["images"].shape == (8, 8, 8, 1)
    code = python_of(classifier_card(*run)).replace('["photo.jpg"]', "images")
    exec(code, made)  # noqa: S102
    assert len(made["names"]) == 8
    assert asked == ["the work directory"] * 2


def test_names_of_any_kind_stay_valid_yaml(run):
    workdir, config, dataset = run
    name = 'it\'s: "a" {b} - # <c>'
    data = {**create_result(dataset, "cglo", 0, {})["dataset"], "name": name}
    text = classifier_card(workdir, config, dataset, dataset=data)
    (index,) = front_matter(text)["model-index"]
    assert index["results"][0]["dataset"]["name"] == name
