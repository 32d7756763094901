"""Tables 1 to 6 of the paper: their rows, columns and printed numbers; run by `experiments.tables`."""

from collections.abc import Mapping

from experiments.harness.scales import SCALES
from experiments.harness.table import (
    CUT_OFF,
    NOT_IN_COPY,
    Column,
    Row,
    Table,
    baselines,
    by_shots,
)

_CGLO_TUNED = Row("cGLO, tuned classifier", "cglo", tuned=True)


def _cells(columns: Mapping[str, Column], text: str) -> dict[str, str]:
    """Returns the paper's {column: cell} of a row's cells "a | b", in the columns' order."""
    names = [column.paper for column in columns.values()]
    return dict(zip(names, text.split(" | "), strict=True))


def _compared(columns: Mapping[str, Column], **paper: str) -> tuple[Row, ...]:
    """Returns the rows of Tables 1 and 2.

    Args:
      columns: those that the paper prints.
      paper: {method: its cells "a | b"}.
    """
    cells = {method: _cells(columns, text) for method, text in paper.items()}
    return (
        *baselines(cells["baseline"]),
        Row("cGLO", "cglo", paper=cells["cglo"]),
        _CGLO_TUNED,
        Row("MixMatch", "mixmatch", paper=cells["mixmatch"]),
        Row("Cutout", "cutout", paper=cells["cutout"]),
        Row("Random Erasing", "random_erasing", paper=cells["random_erasing"]),
        Row("Barz & Denzler: cosine", "cosine", paper=cells["cosine"]),
        Row("Barz & Denzler: cosine + 0.1 cross-entropy", "cosine_ce"),
        Row("Pixel mix", "pixelmix"),
        Row("mixup", "mixup"),
        Row("AutoAugment", "autoaugment"),
    )


_NOTE_COMPARED = (
    "The paper's numbers in brackets are its estimate of Barz & Denzler's own results; it "
    "does not say which of their two losses it ran. Pixel mix mixes the pixels of the pairs "
    "whose codes cGLO mixes."
)

_SHOTS_1 = by_shots({n: n for n in (10, 25, 50, 100)})
TABLE1 = Table(
    name="table1",
    title="Table 1: CIFAR-100, top-1 by images per class",
    section="section 5",
    data="cifar100",
    columns={
        ("cpu", "digits"): by_shots({5: 25, 10: 50}),
        ("cpu", "cifar100"): by_shots({10: 10, 25: 25}),
        ("hour", "cifar100"): _SHOTS_1,
        ("paper", "cifar100"): _SHOTS_1,
    },
    rows=_compared(
        _SHOTS_1,
        baseline=f"{CUT_OFF} | 38.39 ± 0.18 | 47.82 ± 0.11 | {CUT_OFF}",
        cglo="28.55 ± 0.40 | 43.84 ± 0.25 | 52.95 ± 0.20 | 64.27 ± 0.04",
        mixmatch="24.8 | 40.17 | 49.87 | 59.03",
        cutout="23.43 ± 0.24 | 39.11 ± 0.59 | 52.11 ± 0.28 | 64.49 ± 0.10",
        random_erasing="23.26 ± 0.27 | 37.45 ± 0.15 | 50.5 ± 0.41 | 64.03 ± 0.22",
        cosine="23.01 (22) | 28.05 (35) | 44.55 (48) | 55.99 (58)",
    ),
    note=_NOTE_COMPARED,
)

_SHOTS_2 = by_shots({n: n for n in (5, 10, 20, 30)})
TABLE2 = Table(
    name="table2",
    title="Table 2: CUB-200, top-1 by images per class",
    section="section 5",
    data="cub",
    columns={
        ("cpu", "digits"): _SHOTS_2,
        ("hour", "cub"): _SHOTS_2,
        ("paper", "cub"): _SHOTS_2,
    },
    rows=_compared(
        _SHOTS_2,
        baseline="50.79 ± 0.19 | 64.11 ± 0.22 | 69.11 ± 0.55 | 75.15 ± 0.10",
        cglo="51.52 ± 0.21 | 65.13 ± 0.12 | 74.16 ± 0.17 | 77.75 ± 0.20",
        mixmatch="15.01 | 36.02 | 60.57 | 70.41",
        cutout="50.63 ± 0.31 | 64.33 ± 0.02 | 68.47 ± 0.20 | 74.97 ± 0.34",
        random_erasing="48.90 ± 0.45 | 63.72 ± 0.20 | 66.14 ± 0.23 | 73.74 ± 0.34",
        cosine="17.80 (35) | 34.23 (60) | 52.00 (76) | 62.25 (82.5)",
    ),
    note=_NOTE_COMPARED,
)

# Tables 3 and 4 vary one task, and have these rows in common.
_25_SHOTS = by_shots({25: 25})
_COLUMNS_25 = {
    ("cpu", "digits"): by_shots({5: 25}),
    ("cpu", "cifar100"): by_shots({10: 25}),
    ("hour", "cifar100"): _25_SHOTS,
    ("paper", "cifar100"): _25_SHOTS,
}
_ROWS_25 = (
    Row("cGLO", "cglo", paper={"25": "43.84 ± 0.25 / 67.77 ± 0.18"}),
    *baselines({"25": "38.39 ± 0.18 / 67.77 ± 0.18"}),
)

TABLE3 = Table(
    name="table3",
    title="Table 3: ablation of cGLO, CIFAR-100, 25 images per class",
    section="section 5.1",
    data="cifar100",
    columns=_COLUMNS_25,
    metrics=("top1", "top5"),
    rows=(
        *_ROWS_25,
        Row(
            "no classifier",
            "cglo",
            {"weak_classifier.gamma": 0.0},
            paper={"25": "41.57 ± 0.54 / 69.55 ± 0.11"},
        ),
        Row(
            "no noise",
            "cglo",
            {"latent.noise": "none"},
            paper={"25": "43.31 ± 0.02 / 70.05 ± 0.02"},
        ),
        Row(
            "lerp",
            "cglo",
            {"sample.interpolation": "lerp"},
            paper={"25": "43.01 ± 0.06 / 70.51 ± 0.03"},
        ),
        Row(
            "transductive",
            "cglo",
            {"dataset.transductive": True},
            paper={"25": "44.39 ± 0.12 / 71.28 ± 0.09"},
        ),
        _CGLO_TUNED,
    ),
    note=(
        "The paper's top-5 of cGLO is that of its baseline, digit for digit, and below that of "
        "every ablation: evidently a misprint."
    ),
)

TABLE4 = Table(
    name="table4",
    title="Table 4: design choices of cGLO, CIFAR-100, 25 images per class",
    section="section 5.2",
    data="cifar100",
    columns=_COLUMNS_25,
    metrics=("top1", "top5"),
    rows=(
        *_ROWS_25,
        Row(
            "latent classifier",
            "cglo",
            {"weak_classifier.input": "latent"},
            paper={"25": "43.08 ± 0.06 / 70.22 ± 0.05"},
        ),
        Row(
            "hypercube init",
            "cglo",
            {"latent.init": "hypercube"},
            paper={"25": "44.21 ± 0.61 / 70.89 ± 0.46"},
        ),
        Row(
            "ResNet init",
            "cglo",
            {"latent.init": "resnet"},
            paper={"25": "42.95 ± 0.22 / 70.10 ± 0.13"},
            cpu_name="ResNet init, random weights",
        ),
        Row(
            "additive noise, std .05",
            "cglo",
            {"latent.noise": "additive", "latent.noise_std": 0.05},
            paper={"25": "41.02 ± 0.43 / 68.10 ± 0.11"},
        ),
        Row("cosine loss of f_phi", "cglo", {"weak_classifier.loss": "cosine"}),
        Row(
            "cosine loss, final classifier",
            "cglo_cosine",
            paper={"25": "41.01 ± 0.27 / 68.45 ± 0.31"},
        ),
        _CGLO_TUNED,
    ),
    note=(
        "cGLO and baseline are the paper's Table 3, for reference; their equal top-5 is "
        "evidently a misprint there. The paper does not say how strong the additive noise is: "
        'the .05 is our choice. Nor does it say whether its "Cosine Loss" (section 5.2) is that of '
        "f_phi or of the final classifier, so both are rows here. Its 41.01 / 68.45 stand beside the "
        "final classifier's, whose they most likely are: in the authors' released trainer the branch "
        "for f_phi's cosine returns a name that it never sets, and cannot run. Read so, the paper's "
        "cosine loss is below its cGLO with cross-entropy (43.84), the lowest of its variants. Ours "
        "contradicts that wherever it was run: the final classifier's cosine loss is above cGLO with "
        "cross-entropy (docs/measurements.md)."
    ),
)


def _by_unlabelled(shots: int, unlabelled: dict[int, str]) -> dict[str, Column]:
    """Returns columns {number of unlabelled images: the paper's column in its place}."""
    return {
        str(n): Column(
            f"{n} unlabelled images, {shots} labelled ones per class",
            paper,
            {"dataset.shots": shots, "dataset.unlabelled": n},
        )
        for n, paper in unlabelled.items()
    }


_UNLABELLED = _by_unlabelled(25, {0: "0", 1000: "1000", 35000: "35000"})
TABLE5 = Table(
    name="table5",
    title="Table 5: unlabelled images, CIFAR-100, 25 labelled images per class, top-1",
    section="section 5.4",
    data="cifar100",
    columns={
        ("cpu", "digits"): _by_unlabelled(5, {0: "0", 100: "1000", 500: "35000"}),
        ("cpu", "cifar100"): _by_unlabelled(10, {0: "0", 100: "1000", 2000: "35000"}),
        ("hour", "cifar100"): _UNLABELLED,
        ("paper", "cifar100"): _UNLABELLED,
    },
    rows=(
        *baselines(_cells(_UNLABELLED, "38.39 ± 0.18 | - | -")),
        Row("MixMatch", "mixmatch", paper=_cells(_UNLABELLED, "40.17 | 42.39 | 50.34")),
        Row(
            "cGLO",
            "cglo",
            paper=_cells(_UNLABELLED, "43.84 ± 0.25 | 44.52 ± 0.12 | 44.73 ± 0.07"),
        ),
        _CGLO_TUNED,
    ),
    note="The baselines see no unlabelled image: they are the same in every part.",
)

_50_SHOTS = by_shots({50: 50}, dataset__transductive=True)
TABLE6 = Table(
    name="table6",
    title="Table 6: cGLO and AutoAugment, CIFAR-100, 50 images per class, transductive",
    section="section 5.3",
    data="cifar100",
    columns={
        ("cpu", "digits"): by_shots({10: 50}, dataset__transductive=True),
        ("cpu", "cifar100"): by_shots({20: 50}, dataset__transductive=True),
        ("hour", "cifar100"): _50_SHOTS,
        ("paper", "cifar100"): _50_SHOTS,
    },
    metrics=("top1", "top5"),
    rows=(
        *baselines({"50": "50.37 ± 0.05 / 75.61 ± 0.01"}),
        Row("cGLO", "cglo", paper={"50": "53.35 ± 0.23 / 77.60 ± 0.12"}),
        Row("AutoAugment", "autoaugment", paper={"50": "53.80 ± 0.10 / 79.18 ± 0.13"}),
        Row(
            "AutoAugment + cGLO",
            "autoaugment_cglo",
            paper={"50": "56.31 ± 0.02 / 80.66 ± 0.04"},
        ),
        _CGLO_TUNED,
    ),
    note=(
        "Only cGLO can see the test images, without their labels. The paper's baseline is "
        "47.82 ± 0.11 in its Table 1 for the same images per class; it does not say why. "
        "AutoAugment's policy was itself learnt from many more images of CIFAR."
    ),
)

_UNKNOWN = " | ".join([NOT_IN_COPY] * len(_SHOTS_1))
CIFAR10 = Table(
    name="cifar10",
    title="CIFAR-10, top-1 by images per class",
    section="a figure of the published version",
    data="cifar10",
    columns={(scale, "cifar10"): _SHOTS_1 for scale in SCALES},
    rows=_compared(
        _SHOTS_1,
        baseline=_UNKNOWN,
        cglo=_UNKNOWN,
        mixmatch=_UNKNOWN,
        cutout=_UNKNOWN,
        random_erasing=_UNKNOWN,
        cosine=_UNKNOWN,
    ),
    note=(
        "The published version (ICPR 2020) shows CIFAR-10 in a figure, which our copy, the preprint, "
        "does not have: the paper's numbers are left out, and which methods the figure compares is "
        "assumed to be as in Table 1. Pixel mix mixes the pixels of the pairs whose codes cGLO mixes."
    ),
)

TABLES = (TABLE1, TABLE2, TABLE3, TABLE4, TABLE5, TABLE6, CIFAR10)
