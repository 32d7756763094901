"""Table 5: with unlabelled images; see `experiments.runner`.

python -m experiments.table5 --scale=cpu --data=digits
"""

from experiments import runner
from experiments.tables import Column, Row, Table, baselines


def _columns(shots: int, unlabelled: dict[int, str]) -> dict[str, Column]:
    """Returns columns {number of unlabelled images: the paper's column in its place}."""
    return {
        str(n): Column(
            f"{n} unlabelled images, {shots} labelled ones per class",
            paper,
            {"dataset.shots": shots, "dataset.unlabelled": n},
        )
        for n, paper in unlabelled.items()
    }


_PRINTED = _columns(25, {0: "0", 1000: "1000", 35000: "35000"})

TABLE = Table(
    name="table5",
    title="Table 5: unlabelled images, CIFAR-100, 25 labelled images per class, top-1",
    section="section 5.4",
    data="cifar100",
    columns={
        ("cpu", "digits"): _columns(5, {0: "0", 100: "1000", 500: "35000"}),
        ("cpu", "cifar100"): _columns(10, {0: "0", 100: "1000", 2000: "35000"}),
        ("hour", "cifar100"): _PRINTED,
        ("paper", "cifar100"): _PRINTED,
    },
    rows=(
        *baselines({"0": "38.39 ± 0.18", "1000": "-", "35000": "-"}),
        Row(
            "MixMatch",
            "mixmatch",
            paper={"0": "40.17", "1000": "42.39", "35000": "50.34"},
        ),
        Row(
            "cGLO",
            "cglo",
            paper={
                "0": "43.84 ± 0.25",
                "1000": "44.52 ± 0.12",
                "35000": "44.73 ± 0.07",
            },
        ),
        Row("cGLO, tuned classifier", "cglo", tuned=True),
    ),
    note="The baselines see no unlabelled image: they are the same in every part.",
)

if __name__ == "__main__":
    runner.run(TABLE)
