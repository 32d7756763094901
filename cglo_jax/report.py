"""Results of a work directory -> verdict, tables and pictures in report.md and report.html.

The verdict on a method is a paired t-interval over seeds: the runs of one seed share their training
images and their length and differ in the augmentation only. It says nothing that the interval
does not carry.
"""

import base64
import dataclasses
import html
import importlib.resources
import json
import math
import os
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from ml_collections import ConfigDict
from PIL import Image
from scipy import stats

from cglo_jax import config as config_lib
from cglo_jax import figures
from cglo_jax.errors import UserError

BASELINE = "baseline"
_PICTURES = {
    "reconstructions": (
        "Training images (upper rows) and what the generator makes of their codes (lower rows). "
        "What is lost here is missing from every synthetic image."
    ),
    "interpolations": (
        "Each row walks from the code of one training image (left) to that of another of its class "
        "(right). Synthetic training images are such images in between."
    ),
    "codes": (
        "The codes of the training images, brought from the sphere to the plane and coloured by "
        "class. Only nearness has a meaning here, the axes have none."
    ),
}


_ACCURACY = """
In percent, mean ± standard error over seeds. Every classifier was trained for the same {steps} and
measured after the last one, on all of {test_images}; nothing was selected by its test accuracy.
"""
_DIFFERENCE = """
Points of top-1 accuracy, method minus {baseline}, by runs that share a seed.
"""
_INTERVAL = """
The interval is Student's t over these differences, taken to be normally distributed, with {percent}
confidence. A method helped if all of its interval is above 0, hurt if all of it is below.

What the interval covers: the randomness of training (initialisation, order, noise, augmentation).
All seeds share the same training images (dataset.split_seed {split_seed}) and the same test images,
so it does not cover another choice of training images, which with few of them may change more than
a seed does.
"""
_NO_INTERVAL = """
With one seed there is no interval, and so no verdict: nothing tells a difference from chance. Give
--config.seeds more of them.
"""
_LIMITS = """
The size of the test set, {test_images}, gives each accuracy a standard error of up to {error:.2f}
points as an estimate for new images of this kind. No interval here includes it.

The {baseline} has the settings below and the same number of steps as the others. If a better tuned
one exists, that is the one to beat.
"""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a work directory holds."""

    results: dict[str, dict[int, dict[str, Any]]]  # result.json by method, then seed
    metrics: list[dict[str, Any]]  # lines of metrics.jsonl
    timings: list[dict[str, Any]]  # lines of timings.jsonl

    @property
    def any_result(self) -> dict[str, Any]:
        """One of the results, for what `summarize` has found to be the same in all."""
        return next(iter(next(iter(self.results.values())).values()))


def summarize(workdir: pathlib.Path) -> Summary:
    """Reads the results of `workdir`, the baseline's first.

    Raises:
      UserError: if there are none, a file cannot be read, or results are not comparable.
    """
    results: dict[str, dict[int, dict[str, Any]]] = {}
    read = [_read_result(path) for path in workdir.glob("classifiers/*/result.json")]
    if not read:
        raise UserError(
            f"{workdir / 'classifiers'} holds no result: run --stage=classify first"
        )
    order = {method: i for i, method in enumerate(config_lib.METHODS)}
    for result in sorted(
        read, key=lambda r: (order.get(r["method"], 99), r["method"], r["seed"])
    ):
        results.setdefault(result["method"], {})[result["seed"]] = result
        _check_comparable(read[0], result)
    metrics = _read_lines(workdir / "metrics.jsonl", ("stage", "seed", "step"))
    timings = _read_lines(workdir / "timings.jsonl", ("stage", "wall_s"))
    return Summary(results, metrics, timings)


def _check_comparable(a: dict[str, Any], b: dict[str, Any]) -> None:
    # Settings are compared with the config's; these are what a config does not say.
    for name in ("steps", "n_test", "images", "test_images"):
        values = [r.get(name, r["fingerprint"].get(name)) for r in (a, b)]
        if values[0] != values[1]:
            names = [f"classifiers/{r['method']}-{r['seed']}" for r in (a, b)]
            raise UserError(
                f"{names[0]} and {names[1]} differ in {name} ({values[0]} and {values[1]}) and "
                "cannot be compared: remove one of them and run --stage=classify again"
            )


def _read_result(path: pathlib.Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if path.parent.name != f"{result['method']}-{int(result['seed'])}":
            raise ValueError("it is of another method or seed than its directory")
        if not 0 <= float(result["top1"]) <= float(result["top5"]) <= 100:
            raise ValueError("top1 and top5 are no percentages")
        if not (result["n_test"] > 0 and result["steps"] > 0):
            raise ValueError("n_test and steps must be greater than 0")
        for name in ("fingerprint", "environment", "dataset"):
            dict(result[name])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be used ({type(error).__name__}: {error}): "
            f"delete {path.parent} and run --stage=classify again"
        ) from error
    return result


def _read_lines(path: pathlib.Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Reads an object with `names` per line; a last line without its end is being written."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(dict(json.loads(line)))
            missing = [name for name in names if name not in records[-1]]
            if missing:
                raise ValueError(f"{missing[0]} is missing")
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}, line {number} is damaged ({error}): delete that line and run this again"
            ) from error
    return records


def paired_difference(
    a: Sequence[float], b: Sequence[float], confidence: float, resolution: float = 0.0
) -> tuple[float, float | None, float | None]:
    """Computes the mean of a - b over pairs and its Student t-interval.

    Accuracies are counts of test images, so a difference moves in steps of `resolution`, and seeds
    that agree to the last image have a standard deviation of 0, which would give an interval of no
    width. Values that fall on two neighbouring steps have one of up to half a step, which a few
    seeds can hardly tell from 0: so the standard deviation is taken to be at least that.

    Args:
      a: one value per seed.
      b: the values of the same seeds, in the same order.
      confidence: of the interval, between 0 and 1.
      resolution: smallest difference that two values can have, 0 = any.

    Returns:
      (mean, low, high) in the unit of a and b; low and high are None for a single pair.

    Raises:
      ValueError: if a and b differ in length or are empty.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) == 1:
        return mean, None, None
    deviation = max(statistics.stdev(differences), resolution / 2)
    t = float(stats.t.ppf((1 + confidence) / 2, len(differences) - 1))
    half = t * deviation / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def verdict(low: float | None, high: float | None) -> str:
    """Returns what an interval of the difference allows to say, and no more."""
    if low is None or high is None:
        return "one seed: no verdict"
    if low > 0:
        return "helped"
    return "hurt" if high < 0 else "no measurable difference"


def standard_error(values: Sequence[float]) -> float | None:
    """Returns the standard error of the mean over seeds (n - 1 under the root); None for one."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) / math.sqrt(len(values))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A method against the baseline in points of top-1 accuracy, over the seeds both have."""

    method: str
    seeds: list[int]
    differences: list[float]  # method - baseline, per seed
    mean: float
    low: float | None
    high: float | None
    widened: bool  # the seeds agree more closely than the test set can tell

    @property
    def verdict(self) -> str:
        return verdict(self.low, self.high)

    def interval(self) -> str:
        return "none" if self.low is None else f"{self.low:+.2f} to {self.high:+.2f}"


def compare(summary: Summary, method: str, confidence: float) -> Comparison | None:
    """Compares `method` with the baseline; None if they have no seed in common."""
    ours, base = summary.results[method], summary.results.get(BASELINE, {})
    seeds = sorted(ours.keys() & base.keys())
    if not seeds:
        return None
    a, b = ([runs[seed]["top1"] for seed in seeds] for runs in (ours, base))
    differences = [x - y for x, y in zip(a, b, strict=True)]
    resolution = 100 / summary.any_result["n_test"]
    mean, low, high = paired_difference(a, b, confidence, resolution)
    widened = len(seeds) > 1 and statistics.stdev(differences) < resolution / 2
    return Comparison(method, seeds, differences, mean, low, high, widened)


def sentence(c: Comparison, confidence: float) -> str:
    """Says a comparison: the verdict, then the numbers it rests on."""
    joint = " " if c.verdict in ("helped", "hurt") else ": "
    side = "below" if c.mean < 0 else "above"
    start = f"{c.method}{joint}{c.verdict}. Its top-1 accuracy is {abs(c.mean):.2f} points {side}"
    if c.low is None:
        return f"{start} {BASELINE} with seed {c.seeds[0]}, which may be chance."
    interval = f"{100 * confidence:g}% interval {c.interval()}"
    return f"{start} {BASELINE} ({interval}, {len(c.seeds)} seeds)."


@dataclasses.dataclass(frozen=True)
class Table:
    """Texts in rows and columns."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False  # shown on demand in the page


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of samples/."""

    name: str
    caption: str
    png: bytes
    size: tuple[int, int]  # width, height in pixels

    @property
    def data_url(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in this order: one content for both files."""

    heading: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    curves: Mapping[str, str] = dataclasses.field(default_factory=dict)  # {title: SVG}
    pictures: Sequence[Picture] = ()


def _plural(n: int, word: str) -> str:
    return f"{n} {word}" + ("" if n == 1 else "es" if word.endswith("s") else "s")


def _mean_and_error(values: Sequence[float]) -> str:
    error = standard_error(values)
    return f"{statistics.fmean(values):.2f}" + (
        "" if error is None else f" ± {error:.2f}"
    )


def _paragraphs(text: str, **values: Any) -> list[str]:
    return [" ".join(p.split()) for p in text.format(**values).split("\n\n")]


def _accuracy(summary: Summary, flat: Mapping[str, Any]) -> Section:
    result, methods = summary.any_result, summary.results
    text = _paragraphs(
        _ACCURACY,
        steps=_plural(result["steps"], "step"),
        test_images=_plural(result["n_test"], "test image"),
    )
    if result["dataset"]["num_classes"] <= 5:
        text.append("With five classes or fewer, every top-5 accuracy is 100.")
    missing = [
        f"{method} seed {seed}"
        for method in flat["classify.methods"]
        for seed in flat["seeds"]
        if seed not in methods.get(method, {})
    ]
    if missing:
        names = ", ".join(missing)
        text.append(f"Not there yet: {names}. --stage=classify makes them.")
    means = []
    for method, runs in methods.items():
        pairs = zip(*((r["top1"], r["top5"]) for r in runs.values()), strict=True)
        numbers = [str(len(runs)), str(result["steps"])]
        means.append([method, *map(_mean_and_error, pairs), *numbers])
    header = ["Method", "Top-1", "Top-5", "Seeds", "Steps each"]
    tables = [Table("Mean over seeds", header, means), _each_seed(summary)]
    return Section("Accuracy", text, tables)


def _each_seed(summary: Summary) -> Table:
    rows = []
    for seed in sorted({seed for runs in summary.results.values() for seed in runs}):
        found = [runs.get(seed) for runs in summary.results.values()]
        cells = [f"{r['top1']:.2f} / {r['top5']:.2f}" if r else "-" for r in found]
        rows.append([str(seed), *cells])
    return Table("Each seed: top-1 / top-5", ["Seed", *summary.results], rows)


def _differences(
    summary: Summary, comparisons: Sequence[Comparison], flat: Mapping[str, Any]
) -> Section:
    heading, n_test = f"Difference to {BASELINE}", summary.any_result["n_test"]
    if not comparisons:
        return Section(heading, ["There is nothing to compare."])
    percent = f"{100 * flat['report.confidence']:g}%"
    top1 = [r["top1"] for runs in summary.results.values() for r in runs.values()]
    intervals = [c for c in comparisons if c.low is not None]
    text = _paragraphs(
        _DIFFERENCE + (_INTERVAL if intervals else _NO_INTERVAL) + _LIMITS,
        baseline=BASELINE,
        percent=percent,
        split_seed=flat["dataset.split_seed"],
        test_images=_plural(n_test, "image"),
        error=max(math.sqrt(p * (100 - p) / n_test) for p in top1),
    )
    if len(intervals) > 1:
        text.append(
            f"Each of the {len(intervals)} intervals stands alone: the chance that at least one "
            f"of them errs is higher than {100 * (1 - flat['report.confidence']):.3g}%."
        )
    for c in comparisons:
        if c.widened:
            text.append(
                f"The seeds of {c.method} agree more closely than {n_test} test images can tell: "
                f"half a test image ({50 / n_test:.3f} points) was taken as their standard deviation."
            )
    header = ["Method", "Mean", f"{percent} interval", "Each seed", "Seeds", "Verdict"]
    rows = [
        [
            c.method,
            f"{c.mean:+.2f}",
            c.interval(),
            ", ".join(f"{d:+.2f}" for d in c.differences),
            ", ".join(map(str, c.seeds)),
            c.verdict,
        ]
        for c in comparisons
    ]
    return Section(heading, text, [Table("Paired differences", header, rows)])


def _curves(summary: Summary) -> Section:
    drawn = figures.learning_curves(summary.metrics)
    if not drawn:
        return Section(
            "Learning curves",
            ["There are none: --stage=train and --stage=classify write them."],
        )
    text = "A thin line per seed, a colour per method, over training steps."
    return Section("Learning curves", [text], curves=drawn)


def _samples(workdir: pathlib.Path) -> Section:
    pictures, missing = [], []
    for name, caption in _PICTURES.items():
        path = workdir / "samples" / f"{name}.png"
        if not path.exists():
            missing.append(path.name)
            continue
        try:
            with Image.open(path) as image:
                pictures.append(Picture(name, caption, path.read_bytes(), image.size))
        except OSError as error:
            raise UserError(
                f"{path} is no picture: run --stage=sample again"
            ) from error
    n = sum(1 for _ in workdir.glob("samples/images/*/*.png"))
    text = [
        (
            f"{_plural(n, 'synthetic image')}: samples/images/<class>/*.png in the work directory, "
            "each described by a line of samples/manifest.jsonl."
        )
    ]
    if missing or not n:
        text = text if n else []
        names = ", ".join([*missing, *([] if n else ["the synthetic images"])])
        text.append(f"Not there: {names}. --stage=sample makes them.")
    return Section("What the generator makes", text, pictures=pictures)


def _priors(summary: Summary, flat: Mapping[str, Any]) -> Section:
    data, n_test = summary.any_result["dataset"], summary.any_result["n_test"]
    weights = "cglo: VGG-16 trained on other images, in its loss; other methods: none"
    if flat["reconstruction.loss"] == "laplacian":
        weights = "none (cglo's loss is the Laplacian pyramid's)"
    elif flat["reconstruction.random_weights"]:
        weights = "none (cglo's loss uses a VGG-16 with random weights)"
    test = f"{_plural(n_test, 'image')} of the test split"
    if flat["dataset.holdout"]:
        test = f"{_plural(n_test, 'unused training image')} (dataset.holdout)"
    among = ", the test images among them" if data["transductive"] else ""
    seen = "yes: cglo reconstructs the test images too, without labels"
    labelled = _plural(data["n_labelled"], "image")
    rows = [
        ["Labelled images", f"{labelled} of {_plural(data['num_classes'], 'class')}"],
        ["Unlabelled images", f"{data['n_unlabelled']}{among}"],
        [
            "Transductive",
            seen if data["transductive"] else "no: test images are never seen",
        ],
        ["External weights", weights],
        ["Tested on", test],
        ["Labels of test images", "never used, except to count the accuracies above"],
    ]
    names = [[str(k), name] for k, name in enumerate(data["class_names"])]
    tables = [Table("Priors and data", ["What", "Used"], rows)]
    tables.append(Table("Classes", ["Label", "Name"], names, folded=True))
    return Section("What the methods were given", tables=tables)


def _settings(flat: Mapping[str, Any]) -> Section:
    defaults = config_lib.flatten(config_lib.get_config())
    rows = [
        [name, json.dumps(value), json.dumps(defaults.get(name)), "changed"]
        if value != defaults.get(name)
        else [name, json.dumps(value), json.dumps(value), ""]
        for name, value in flat.items()
    ]
    changed = [row[:3] for row in rows if row[3]]
    tables = [Table("All fields", ["Field", "Value", "Default", ""], rows, folded=True)]
    if changed:
        tables.insert(
            0, Table("Changed fields", ["Field", "Value", "Default"], changed)
        )
    return Section(
        "Settings", [] if changed else ["Every field has its default."], tables
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return (
        f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
    )


def _runs(summary: Summary) -> Section:
    used: dict[str, dict[str, None]] = {}  # the different values of each name, in order
    for runs in summary.results.values():
        for result in runs.values():
            for name, value in result["environment"].items():
                used.setdefault(name, {})[str(value)] = None
    rows = [[name, ", ".join(values)] for name, values in used.items()]
    tables = [
        Table("Versions and hardware of the classifiers", ["What", "Value"], rows)
    ]
    if not summary.timings:
        return Section("How it was run", ["No times were written."], tables)
    text = "Times are of calls that came to their end, compilation included."
    return Section("How it was run", [text], [*tables, _times(summary)])


def _times(summary: Summary) -> Table:
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in summary.timings:  # several per run if it was resumed
        name = f"{line['stage']} {line.get('method') or ''}".strip()
        groups.setdefault(name, []).append(line)
    rows = []
    for name, lines in groups.items():
        seconds = [sum(x.get(k) or 0 for x in lines) for k in ("wall_s", "compile_s")]
        rates = [x["images_per_s"] for x in lines if x.get("images_per_s")]
        rate = f"{statistics.median(rates):,.0f}" if rates else "-"
        seeds = str(len({line.get("seed") for line in lines}))
        rows.append([name, seeds, *map(_duration, seconds), rate])
    header = ["Stage", "Seeds", "Wall time", "Compiling", "Images/s"]
    return Table("Time, all seeds together", header, rows)


def _files() -> Section:
    rows = [
        ["samples/images/<class>/", "synthetic images"],
        ["samples/manifest.jsonl", "where each of them comes from"],
        ["checkpoints/", "generator, codes and weak classifier, per seed"],
        ["classifiers/<method>-<seed>/", "final classifiers and their result.json"],
        ["metrics.jsonl, timings.jsonl", "what was logged"],
        ["config.json", "the settings"],
    ]
    return Section(
        "Files of the work directory", tables=[Table("Files", ["Path", "What"], rows)]
    )


@dataclasses.dataclass(frozen=True)
class Page:
    """Everything that is told, in its order."""

    title: str
    verdicts: Sequence[tuple[str, str]]  # (kind: helped, hurt or none; sentence)
    sections: Sequence[Section]


def _verdicts(
    summary: Summary, comparisons: Sequence[Comparison], confidence: float
) -> list[tuple[str, str]]:
    kinds = {
        c.method: c.verdict if c.verdict in ("helped", "hurt") else "none"
        for c in comparisons
    }
    lines = [(kinds[c.method], sentence(c, confidence)) for c in comparisons]
    for method in summary.results:
        if method not in (BASELINE, *kinds):
            lines.append(
                (
                    "none",
                    f"{method}: no verdict, {BASELINE} has no result with its seeds.",
                )
            )
    return lines or [("none", f"No verdict: only {BASELINE} has results.")]


def create_page(workdir: pathlib.Path, config: ConfigDict) -> Page:
    """Reads a work directory and says all that the report says.

    Raises:
      UserError: see `summarize`; also if results were made with other settings than `config`.
    """
    summary, flat = summarize(workdir), config_lib.flatten(config)
    now = config_lib.classify_fingerprint(config)
    for method, runs in summary.results.items():
        for seed, result in runs.items():
            saved = {k: v for k, v in result["fingerprint"].items() if k in now}
            shared = {k: v for k, v in now.items() if k in saved}
            config_lib.check_fingerprint(saved, shared, f"classifiers/{method}-{seed}")
    confidence = flat["report.confidence"]
    compared = [
        compare(summary, method, confidence)
        for method in summary.results
        if method != BASELINE
    ]
    comparisons = [c for c in compared if c]
    shots = _plural(flat["dataset.shots"], "labelled image")
    return Page(
        f"{summary.any_result['dataset']['name']}: {shots} per class",
        _verdicts(summary, comparisons, confidence),
        [
            _accuracy(summary, flat),
            _differences(summary, comparisons, flat),
            _curves(summary),
            _samples(workdir),
            _priors(summary, flat),
            _settings(flat),
            _runs(summary),
            _files(),
        ],
    )


def _escape_markdown(text: str) -> str:
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


def to_markdown(page: Page) -> str:
    """Writes a page as Markdown; pictures are links into samples/, curves are left to HTML."""
    blocks = [f"# {_escape_markdown(page.title)}"]
    blocks += [f"**{_escape_markdown(text)}**" for _, text in page.verdicts]
    for section in page.sections:
        blocks.append(f"## {section.heading}")
        blocks += [_escape_markdown(text) for text in section.text]
        if section.curves:
            blocks.append("They are drawn in report.html.")
        for table in section.tables:
            lines = [table.header, ["---"] * len(table.header), *table.rows]
            cells = [
                [c if c == "---" else _escape_markdown(c) for c in line]
                for line in lines
            ]
            blocks.append(f"### {table.caption}")
            blocks.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
        for picture in section.pictures:
            blocks.append(
                f"![{picture.name}](samples/{picture.name}.png)\n\n{picture.caption}"
            )
    return "\n\n".join(blocks) + "\n"


def to_html(page: Page) -> str:
    """Writes a page as one HTML file that needs no other, no network and no script."""
    template = importlib.resources.files("cglo_jax").joinpath("report.html.jinja")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = template.read_text(encoding="utf-8")
    return environment.from_string(text).render(page=page, palette=figures.PALETTE)


def write(workdir: pathlib.Path, config: ConfigDict) -> list[str]:
    """Writes report.md and report.html into `workdir`, each at once or not at all.

    Returns:
      The verdicts, one sentence per method.

    Raises:
      UserError: see `create_page`.
    """
    page = create_page(workdir, config)
    for name, text in (
        ("report.md", to_markdown(page)),
        ("report.html", to_html(page)),
    ):
        temporary = workdir / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, workdir / name)
    return [text for _, text in page.verdicts]


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Stage `report`: writes the report, prints the verdicts and where it is."""
    for line in write(workdir, config):
        print(line)
    print(f"{workdir / 'report.md'}\n{workdir / 'report.html'}")
