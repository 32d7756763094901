"""Tests of experiments/harness/runs.py: which runs there are and which of them are equal."""

import dataclasses
import json

import pytest

from cglo_jax.classifier.methods import METHODS, Method
from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.config.fingerprint import train_fingerprint
from cglo_jax.errors import UserError
from cglo_jax.files import storage
from experiments.harness import paths, runs
from experiments.harness.runs import Choice
from experiments.harness.table import Column, Row
from experiments.paper_tables import TABLE1, TABLE3, TABLE5

DIGITS = Choice("cpu", "digits")
FIVE = Column("", "", {"dataset.shots": 5})


@pytest.fixture(autouse=True)
def _no_results(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "paper.jsonl")
    monkeypatch.setattr(runs, "TUNED", tmp_path / "tuned.jsonl")


def digest(method: str, seed: int = 0, choice: Choice = DIGITS, **overrides) -> str:
    config = runs.create_config(choice, Row("", method, overrides), FIVE, seed)
    return runs.digest(config, method, seed)


def cglo_digest(choice: Choice = DIGITS, seed: int = 0, **overrides) -> str:
    config = runs.create_config(choice, Row("", "cglo", overrides), FIVE, seed)
    return runs.cglo_digest(config, seed)


CGLO = {"cglo", "autoaugment_cglo", "cglo_cosine"}
MIXED = {"pixelmix", "pixelmix_cosine"}
NEW = CGLO | MIXED | {"mixup"}  # methods that replace images
CHANGED = {"cutout", "random_erasing", "autoaugment", "autoaugment_cglo"}
# Another value of a field, and the methods whose results depend on it.
READS = {
    "latent.dim": (64, CGLO),
    "weak_classifier.gamma": (0.25, CGLO),
    "train.epochs": (3, CGLO),
    "reconstruction.pixel_weight": (2.0, CGLO),
    "sample.interpolation": ("lerp", CGLO),
    "sample.t_values": ((0.5,), CGLO | MIXED),
    "dataset.unlabelled": (7, CGLO | {"mixmatch"}),
    "dataset.transductive": (True, CGLO | {"mixmatch"}),
    "classify.replace_probability": (0.25, NEW),
    "classify.draw_per": ("batch", NEW),
    "classify.augment_synthetic": (False, NEW),
    "classify.augment_probability": (0.25, CHANGED),
    "classify.cutout_size": (4, {"cutout"}),
    "classify.cutout_form": ("authors", {"cutout"}),
    "classify.erasing_probability": (0.5, {"random_erasing"}),
    "classify.erasing_fill": ((0.5,), {"random_erasing"}),
    "classify.mixup_alpha": (0.5, {"mixup"}),
    "mixmatch.lambda_u": (10.0, {"mixmatch"}),
    "classify.lr": (0.25, set(METHODS)),
    "classify.dropout": (0.25, set(METHODS)),
    "dataset.shots": (4, set(METHODS)),
    "dataset.classes": (7, set(METHODS)),
    "dtype": ("bfloat16", set(METHODS)),
    # Not of the result at all.
    "sample.per_class": (3, set()),
    "classify.log_every_steps": (3, set()),
    "devices": (1, set()),
}


@pytest.mark.parametrize("field", READS)
def test_a_field_counts_for_the_methods_that_read_it(field):
    value, readers = READS[field]
    changed = {m for m in METHODS if digest(m, **{field: value}) != digest(m)}
    assert changed == readers


def test_a_new_method_may_read_anything_unless_it_declares_what(monkeypatch):
    before = {method: digest(method) for method in METHODS}
    monkeypatch.setitem(METHODS, "careless", Method())
    careful = Method(reads=("mixmatch.", "classify.sparkle"))
    monkeypatch.setitem(METHODS, "careful", careful)
    for field, value in {
        "classify.cutout_size": 4,
        "mixmatch.alpha": 0.5,
        "latent.dim": 64,
        "dataset.unlabelled": 7,
    }.items():
        changed = {m for m in METHODS if digest(m, **{field: value}) != digest(m)}
        assert "careless" in changed
        assert ("careful" in changed) == (field == "mixmatch.alpha")
    assert not runs.reads("careful", "mixmatchless.alpha")
    assert runs.reads("careful", "classify.lr")
    sparkling = {m for m in METHODS if runs.reads(m, "classify.sparkle")}
    assert sparkling == {"careful", "careless"}
    assert {method: digest(method) for method in before} == before


def test_no_declaration_takes_a_field_from_the_methods_that_need_it():
    """`Method.reads` would, if it named what others read without declaring it."""
    classify = {f"classify.{name}" for name in get_config().classify}
    optional = {f for f in READS if f in classify and READS[f][1] != set(METHODS)}
    for field in classify - optional - {"classify.methods"}:
        assert all(runs.reads(method, field) for method in METHODS)
    samples = ("sample.interpolation", "sample.t_values", "sample.batch_statistics")
    for field in (*train_fingerprint(get_config()), *samples):
        assert all(runs.reads(method, field) for method in CGLO)


def test_runs_are_of_one_device():
    config = runs.create_config(DIGITS, Row("", "cglo", {"devices": 4}), FIVE, 0)
    assert config.devices == 1


def test_other_runs_have_other_digests():
    digests = [digest(method, seed) for method in METHODS for seed in (0, 1)]
    assert len(set(digests)) == 2 * len(METHODS)
    elsewhere = DIGITS._replace(data_dir="elsewhere")
    assert digest("cglo", choice=elsewhere) == digest("cglo")


def test_changes_are_what_differs_from_the_defaults():
    config = runs.create_config(DIGITS, Row("", "baseline"), FIVE, 4)
    assert config.dataset.split_seed == 4
    assert runs.changes(config) == {
        "classify.batch_size": 50,
        "classify.depth": 10,
        "classify.dropout": 0.0,
        "classify.epochs": config.classify.epochs,
        "classify.flip": False,
        "classify.lr_drop_epochs": list(config.classify.lr_drop_epochs),
        "classify.pad": 1,
        "classify.pad_value": -1.0,
        "classify.steps_per_epoch": 50,
        "classify.width": 2,
        "dataset.split_seed": 4,
    }


def test_a_classifiers_fields_do_not_change_its_cglo():
    assert cglo_digest(**{"classify.lr": 0.3}) == cglo_digest()
    assert cglo_digest(**{"sample.interpolation": "lerp"}) == cglo_digest()
    assert cglo_digest(**{"latent.noise": "none"}) != cglo_digest()
    assert cglo_digest(**{"latent.init": "resnet"}) != cglo_digest()
    assert cglo_digest(seed=1) != cglo_digest()


def test_weights_count():
    paper = Choice("paper", "cifar100")
    weights = {"reconstruction.weights": "random"}
    assert cglo_digest(paper, **weights) != cglo_digest(paper)
    assert digest("cglo", choice=paper, **weights) != digest("cglo", choice=paper)
    assert digest("cutout", choice=paper, **weights) == digest("cutout", choice=paper)
    birds = Choice("paper", "cub")
    body = {"classify.weights": "random"}
    assert digest("cutout", choice=birds, **body) != digest("cutout", choice=birds)


def test_the_authors_profile_leaves_a_baseline_as_it_is():
    authors = DIGITS._replace(profile="authors")
    assert digest("baseline", choice=authors) == digest("baseline")
    assert digest("cglo", choice=authors) != digest("cglo")


def test_the_authors_profile_draws_own_images_for_each_seed():
    for data, own in (("cifar100", True), ("cub", False)):
        for profile in ("paper", "authors"):
            choice = Choice("paper", data, profile)
            draws = own and profile == "authors"
            assert runs.own_images(choice) == draws
            config = runs.create_config(choice, Row("", "cglo"), FIVE, 2)
            assert config.dataset.split_seed == (2 if draws else 0)
            assert not config.dataset.split_per_seed  # a run has one seed
    assert runs.own_images(DIGITS)


def test_rows_say_which_images_are_unlabelled_whatever_the_profile():
    for data in ("digits", "cifar100"):
        choice = Choice("paper" if data == "cifar100" else "cpu", data, "authors")
        planned, _ = runs.expand(TABLE3, choice)
        seen = {run.row: run.config.dataset.transductive for run in planned}
        assert seen["transductive"] and not seen["cGLO"]
        digests = {run.row: run.digest for run in planned if run.seed == 0}
        assert digests["transductive"] != digests["cGLO"]
        planned, _ = runs.expand(TABLE5, choice)
        shown = [r.config.dataset.unlabelled for r in planned if r.row == "cGLO"]
        assert min(shown) == 0 < max(shown)


def test_runs_from_before_a_field_are_still_found(monkeypatch):
    """The committed results are older than some fields: their runs are not to be repeated."""
    monkeypatch.setattr(runs, "RESULTS", paths.RESULTS / "paper.jsonl")
    planned, _ = runs.expand(TABLE1, DIGITS)
    of = {"Baseline", "Cutout", "Random Erasing", "AutoAugment", "Pixel mix"}
    found = [run for run in planned if run.row in of]
    assert len(found) == 50
    assert not runs.missing(found)


def test_expand_goes_seed_by_seed():
    planned, notes = runs.expand(TABLE3, DIGITS._replace(seeds=(3, 4)))
    rows = [row.name for row in TABLE3.rows if not row.tuned]
    assert [(r.seed, r.row) for r in planned] == [(s, r) for s in (3, 4) for r in rows]
    command = "python -m experiments.tune --scale=cpu --data=digits --shots=5"
    assert notes == [
        f"{name} (5) is not tuned yet: run `{command}`."
        for name in ("Baseline, tuned", "cGLO, tuned classifier")
    ]
    assert str(planned[0]) == "cGLO 5 seed 3"
    lerp, cglo = (next(r for r in planned if r.row == n) for n in ("lerp", "cGLO"))
    assert lerp.cglo == cglo.cglo != ""
    assert lerp.digest != cglo.digest
    assert next(r for r in planned if r.row == "Baseline").cglo == ""


def test_equal_runs_of_columns_and_tables_are_missing_once():
    planned, _ = runs.expand(TABLE5, DIGITS._replace(seeds=(0,)))
    base = {r.digest for r in planned if r.row == "Baseline"}
    assert len(base) == 1
    rows = [r.row for r in runs.missing(planned)]
    assert rows.count("Baseline") == 1
    assert rows.count("cGLO") == rows.count("MixMatch") == 3
    others, _ = runs.expand(TABLE1, DIGITS._replace(seeds=(0,)))
    (same,) = (r for r in others if (r.row, r.column) == ("Baseline", "5"))
    assert {same.digest} == base


def write_tuned(*lines: dict) -> None:
    search = {"lr": 0.3, "trials": 5, "folds": 3, "draws": [80.0]}
    text = "".join(json.dumps({**search, **line}) + "\n" for line in lines)
    runs.TUNED.write_text(text)


def test_tuned_rows_take_the_newest_values():
    five, ten = (runs.setting_digest("cpu", "digits", shots) for shots in (5, 10))
    paper = runs.setting_digest("paper", "cifar100", 5)
    assert len({five, ten, paper}) == 3
    write_tuned(
        {"setting": five, "weight_decay": 1e-2, "batch_size": 25},
        {"setting": five, "weight_decay": 1e-3, "batch_size": 10},
        {"setting": ten, "weight_decay": 0.5, "batch_size": 5},
        {"setting": paper, "weight_decay": 0.6, "batch_size": 6},
    )
    planned, notes = runs.expand(TABLE3, DIGITS._replace(seeds=(0,)))
    assert notes == []
    by_row = {run.row: run for run in planned}
    tuned, plain = by_row["Baseline, tuned"].config, by_row["Baseline"].config
    c = tuned.classify
    assert (c.lr, c.weight_decay, c.batch_size) == (0.3, 1e-3, 10)
    steps = ("epochs", "steps_per_epoch", "lr_drop_epochs")
    assert all(c[name] == plain.classify[name] for name in steps)
    assert by_row["cGLO, tuned classifier"].cglo == by_row["cGLO"].cglo


def test_what_was_tuned_of_another_setting_is_stale(monkeypatch):
    values = {"weight_decay": 0.00314, "batch_size": 25}
    write_tuned({"scale": "cpu", "data": "digits", "shots": 5, **values})
    assert runs.tuned_fields(DIGITS, 5) is None  # it does not say of which setting
    write_tuned({"setting": runs.setting_digest("cpu", "digits", 5), **values})
    assert runs.tuned_fields(DIGITS, 5) == {
        "classify.lr": 0.3,
        "classify.weight_decay": 0.00314,
        "classify.batch_size": 25,
    }
    setting = runs.SETTINGS["cpu", "digits"]
    key = ("cpu", "digits")
    for changes, stale in (
        ({"classify.depth": 16}, True),
        ({"classify.lr": 0.2}, True),
        # The baseline reads neither, and shots and draws are set.
        ({"latent.dim": 64, "mixmatch.ema": 0.5}, False),
        ({"dataset.shots": 7, "dataset.split_seed": 3}, False),
    ):
        changed = {**setting.changes, **changes}
        other = dataclasses.replace(setting, changes=changed)
        monkeypatch.setitem(runs.SETTINGS, key, other)
        assert (runs.tuned_fields(DIGITS, 5) is None) == stale
        assert (runs.tuned_sentence(DIGITS, 5) == "") == stale


def test_tuned_sentence():
    setting = runs.setting_digest("cpu", "digits", 5)
    line = {"setting": setting, "weight_decay": 0.0021, "batch_size": 16}
    write_tuned(line)
    one = (
        "Tuned: rate 0.3, weight decay 0.0021, batch 16; best of 5 settings by 3 folds "
        "of 1 draw of labelled images."
    )
    assert runs.tuned_sentence(DIGITS, 5) == one
    write_tuned({**line, "draws": [80.0, 81.0]})
    assert runs.tuned_sentence(DIGITS, 5) == one.replace("1 draw", "2 draws")


def test_lines_of_another_version_do_not_count(monkeypatch):
    (run,) = (
        r
        for r in runs.expand(TABLE3, DIGITS._replace(seeds=(0,)))[0]
        if r.row == "lerp"
    )
    lines = [
        {"digest": run.digest, "top1": 1},  # the first lines had no version
        {"digest": run.digest, "top1": 2, "version": 2},
    ]
    runs.RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for version, top1 in ((1, 1), (2, 2)):
        monkeypatch.setattr(runs, "RESULTS_VERSION", version)
        assert runs.finished()[run.digest]["top1"] == top1
        assert runs.missing([run]) == []
    monkeypatch.setattr(runs, "RESULTS_VERSION", 3)
    assert runs.missing([run]) == [run]
    assert runs.results_of([run]) == {}


def test_newest_line_of_a_digest_counts(tmp_path):
    (run,) = (
        r
        for r in runs.expand(TABLE3, DIGITS._replace(seeds=(0,)))[0]
        if r.row == "lerp"
    )
    lines = [{"digest": d, "top1": t} for d, t in ((run.digest, 1), ("other", 2))]
    lines.append({"digest": run.digest, "top1": 3})
    runs.RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert runs.results_of([run]) == {("lerp", "5"): {0: lines[2]}}
    assert runs.missing([run]) == []


def test_a_wrong_field_is_refused():
    with pytest.raises(UserError, match="dropout is 2"):
        digest("baseline", **{"classify.dropout": 2.0})


def test_lines_of_finished_runs_have_the_digest_of_what_they_changed():
    fields = {*flatten(get_config())}
    lines = storage.read_records(paths.RESULTS / "paper.jsonl")
    assert len(lines) > 500
    for line in lines:
        identity = {"method": line["method"], "seed": line["seed"]}
        assert line["digest"] == runs._hash({**identity, **line["changes"]})
        assert line["changes"].keys() <= fields


def test_a_field_with_its_default_is_no_part_of_a_digest():
    assert runs.digest(get_config(), "cglo", 3) == runs._hash(
        {"method": "cglo", "seed": 3}
    )
    assert runs.cglo_digest(get_config(), 3) == runs._hash({"seed": 3})
