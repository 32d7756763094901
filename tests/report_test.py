"""Tests of report.py on made-up work directories."""

import html.parser
import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from cglo_jax import config as config_lib
from cglo_jax import report
from cglo_jax.errors import UserError

NAMES = ["plain", '<b>&"', "a_b|c", "_x_*y*"]
TOP1 = {"baseline": (80.0, 81.0, 79.5), "cglo": (83.25, 84.0, 83.75)}


def make_config(**changes):
    config = config_lib.get_config()
    config.update_from_flattened_dict({"dataset.shots": 5, **changes})
    return config


def make_result(config, method, seed, top1, **changes):
    return {
        "method": method,
        "seed": seed,
        "top1": top1,
        "top5": (100 + top1) / 2,
        "n_test": 400,
        "steps": 1234,
        "fingerprint": config_lib.classify_fingerprint(config),
        "environment": {"python": "3.11.9", "device": "cpu", "commit": "0123abc"},
        "dataset": {
            "name": "shapes",
            "num_classes": 6,
            "n_labelled": 30,
            "n_unlabelled": 7,
            "transductive": False,
            "test_split": "test",
            "class_names": NAMES,
        },
        **changes,
    }


def put_result(workdir, result):
    folder = workdir / "classifiers" / f"{result['method']}-{result['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result))


def put_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def put_metrics(workdir):
    lines = []
    for seed in range(3):
        for step in (100, 200, 300):
            common = {"seed": seed, "step": step, "epoch": step / 100, "loss": 1 / step}
            train = {"reconstruction": 20 / step, "cross_entropy": 200 / step}
            lines.append({"stage": "train", **common, **train})
            for method in TOP1:
                tags = {"stage": "classify", "method": method}
                lines.append({**tags, **common, "train_accuracy": step / 4})
    put_lines(workdir / "metrics.jsonl", lines)


def put_timings(workdir):
    common = {"compile_s": 2.0, "steps": 10, "images_per_s": 4321.0}
    train = [
        {"stage": "train", "seed": s, "method": None, "wall_s": 40.0} for s in (0, 0, 1)
    ]
    sample = {"stage": "sample", "seed": 0, "wall_s": 7.5, "images": 60}
    lines = [*({**line, **common} for line in train), sample]
    put_lines(workdir / "timings.jsonl", lines)


@pytest.fixture
def config():
    return make_config()


@pytest.fixture
def workdir(tmp_path, config):
    """A work directory in which every stage has run, three seeds."""
    for method, values in TOP1.items():
        for seed, top1 in enumerate(values):
            put_result(tmp_path, make_result(config, method, seed, top1))
    put_metrics(tmp_path)
    put_timings(tmp_path)
    (tmp_path / "samples" / "images" / "plain").mkdir(parents=True)
    picture = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    for name in ("reconstructions", "interpolations", "codes", "images/plain/0"):
        picture.save(tmp_path / "samples" / f"{name}.png")
    return tmp_path


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes, headings with their text, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.headings, self.cells, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag in ("h1", "h2"):
            self.headings.append((tag, ""))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if {"h1", "h2"} & set(self.open):
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def write_html(workdir, config):
    report.write(workdir, config)
    return (workdir / "report.html").read_text()


# --- statistics


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_interval_is_scipys(n, confidence):
    rng = np.random.default_rng(n)
    a, b = rng.normal(50, 3, n), rng.normal(48, 3, n)
    mean, low, high = report.paired_difference(a, b, confidence)
    want = stats.ttest_rel(a, b).confidence_interval(confidence)
    np.testing.assert_allclose([mean, low, high], [np.mean(a - b), want.low, want.high])


def test_one_seed_has_no_interval():
    assert report.paired_difference([3.0], [1.0], 0.95) == (2.0, None, None)


def test_seeds_that_agree_get_half_a_test_image():
    # 3 seeds, each one image of 100 better: 1 +- t(2, .975) * 0.5 / sqrt(3), t = 4.3026527
    low, high = report.paired_difference([51.0] * 3, [50.0] * 3, 0.95, resolution=1.0)[
        1:
    ]
    half = 4.302652729911275 * 0.5 / math.sqrt(3)
    assert (low, high) == pytest.approx((1 - half, 1 + half))
    assert report.verdict(low, high) == "no measurable difference"
    low, high = report.paired_difference([52.0] * 3, [50.0] * 3, 0.95, resolution=1.0)[
        1:
    ]
    assert report.verdict(low, high) == "helped"


def test_a_wider_spread_is_left_alone():
    a, b = [50.0, 53.0, 55.0], [50.0, 50.0, 50.0]
    with_resolution = report.paired_difference(a, b, 0.95, resolution=1.0)
    assert with_resolution == report.paired_difference(a, b, 0.95)


def test_pairs_must_match():
    with pytest.raises(ValueError):
        report.paired_difference([1.0, 2.0], [1.0], 0.95)


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [
        (0.01, 2.0, "helped"),
        (0.0, 2.0, "no measurable difference"),
        (-1.0, 1.0, "no measurable difference"),
        (-2.0, 0.0, "no measurable difference"),
        (-2.0, -0.01, "hurt"),
        (None, None, "one seed: no verdict"),
    ],
)
def test_verdict_says_what_the_interval_carries(low, high, want):
    assert report.verdict(low, high) == want


def test_standard_error_by_hand():
    # mean 3, squared deviations 4 + 0 + 4 = 8, / (3 - 1) = 4, root 2, / sqrt(3)
    assert report.standard_error([1.0, 3.0, 5.0]) == pytest.approx(2 / math.sqrt(3))
    assert report.standard_error([1.0]) is None


# --- verdicts of work directories


def test_helped(workdir, config):
    [line] = report.write(workdir, config)
    differences = np.subtract(TOP1["cglo"], TOP1["baseline"])
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert line == (
        f"cglo helped. Its top-1 accuracy is {differences.mean():.2f} points above baseline "
        f"(95% interval {interval.low:+.2f} to {interval.high:+.2f}, 3 seeds)."
    )


def test_hurt_and_no_difference(workdir, config):
    for seed, top1 in enumerate((70.0, 71.5, 69.0)):
        put_result(workdir, make_result(config, "cglo", seed, top1))
    for seed, top1 in enumerate((79.0, 82.0, 79.75)):
        put_result(workdir, make_result(config, "pixelmix", seed, top1))
    cglo, pixelmix = report.write(workdir, config)
    assert cglo.startswith(
        "cglo hurt. Its top-1 accuracy is 10.00 points below baseline ("
    )
    assert pixelmix.startswith("pixelmix: no measurable difference. ")


def test_one_seed_is_no_verdict(tmp_path, config):
    for method, top1 in (("baseline", 80.0), ("cglo", 90.0)):
        put_result(tmp_path, make_result(config, method, 0, top1))
    [line] = report.write(tmp_path, config)
    assert line.startswith("cglo: one seed: no verdict. ")
    assert "helped" not in line
    assert "interval" not in line
    text = (tmp_path / "report.md").read_text()
    assert "With one seed there is no interval" in text
    assert "Student" not in text


def test_pairs_seeds_that_both_have(workdir, config):
    (workdir / "classifiers" / "baseline-1" / "result.json").unlink()
    summary = report.summarize(workdir)
    comparison = report.compare(summary, "cglo", 0.95)
    assert comparison.seeds == [0, 2]
    assert comparison.differences == [3.25, 4.25]
    report.write(workdir, config)
    assert "Not there yet: baseline seed 1." in (workdir / "report.md").read_text()


def test_no_common_seed_is_no_verdict(tmp_path, config):
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    put_result(tmp_path, make_result(config, "cglo", 1, 90.0))
    [line] = report.write(tmp_path, config)
    assert line == "cglo: no verdict, baseline has no result with its seeds."


def test_baseline_alone_is_no_verdict(tmp_path, config):
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    assert report.write(tmp_path, config) == ["No verdict: only baseline has results."]


def test_agreeing_seeds_are_said(tmp_path, config):
    for seed in range(3):
        put_result(tmp_path, make_result(config, "baseline", seed, 80.0))
        put_result(
            tmp_path, make_result(config, "cglo", seed, 80.25)
        )  # one image of 400
    [line] = report.write(tmp_path, config)
    assert line.startswith("cglo: no measurable difference. ")
    assert "half a test image (0.125 points)" in (tmp_path / "report.md").read_text()


# --- mistakes


def test_without_results_names_the_stage(tmp_path, config):
    with pytest.raises(UserError, match=r"--stage=classify"):
        report.write(tmp_path / "absent", config)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"method": "cglo", "seed": 0}', b"\xff\xfe"],
)
def test_corrupt_result_is_named(workdir, config, text):
    path = workdir / "classifiers" / "cglo-0" / "result.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        report.write(workdir, config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"top1": math.nan},
        {"top1": 101.0},
        {"top1": 99.0, "top5": 98.0},
        {"n_test": 0},
        {"steps": None},
        {"dataset": "shapes"},
    ],
)
def test_impossible_result_is_named(workdir, config, changes):
    put_result(workdir, make_result(config, "cglo", 0, 80.0) | changes)
    with pytest.raises(UserError, match=r"cglo-0"):
        report.write(workdir, config)


def test_swapped_results_are_found(workdir, config):
    path = workdir / "classifiers" / "cglo-1" / "result.json"
    path.write_text(json.dumps(make_result(config, "cglo", 2, 80.0)))
    with pytest.raises(UserError, match=r"cglo-1.*another method or seed"):
        report.write(workdir, config)


@pytest.mark.parametrize("name", ["steps", "n_test"])
def test_unequal_runs_are_not_compared(workdir, config, name):
    put_result(workdir, make_result(config, "cglo", 0, 80.0, **{name: 399}))
    with pytest.raises(UserError, match=rf"differ in {name}"):
        report.write(workdir, config)


@pytest.mark.parametrize("name", ["images", "test_images"])
def test_results_on_other_images_are_not_compared(workdir, config, name):
    result = make_result(config, "cglo", 0, 80.0)
    put_result(workdir, result | {"fingerprint": {**result["fingerprint"], name: "1f"}})
    with pytest.raises(UserError, match=rf"differ in {name}"):
        report.write(workdir, config)


def test_results_of_other_settings_are_refused(workdir):
    with pytest.raises(UserError, match=r"classify\.lr=0\.1, this call has 0\.2"):
        report.write(workdir, make_config(**{"classify.lr": 0.2}))


def test_fields_that_change_nothing_may_differ(workdir):
    report.write(workdir, make_config(**{"train.log_every_steps": 7}))


@pytest.mark.parametrize("text", ["{oops", "", "[1]", '{"stage": "train"}'])
@pytest.mark.parametrize("name", ["metrics", "timings"])
def test_damaged_lines_are_named(workdir, config, name, text):
    path = workdir / f"{name}.jsonl"
    path.write_text(path.read_text() + text + "\n")
    number = path.read_text().count("\n")
    with pytest.raises(UserError, match=rf"{name}\.jsonl, line {number} is damaged"):
        report.write(workdir, config)


def test_line_being_written_is_left_out(workdir):
    before = report.summarize(workdir).metrics
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "tr')
    assert report.summarize(workdir).metrics == before


def test_broken_picture_is_named(workdir, config):
    (workdir / "samples" / "codes.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"codes\.png.*--stage=sample"):
        report.write(workdir, config)


# --- the files


def test_run_prints_verdict_and_paths(workdir, config, capsys):
    report.run(config, workdir)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cglo helped. ")
    assert lines[1:] == [str(workdir / "report.md"), str(workdir / "report.html")]
    assert not list(workdir.glob("*.tmp"))


def test_same_bytes_on_a_second_call(workdir, config):
    first = write_html(workdir, config), (workdir / "report.md").read_bytes()
    assert (write_html(workdir, config), (workdir / "report.md").read_bytes()) == first


def test_interrupted_write_leaves_the_old_report(workdir, config, monkeypatch):
    old = write_html(workdir, config)
    put_result(workdir, make_result(config, "cglo", 0, 10.0))
    monkeypatch.setattr(report.os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write(workdir, config)
    assert (workdir / "report.html").read_text() == old


def test_html_loads_nothing(workdir, config):
    text = write_html(workdir, config)
    parsed = Parsed(text)
    for tag, attrs in parsed.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "data", "poster"):
            assert attrs.get(name, "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attrs)
    assert "@import" not in text
    assert "url(" not in text
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}


def test_headings_and_pictures(workdir, config):
    parsed = Parsed(write_html(workdir, config))
    assert parsed.headings[0] == ("h1", "shapes: 5 labelled images per class")
    assert [text for _, text in parsed.headings[1:]] == [
        "Accuracy",
        "Difference to baseline",
        "Learning curves",
        "What the generator makes",
        "What the methods were given",
        "Settings",
        "How it was run",
        "Files of the work directory",
    ]
    pictures = [attrs for tag, attrs in parsed.tags if tag == "img"]
    assert len(pictures) == 3
    for attrs in pictures:
        assert attrs["alt"]
        assert (attrs["width"], attrs["height"]) == ("30", "20")
    assert sum(tag == "svg" for tag, _ in parsed.tags) == 4


def test_every_number_is_there(workdir, config):
    cells = Parsed(write_html(workdir, config)).cells
    markdown = (workdir / "report.md").read_text()
    expected = ["1234", "80.17 ± 0.44", "83.67 ± 0.22"]  # means and errors by hand
    expected += ["+3.25, +3.00, +4.25", "helped", "0123abc", "0, 1, 2"]
    expected += ["30 images of 6 classes", "7", "400 images of the test split"]
    for values in zip(*TOP1.values(), strict=True):
        expected += [f"{top1:.2f} / {(100 + top1) / 2:.2f}" for top1 in values]
    for text in expected:
        assert text in cells, text
        assert f"| {text} |" in markdown, text
    standard_error = 100 * math.sqrt(0.795 * 0.205 / 400)  # of the lowest accuracy
    assert f"standard error of up to {standard_error:.2f} points" in markdown


def test_times_of_resumed_runs_are_added(workdir, config):
    cells = Parsed(write_html(workdir, config)).cells
    start = cells.index("train")
    assert cells[start : start + 5] == ["train", "2", "2 min", "6.0 s", "4,321"]
    assert cells[start + 5 : start + 10] == ["sample", "1", "7.5 s", "0.0 s", "-"]


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        (
            {"reconstruction.loss": "laplacian"},
            "none (cglo's loss is the Laplacian pyramid's)",
        ),
        (
            {"reconstruction.random_weights": True},
            "none (cglo's loss uses a VGG-16 with random weights)",
        ),
        ({}, "cglo: VGG-16 trained on other images, in its loss; other methods: none"),
        (
            {"dataset.holdout": 400},
            "400 unused training images (dataset.holdout)",
        ),
    ],
)
def test_priors_are_said(tmp_path, changes, want):
    config = make_config(**changes)
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    assert want in Parsed(write_html(tmp_path, config)).cells


def test_changed_settings_are_marked(tmp_path):
    config = make_config(**{"latent.dim": 96})
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    cells = Parsed(write_html(tmp_path, config)).cells
    first = cells.index("latent.dim")
    assert cells[first : first + 3] == ["latent.dim", "96", "128"]
    second = cells.index("latent.dim", first + 1)
    assert cells[second : second + 4] == ["latent.dim", "96", "128", "changed"]
    assert cells.count("train.epochs") == 1
    assert set(config_lib.flatten(config)) <= set(cells)


def test_class_names_are_escaped(workdir, config):
    text = write_html(workdir, config)
    assert '<b>&"' not in text
    assert set(NAMES) <= set(Parsed(text).cells)
    rows = (workdir / "report.md").read_text().splitlines()
    assert '| 1 | &lt;b&gt;&amp;" |' in rows
    assert r"| 2 | a_b\|c |" in rows
    assert r"| 3 | \_x\_\*y\* |" in rows


def test_what_is_missing_names_its_stage(tmp_path, config):
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    report.write(tmp_path, config)
    text = (tmp_path / "report.md").read_text()
    assert "--stage=train and --stage=classify write them" in text
    missing = "reconstructions.png, interpolations.png, codes.png, the synthetic images"
    assert f"Not there: {missing}. --stage=sample makes them." in text
