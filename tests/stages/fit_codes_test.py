"""Tests of cglo_jax/stages/fit_codes.py: codes for images added later, all else as it was."""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo import algorithm, code_fit, codes, losses
from cglo_jax.errors import UserError
from cglo_jax.pretrained import networks as pretrained
from cglo_jax.stages import classify, fit_codes, sample, train
from cglo_jax.training import batches, checkpoints, parallel
from cglo_jax.workdir import trained
from tests.helpers.tiny import (
    Run,
    assert_trees_equal,
    create_config,
    create_dataset,
)

MORE = create_dataset(36)  # the first 24 are trained on


def take(indices):
    """The images `indices` of MORE."""
    indices = list(indices)
    return dataclasses.replace(
        MORE,
        images=MORE.images[indices],
        labels=MORE.labels[indices],
        ids=tuple(MORE.ids[i] for i in indices),
    )


# Equal numbers of images share a compiled step.
ALL = take(range(30))
TEST = create_dataset(8, seed=1, split="test")


@pytest.fixture(scope="module")
def _trained_for_long(tmp_path_factory) -> Run:
    """A generator after 200 steps, in which every code had about 50 updates."""
    workdir = tmp_path_factory.mktemp("trained")
    changes = {
        "train.steps_per_epoch": 100,
        "train.batch_size": 6,
        "train.code_lr": 0.05,
        "train.log_every_steps": 10,
    }
    config, dataset = create_config(**changes), take(range(24))
    train.run(config, workdir, dataset, 0)
    return Run(config, dataset, workdir)


@pytest.fixture(scope="module")
def _fitted_once(_trained_for_long, tmp_path_factory) -> Run:
    run = copy(_trained_for_long, tmp_path_factory.mktemp("fitted") / "run")
    fit_codes.run(run.config, run.workdir, (ALL, TEST), 0)
    return run


def copy(run, workdir) -> Run:
    shutil.copytree(run.workdir, workdir)
    return Run(run.config.copy_and_resolve_references(), run.dataset, workdir)


@pytest.fixture
def grown(_trained_for_long, tmp_path) -> Run:
    """A trained run, to which images can be added."""
    return copy(_trained_for_long, tmp_path / "grown")


@pytest.fixture
def fitted(_fitted_once, tmp_path) -> Run:
    """The same with codes for ALL."""
    return copy(_fitted_once, tmp_path / "fitted")


def files_of(directory: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def read_records(workdir, stage="codes"):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["stage"] == stage]


def fit(run, dataset):
    """Fits codes and returns the model that others will restore."""
    fit_codes.run(run.config, run.workdir, (dataset, TEST), 0)
    return restore(run, dataset)


def restore(run, dataset):
    return trained.restore(run.config, run.workdir, dataset, 0, complete=True)


def codes_by_id(model, dataset):
    return dict(zip(dataset.ids, model.z, strict=True))


def fits_in(run) -> list[pathlib.Path]:
    """The directories with codes of some images."""
    return list(run.workdir.glob("codes/seed-0/*/*"))


@functools.partial(jax.jit, static_argnums=0)
def compute_losses(generator, variables, z, x):
    """GLO's loss of each image x with the code z and no noise: [n]."""
    y = generator.apply(variables, z, jnp.zeros((len(z), 4)), train=False)
    return losses.laplacian_loss(y, x)


def reconstruction(run, model, z):
    """Losses of codes [m, d] for the last m images of ALL."""
    spec = algorithm.create_spec(run.config, ALL)
    variables = model.variables
    x = ALL.images[-len(z) :].astype(np.float32) / 127.5 - 1
    return np.asarray(compute_losses(spec.generator, variables, z, x))


# What stays and what is new


def test_known_codes_and_networks_stay_and_each_image_has_its_own_code(grown):
    trained_files = files_of(grown.workdir / "checkpoints")
    before = read_records(grown.workdir, "train")
    old = restore(grown, grown.dataset)
    known = codes_by_id(old, grown.dataset)
    added = [29, 27, 25, 33, 34, 28, 24, 30]
    dataset = take(
        [*added[:4], *range(23, 3, -1), *added[4:], 0, 2]
    )  # 1 and 3 are gone
    model = fit(grown, dataset)
    assert files_of(grown.workdir / "checkpoints") == trained_files
    assert read_records(grown.workdir, "train") == before
    for part in ("params", "batch_stats"):
        assert_trees_equal(getattr(model, part), getattr(old, part))
    np.testing.assert_array_equal(model.labels, dataset.labels)
    assert model.z.shape == (30, 8)
    np.testing.assert_allclose(np.linalg.norm(model.z, axis=1), 1, rtol=1e-6)
    new = []
    for image_id, z in codes_by_id(model, dataset).items():
        if image_id in known:
            np.testing.assert_array_equal(z, known[image_id])
        else:
            new.append(image_id)
    assert new == [MORE.ids[i] for i in added]
    assert len({z.tobytes() for z in model.z}) == 30


def test_fitted_codes_reconstruct_the_new_images(fitted):
    model = restore(fitted, ALL)
    of = functools.partial(reconstruction, fitted, model)
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 3), 3)[0]
    first = codes.draw_codes(key, model.ids, 8)
    last = model.z[24:]
    now, initial, of_others = of(last), of(first[24:]), of(np.roll(last, 1, 0))
    assert (now < initial).all()
    assert now.mean() < 0.75 * initial.mean()
    assert now.mean() < 0.75 * of_others.mean()
    assert now.mean() < 1.5 * of(model.z)[:24].mean()  # of codes learnt with G


def test_a_new_code_has_as_many_updates_as_the_codes_of_training(fitted):
    # 200 steps of 6 images are 50 updates for each of 24 codes; here a step takes all 6.
    last = read_records(fitted.workdir)[-1]
    assert (last["step"], last["epoch"]) == (50, 2)
    (directory,) = fits_in(fitted)
    with checkpoints.Checkpoints(directory, read_only=True) as saved:
        assert saved.latest_step() == 50
        meta = saved.meta(50)
    assert (meta["total"], meta["batch_size"], meta["images"]) == (50, 6, ALL.digest)
    assert meta["weights"] == "none"


def test_rates_drop_at_the_same_fractions_as_in_training():
    changes = {
        "train.epochs": 200,
        "train.lr_drop_epochs": (70, 140),
        "train.lr_drop": 0.25,
    }
    drops = code_fit.scale_drops(create_config(**changes), 1000)
    assert drops == ((350, 0.25), (700, 0.25))
    assert code_fit.scale_drops(create_config(), 1000) == ()


def test_first_codes_depend_on_seed_and_image_alone():
    ids = trained.hash_ids(ALL.ids)
    z = np.asarray(codes.draw_codes(jax.random.key(1), ids, 8))
    some = [20, 3, 29]
    np.testing.assert_array_equal(
        codes.draw_codes(jax.random.key(1), ids[some], 8), z[some]
    )
    key = jax.random.key(1)
    for word in np.frombuffer(ids[20].tobytes(), "<u4"):
        key = jax.random.fold_in(key, word)
    expected = np.asarray(jax.random.normal(key, (8,)))
    np.testing.assert_allclose(z[20], expected / np.linalg.norm(expected), rtol=1e-5)
    assert (z != np.asarray(codes.draw_codes(jax.random.key(2), ids, 8))).all()


def test_the_first_model_that_knows_an_image_gives_its_code():
    ids = np.arange(5, dtype=np.uint8)[:, None].repeat(16, 1)
    drawn = np.full((5, 2), 9, np.float32)
    models = [
        (ids[[3, 1]], np.array([[1, 3], [1, 1]], np.float32)),
        (ids[[1, 4]], np.array([[2, 1], [2, 4]], np.float32)),
    ]
    z, new = code_fit.keep_codes(drawn, ids, models)
    np.testing.assert_array_equal(z, [[9, 9], [1, 1], [9, 9], [1, 3], [2, 4]])
    np.testing.assert_array_equal(new, [0, 2])


# The step


def test_a_codes_gradient_is_that_of_its_images_loss_labelled_or_not(grown):
    indices = np.array([24, 25, 26, 2, 28, 29], np.int32)
    labels = ALL.labels.copy()
    labels[[25, 28]] = -1
    spec = algorithm.create_spec(grown.config, ALL)
    init = functools.partial(algorithm.init_state, spec=spec, n=30, dim=8)
    networks = jax.device_get(jax.jit(init)(jax.random.key(0)))
    z = np.array(networks.codes.z)

    def apply(name, *args):
        parts = {"params": networks.params, "batch_stats": networks.batch_stats}
        variables = {part: values[name] for part, values in parts.items()}
        return getattr(spec, name).apply(variables, *args, train=False)

    def loss_of_one(z, index, image, label):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), 0), index)
        eps = 0.15 * jax.random.normal(key, (1, 4))
        y = apply("generator", z[None], eps)
        logits = apply("weak_classifier", y)[0][0]
        x = image[None] / 127.5 - 1
        loss = losses.laplacian_loss(y, x)[0] + jnp.abs(y - x).mean()
        one_hot = jax.nn.one_hot(label, 3)  # zeros without a label
        cross_entropy = -(one_hot * jax.nn.log_softmax(logits)).sum()
        terms = (loss, cross_entropy, logits.argmax() == label)
        return loss + 0.5 * cross_entropy, terms

    grad = jax.jit(jax.vmap(jax.value_and_grad(loss_of_one, has_aux=True)))
    images = ALL.images[indices].astype(np.float32)
    (loss, terms), gradient = grad(z[indices], indices, images, labels[indices])
    sums = [float(term.sum()) for term in terms]
    gradient = np.asarray(gradient)
    moved = z[indices] - 0.05 * gradient / (
        np.abs(gradient) + 1e-8
    )  # Adam's first step
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    rest = np.setdiff1d(np.arange(30), indices)
    for devices in (1, 2):
        devices = tuple(jax.local_devices()[:devices])
        key, weights = jax.random.key(1), ALL.class_weights
        state, shared = parallel.replicate(
            (
                code_fit.FitState(np.int32(0), networks.codes),
                code_fit.Frozen(
                    algorithm.Shared(key, ALL.images, labels, weights, {}, {}),
                    networks.params,
                    networks.batch_stats,
                ),
            ),
            devices,
        )
        step = fit_codes.compiled_step(spec, True, devices)
        state, metrics = step(state, shared, parallel.shard(indices, devices))
        expected = {
            "loss": float(loss.mean()),
            "reconstruction": sums[0] / 6,
            "cross_entropy": sums[1] / 4,  # four of the six are labelled
            "weak_accuracy": 100 * sums[2] / 4,
        }
        assert {k: float(v) for k, v in metrics.items()} == pytest.approx(
            expected, rel=1e-5
        )
        mu = np.asarray(state.codes.opt_state.mu)  # (1 - b1) g after one step
        np.testing.assert_allclose(mu[indices] / 0.5, gradient, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(state.codes.z[indices], moved, atol=1e-3)
        np.testing.assert_array_equal(state.codes.z[rest], z[rest])
        assert int(state.step) == 1


def test_unlabelled_images_have_codes_by_reconstruction_alone(grown):
    hidden = dataclasses.replace(ALL, labels=np.append(ALL.labels[:24], [-1] * 6))
    model = fit(grown, hidden)
    assert all(
        r.keys() == {"stage", "seed", "step", "epoch", "loss", "reconstruction"}
        for r in read_records(grown.workdir)
    )
    of, last = functools.partial(reconstruction, grown, model), model.z[24:]
    assert of(last).mean() < 0.75 * of(np.roll(last, 1, 0)).mean()
    labelled = fit(grown, ALL)  # labels given later: a code stays
    assert_trees_equal(labelled.z, model.z)


# Runs


def test_an_interrupted_fit_resumes_bit_for_bit_and_is_not_done_twice(
    grown, fitted, monkeypatch, capsys
):
    cut, whole = grown, restore(fitted, ALL)
    call = batches.BatchOrder.__call__

    def interrupted(self, step):
        if step == 30:  # the checkpoint is at 25
            raise KeyboardInterrupt
        return call(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(batches.BatchOrder, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(cut, ALL)
    message = (
        r"images-\w+ is at step 25 of 50: run --stage=train .*only_codes=True first"
    )
    with pytest.raises(UserError, match=message):
        trained.restore(cut.config, cut.workdir, ALL, 0, complete=True)
    partly = trained.restore(cut.config, cut.workdir, ALL, 0)
    assert partly.step == 25
    assert (partly.z != whole.z).any(1).tolist() == [False] * 24 + [True] * 6
    capsys.readouterr()
    assert_trees_equal(fit(cut, ALL), whole)
    printed = capsys.readouterr()
    assert "codes seed 0: 6 images without a code, 24 with one" in printed.out
    assert "resumed at step 25 of 50" in printed.err
    lines = [(run.workdir / "metrics.jsonl").read_bytes() for run in (fitted, cut)]
    assert lines[0] == lines[1]
    before = files_of(cut.workdir)
    fit_codes.run(cut.config, cut.workdir, (ALL, TEST), 0)
    assert files_of(cut.workdir) == before
    assert capsys.readouterr().out == "codes seed 0: done before\n"


def test_two_devices_fit_what_one_fits(grown, fitted):
    grown.config.devices = 2
    one, two = restore(fitted, ALL), fit(grown, ALL)
    np.testing.assert_allclose(two.z, one.z, atol=0.01)
    lines = zip(read_records(fitted.workdir), read_records(grown.workdir), strict=True)
    for of_one, of_two in lines:
        assert of_one["step"] == of_two["step"]
        assert of_one["loss"] == pytest.approx(of_two["loss"], rel=1e-2)


def test_fewer_new_images_than_devices_are_fitted_on_one(grown):
    grown.config.devices = 4
    model = fit(grown, take(range(25)))
    assert model.z.shape == (25, 8)
    assert read_records(grown.workdir)[-1]["step"] == 50


def test_images_added_twice_keep_the_codes_of_the_first_time(fitted, capsys):
    once = codes_by_id(restore(fitted, ALL), ALL)
    dataset = take([35, *range(28, 5, -1), *range(29, 35)])
    twice = codes_by_id(fit(fitted, dataset), dataset)
    for image_id in ALL.ids[6:]:
        np.testing.assert_array_equal(twice[image_id], once[image_id])
    assert "codes seed 0: 6 images without a code, 24 with" in capsys.readouterr().out
    assert [p.name for p in fits_in(fitted)] == [f"images-{dataset.digest[:16]}"]


def test_without_new_images_nothing_is_fitted(grown, capsys):
    before = files_of(grown.workdir)
    fit_codes.run(grown.config, grown.workdir, (grown.dataset, TEST), 0)
    assert files_of(grown.workdir) == before
    nothing = "codes seed 0: no image was added: nothing to do\n"
    assert capsys.readouterr().out == nothing
    fewer = take(range(20, 2, -1))
    model = fit(grown, fewer)
    old = restore(grown, grown.dataset)
    np.testing.assert_array_equal(model.z, old.z[20:2:-1])
    assert not read_records(grown.workdir)


def test_a_generator_trained_anew_has_its_own_codes(fitted, capsys):
    (stale,) = fits_in(fitted)
    shutil.rmtree(fitted.workdir / "checkpoints")
    train.run(fitted.config, fitted.workdir, take(range(2, 26)), 0)
    with pytest.raises(UserError, match="fit codes for the new images"):
        trained.restore(fitted.config, fitted.workdir, ALL, 0)
    capsys.readouterr()
    fit(fitted, ALL)
    assert (
        "codes seed 0: 6 images without a code, 24 with one" in capsys.readouterr().out
    )
    assert len(fits_in(fitted)) == 1
    assert not stale.parent.exists()


def test_sampling_and_classifying_use_the_added_images(fitted, monkeypatch):
    config, _, workdir = fitted
    config.sample.per_class = 10
    monkeypatch.setattr(sample, "write_figures", lambda *_: None)  # seconds
    z = restore(fitted, ALL).z
    directory = sample.run(config, workdir, (ALL, create_dataset(8, seed=1)), 0)
    lines = (directory / "manifest.jsonl").read_text().splitlines()
    assert {json.loads(line)["source"] for line in lines} == set(ALL.ids)
    received = []

    def train_nothing(*args):
        received.extend(a.z for a in args if isinstance(a, trained.TrainedCglo))
        raise KeyboardInterrupt

    monkeypatch.setattr(classify, "_train", train_nothing)
    with pytest.raises(KeyboardInterrupt):
        classify.run(config, workdir, (ALL, create_dataset(8, seed=1)), "cglo", 0)
    np.testing.assert_array_equal(received, [z])


# What is refused


def test_a_test_image_that_the_generator_was_trained_on_is_refused(grown, fitted):
    """As when images held out are others, since there are more to hold out of."""
    data = (ALL, take(range(20, 28)))  # the first 24 were trained on
    message = r"^4 of the test images are images that the generator was trained on"
    with pytest.raises(UserError, match=message):
        fit_codes.run(grown.config, grown.workdir, data, 0)
    assert not fits_in(grown)
    with pytest.raises(UserError, match=message):
        classify.run(fitted.config, fitted.workdir, data, "cglo", 0)
    assert not (fitted.workdir / "classifiers").exists()
    model = restore(fitted, ALL)
    trained.check_unseen(TEST, model.generator_ids)
    trained.check_unseen(data[1], model.ids[:20])


def test_transductive_test_images_were_learnt_without_labels_only(tmp_path):
    changes = {"dataset.transductive": True, "train.epochs": 1}
    test_set = take(range(24, 28))
    unlabelled = dataclasses.replace(test_set, labels=np.full(4, -1, np.int32))
    old = take(range(24))
    both = dataclasses.replace(
        old,
        images=np.concatenate([old.images, unlabelled.images]),
        labels=np.concatenate([old.labels, unlabelled.labels]),
        ids=old.ids + unlabelled.ids,
    )
    config = create_config(**changes)
    train.run(config, tmp_path, both, 0)
    more = dataclasses.replace(
        ALL, labels=np.where(np.arange(30) >= 26, -1, ALL.labels).astype(np.int32)
    )
    fit_codes.run(config, tmp_path, (more, test_set), 0)
    with pytest.raises(UserError, match=r"^3 of the test images"):
        fit_codes.run(config, tmp_path, (take(range(29)), take(range(21, 28))), 0)


def test_a_cglo_that_codes_cannot_be_fitted_to_is_refused(grown):
    def error(dataset=ALL, seed=0, **changes):
        config = grown.config.copy_and_resolve_references()
        config.update_from_flattened_dict(changes)
        with pytest.raises(UserError) as raised:
            fit_codes.run(config, grown.workdir, (dataset, TEST), seed)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert error(seed=1).endswith(
        "or copy checkpoints/ and cglo_files.jsonl of one here"
    )
    assert "made with latent.noise_std=0.15, this call has 0.5" in error(
        **{"latent.noise_std": 0.5}
    )
    message = error(dataclasses.replace(ALL, class_names=("class 0", "cat", "class 2")))
    assert "other classes (label 1: 'class 1', this call has 'cat')" in message
    more = dataclasses.replace(ALL, class_names=(*ALL.class_names, "dog"))
    assert "(label 3: None, this call has 'dog')" in error(more)
    large = create_dataset(30, size=16)
    assert "made with shape=[8, 8, 1], this call has [16, 16, 1]" in error(large)
    directory = trained.checkpoint_dir(grown.workdir, 0)
    (directory / "200").rename(grown.workdir / "moved")
    message = f"{directory} is at step 100 of 200: run --stage=train first"
    assert error().startswith(message)
    assert not fits_in(grown)


def test_another_perceptual_network_is_refused(grown, monkeypatch):
    monkeypatch.setattr(train, "load_vgg", lambda config: ({}, pretrained.RANDOM))
    with pytest.raises(UserError, match="was made with other weights than this call"):
        fit_codes.run(grown.config, grown.workdir, (ALL, TEST), 0)


def test_a_loss_that_is_not_finite_is_not_saved(grown, monkeypatch):
    drawn = codes.draw_codes
    monkeypatch.setattr(codes, "draw_codes", lambda *args: drawn(*args) * np.nan)
    with pytest.raises(
        UserError, match=r"codes seed 0: cross_entropy is not finite since step 1;"
    ):
        fit_codes.run(grown.config, grown.workdir, (ALL, TEST), 0)
    with pytest.raises(UserError, match=r"made with other images .*only_codes=True"):
        trained.restore(grown.config, grown.workdir, ALL, 0)
