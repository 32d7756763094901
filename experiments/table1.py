"""Table 1: compared methods on CIFAR-100, by images per class; see `experiments.runner`.

python -m experiments.table1 --scale=cpu --data=digits
"""

from experiments import runner
from experiments.tables import CUT_OFF, Row, Table, baselines, by_shots

_PRINTED = by_shots({n: n for n in (10, 25, 50, 100)})

TABLE = Table(
    name="table1",
    title="Table 1: CIFAR-100, top-1 by images per class",
    section="section 5",
    data="cifar100",
    columns={
        ("cpu", "digits"): by_shots({5: 25, 10: 50}),
        ("cpu", "cifar100"): by_shots({10: 10, 25: 25}),
        ("hour", "cifar100"): _PRINTED,
        ("paper", "cifar100"): _PRINTED,
    },
    rows=(
        *baselines(
            {"10": CUT_OFF, "25": "38.39 ± 0.18", "50": "47.82 ± 0.11", "100": CUT_OFF}
        ),
        Row(
            "cGLO",
            "cglo",
            paper={
                "10": "28.55 ± 0.40",
                "25": "43.84 ± 0.25",
                "50": "52.95 ± 0.20",
                "100": "64.27 ± 0.04",
            },
        ),
        Row("cGLO, tuned classifier", "cglo", tuned=True),
        Row(
            "MixMatch",
            "mixmatch",
            paper={"10": "24.8", "25": "40.17", "50": "49.87", "100": "59.03"},
        ),
        Row(
            "Cutout",
            "cutout",
            paper={
                "10": "23.43 ± 0.24",
                "25": "39.11 ± 0.59",
                "50": "52.11 ± 0.28",
                "100": "64.49 ± 0.10",
            },
        ),
        Row(
            "Random Erasing",
            "random_erasing",
            paper={
                "10": "23.26 ± 0.27",
                "25": "37.45 ± 0.15",
                "50": "50.5 ± 0.41",
                "100": "64.03 ± 0.22",
            },
        ),
        Row(
            "Barz & Denzler: cosine",
            "cosine",
            paper={
                "10": "23.01 (22)",
                "25": "28.05 (35)",
                "50": "44.55 (48)",
                "100": "55.99 (58)",
            },
        ),
        Row("Barz & Denzler: cosine + 0.1 cross-entropy", "cosine_ce"),
        Row("Pixel mix", "pixelmix"),
        Row("mixup", "mixup"),
        Row("AutoAugment", "autoaugment"),
    ),
    note=(
        "The paper's numbers in brackets are its estimate of Barz & Denzler's own results; it "
        "does not say which of their two losses it ran. Pixel mix mixes the pixels of the pairs "
        "whose codes cGLO mixes."
    ),
)

if __name__ == "__main__":
    runner.run(TABLE)
