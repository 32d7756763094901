"""Table 2: compared methods on CUB-200, by images per class; see `experiments.runner`.

python -m experiments.table2 --scale=cpu
"""

from experiments import runner
from experiments.tables import Row, Table, baselines, by_shots

_COLUMNS = by_shots({n: n for n in (5, 10, 20, 30)})

TABLE = Table(
    name="table2",
    title="Table 2: CUB-200, top-1 by images per class",
    section="section 5",
    data="cub",
    columns={
        ("cpu", "digits"): _COLUMNS,
        ("hour", "cub"): _COLUMNS,
        ("paper", "cub"): _COLUMNS,
    },
    rows=(
        *baselines(
            {
                "5": "50.79 ± 0.19",
                "10": "64.11 ± 0.22",
                "20": "69.11 ± 0.55",
                "30": "75.15 ± 0.10",
            }
        ),
        Row(
            "cGLO",
            "cglo",
            paper={
                "5": "51.52 ± 0.21",
                "10": "65.13 ± 0.12",
                "20": "74.16 ± 0.17",
                "30": "77.75 ± 0.20",
            },
        ),
        Row("cGLO, tuned classifier", "cglo", tuned=True),
        Row(
            "MixMatch",
            "mixmatch",
            paper={"5": "15.01", "10": "36.02", "20": "60.57", "30": "70.41"},
        ),
        Row(
            "Cutout",
            "cutout",
            paper={
                "5": "50.63 ± 0.31",
                "10": "64.33 ± 0.02",
                "20": "68.47 ± 0.20",
                "30": "74.97 ± 0.34",
            },
        ),
        Row(
            "Random Erasing",
            "random_erasing",
            paper={
                "5": "48.90 ± 0.45",
                "10": "63.72 ± 0.20",
                "20": "66.14 ± 0.23",
                "30": "73.74 ± 0.34",
            },
        ),
        Row(
            "Barz & Denzler: cosine",
            "cosine",
            paper={
                "5": "17.80 (35)",
                "10": "34.23 (60)",
                "20": "52.00 (76)",
                "30": "62.25 (82.5)",
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
