"""Tests of cglo_jax/stages/export.py: what is written is used without cglo_jax."""

import functools
import json
import re
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import cglo_jax
from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from cglo_jax.files import ownership
from cglo_jax.inference import classifier
from cglo_jax.stages import export
from tests.helpers.saved_run import put_classifier, put_run
from tests.helpers.tiny import create_config, create_dataset

# Runs the Python of a README as a program that cannot import cglo_jax, and keeps what it made.
OTHER_PROGRAM = """
import pathlib, re, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cglo_jax":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
made = {"sys": sys}
for code in re.findall("```python\\n(.*?)```", pathlib.Path("README.md").read_text(), re.S):
    exec(code.replace("np.zeros((1, *about[\\"image_shape\\"]), np.uint8)", "np.load(sys.argv[1])"), made)
made["np"].savez(sys.argv[2], **{k: made[k] for k in ("images", "logits", "z", "noise")})
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(workdir, config, classifier's variables) of an exported run."""
    workdir = tmp_path_factory.mktemp("export") / "run"
    config, dataset = put_run(workdir, seeds=(0, 1))
    variables = put_classifier(workdir, config, dataset, "cglo", 1)
    for _ in range(2):  # the second replaces the first
        assert export.run(config, workdir) == workdir / "exports"
    return workdir, config, variables


def generate(model, z, noise, train=False):
    """Computes images of G in float32."""
    variables, generator = (
        model.restored.sampler.variables,
        model.restored.spec.generator,
    )
    apply = functools.partial(generator.apply, train=train, mutable=["batch_stats"])
    images = jax.jit(apply)(variables, z, noise)
    return np.clip(np.round((np.asarray(images[0]) + 1) * 127.5), 0, 255)


def test_every_generator_and_classifier_is_there_and_nothing_else(exported):
    workdir, _, _ = exported
    files = [p for p in (workdir / "exports").rglob("*") if p.is_file()]
    assert {str(p.relative_to(workdir / "exports")) for p in files} == {
        "README.md",
        ownership.RECORD,
        "cglo-1/classifier.jax_export",
        "cglo-1/classifier.safetensors",
        "seed-0/codes.npz",
        "seed-0/generator.jax_export",
        "seed-1/codes.npz",
        "seed-1/generator.jax_export",
    }


def test_the_readmes_programs_run_without_cglo_jax(exported, tmp_path):
    workdir, _, _ = exported
    images = create_dataset(5, seed=3).images
    np.save(tmp_path / "in.npy", images)
    files = [str(tmp_path / name) for name in ("in.npy", "out.npz")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OTHER_PROGRAM, *files],
        cwd=workdir / "exports",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    made = np.load(tmp_path / "out.npz")
    model = cglo_jax.load(workdir, seed=0)
    z = made["z"]
    np.testing.assert_allclose(np.linalg.norm(z), 1, rtol=1e-5)
    # Three tenths of the way from the first image of class 0 to the second.
    angles = np.arccos(model.z[[0, 3]].astype(np.float64) @ z)
    np.testing.assert_allclose(angles[0] / angles.sum(), 0.3, atol=1e-4)
    assert np.abs(made["noise"]).max() > 0.5
    expected = generate(model, z[None], 0.15 * made["noise"])
    assert made["images"].dtype == np.uint8
    assert np.abs(made["images"] - expected).max() <= 1
    names, probabilities = cglo_jax.load_classifier(workdir, "cglo").predict(images)
    e = np.exp(made["logits"])
    np.testing.assert_allclose(e / e.sum(1, keepdims=True), probabilities, atol=1e-5)
    assert done.stdout == f"{names}\n"


def test_the_codes_are_those_of_the_run(exported):
    workdir, _, _ = exported
    model = cglo_jax.load(workdir, seed=1)
    with np.load(workdir / "exports" / "seed-1" / "codes.npz") as codes:
        np.testing.assert_array_equal(codes["z"], model.z)
        np.testing.assert_array_equal(codes["labels"], model.labels)
        assert tuple(codes["class_names"].tolist()) == model.class_names
        assert tuple(codes["ids"].tolist()) == model.ids


def program_of(directory, model):
    export.write_generator(directory, model)
    return jax.export.deserialize((directory / "generator.jax_export").read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "noise_dim"),
    [
        ({"latent.noise": "additive", "latent.noise_dim": 8}, 8),
        ({"latent.noise": "none", "sample.batch_statistics": "batch"}, 0),
    ],
)
def test_generators_with_other_noise_or_statistics(tmp_path, changes, noise_dim):
    put_run(tmp_path / "run", **changes)
    model = cglo_jax.load(tmp_path / "run")
    program = program_of(tmp_path / "out", model)
    z = model.z[:5]
    noise = np.random.default_rng(0).standard_normal((5, noise_dim), np.float32)
    images = np.asarray(program.call(z, noise))
    if noise_dim:
        expected = generate(model, z + 0.15 * noise, None)
    else:
        expected = generate(model, z, None, train=True)
        assert np.abs(expected - generate(model, z, None)).max() > 10
    assert np.abs(images - expected).max() <= 1


def test_programs_are_for_every_platform_and_tell_nothing_of_this_machine(exported):
    for path in (exported[0] / "exports").glob("*/*.jax_export"):
        content = path.read_bytes()
        program = jax.export.deserialize(content)
        assert program.platforms == ("cpu", "cuda", "rocm", "tpu")
        assert b".py" not in content
        assert str(exported[0]).encode() not in content


def numpy_wide_resnet(tensors, images, depth):
    """Computes logits float64 [n, K] by loops over the taps of every kernel."""

    def get(name):
        return tensors[name].astype(np.float64)

    def norm(name, x):
        mean, var = (get(f"batch_stats.{name}.{part}") for part in ("mean", "var"))
        scale, bias = (get(f"params.{name}.{part}") for part in ("scale", "bias"))
        return np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)

    def conv(name, x, stride=1):
        kernel = get(f"params.{name}.kernel")
        side = len(kernel)
        pad = (side - 1) // 2
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        height, width = (s - side + 1 for s in x.shape[1:3])
        taps = [
            x[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j]
            for i in range(side)
            for j in range(side)
        ]
        return sum(taps)

    x = conv("conv1", images / 127.5 - 1)
    for group in (1, 2, 3):
        for block in range(1, (depth - 4) // 6 + 1):
            name = f"group{group}_block{block}"
            stride = 2 if group > 1 and block == 1 else 1
            y = norm(f"{name}.bn1", x)
            if f"params.{name}.shortcut.kernel" in tensors:
                x = conv(f"{name}.shortcut", y, stride)
            y = conv(f"{name}.conv1", y, stride)
            x = x + conv(f"{name}.conv2", norm(f"{name}.bn2", y))
    embedding = norm("bn", x).mean((1, 2))
    return embedding @ get("params.head.kernel") + get("params.head.bias")


def test_the_tensors_are_all_that_another_program_needs(exported):
    workdir, _, variables = exported
    path = workdir / "exports" / "cglo-1" / "classifier.safetensors"
    tensors = safetensors.numpy.load_file(path)
    assert len(tensors) == len(jax.tree.leaves(variables))
    with safetensors.safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["cglo_jax"])
    assert about["architecture"] == "WideResNet"
    assert about["class_names"] == ["class 0", "class 1", "class 2"]
    assert (about["depth"], about["width"]) == (10, 1)
    images = create_dataset(4, seed=3).images
    assert list(images.shape[1:]) == about["image_shape"]
    expected = numpy_wide_resnet(tensors, images, about["depth"])
    network = classifier.restore(workdir, "cglo", 1, {"steps": 6}).network
    apply = jax.jit(functools.partial(network.apply, train=False))
    logits, _ = apply(variables, data.to_float(images))
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_resnet_is_exported_too(tmp_path):
    dataset = create_dataset(size=32)
    changes = {"classify.network": "resnet50"}
    config, _ = put_run(tmp_path, dataset=dataset, **changes)
    put_classifier(tmp_path, config, dataset, "baseline", 0)
    directory = export.run(config, tmp_path) / "baseline-0"
    tensors = safetensors.numpy.load_file(directory / "classifier.safetensors")
    content = (directory / "classifier.jax_export").read_bytes()
    logits = np.asarray(jax.export.deserialize(content).call(tensors, dataset.images))
    loaded = cglo_jax.load_classifier(tmp_path, "baseline")
    e = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = loaded.predict(dataset.images)[1]
    np.testing.assert_allclose(e / e.sum(1, keepdims=True), probabilities, atol=1e-4)


def test_the_readme_of_an_export_names_what_is_there_only(tmp_path):
    config, _ = put_run(tmp_path / "run")
    text = (export.run(config, tmp_path / "run") / "README.md").read_text()
    assert "## The generator" in text
    assert "## The classifiers" not in text
    assert len(re.findall(r"^```python$", text, re.MULTILINE)) == 1


def test_without_anything_trained_it_says_so(tmp_path):
    config, _ = put_run(tmp_path / "run", seeds=())
    with pytest.raises(UserError, match=r"nothing is trained in .*run: run --stage="):
        export.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "exports").exists()


def test_another_configuration_is_refused(exported):
    workdir, *_ = exported
    other = create_config(**{"latent.dim": 9})
    match = r"latent\.dim=8, this call has 9"
    with pytest.raises(UserError, match=match):
        export.run(other, workdir)
    saved = (workdir / "config.json").read_text()
    changed = saved.replace('"latent.dim": 8', '"latent.dim": 9')
    ownership.write(workdir, "config.json", changed)
    with pytest.raises(UserError, match=rf"seed-0 was made with {match}"):
        export.run(other, workdir)
    ownership.write(workdir, "config.json", saved)
    assert (workdir / "exports" / "README.md").exists()
