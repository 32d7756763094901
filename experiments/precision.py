"""Whether computing in bfloat16 costs accuracy: networks in bfloat16, all else in float32.

    python -m experiments.precision --data=digits --jobs=2   # 10 minutes on two cores

A row each for baseline and cGLO in either type, on equal draws of labelled images. On a CPU bfloat16 is
emulated and slow; it rounds as a GPU's does.
"""

from experiments import runner
from experiments.tables import Row, Table, baselines, by_shots

_BFLOAT16 = {"dtype": "bfloat16"}

TABLE = Table(
    name="precision",
    title="float32 and bfloat16",
    section="ours",
    data="cifar100",
    columns={
        ("cpu", "digits"): by_shots({5: 5}),
        ("cpu", "cifar100"): by_shots({10: 10}),
        ("hour", "cifar100"): by_shots({10: 10}),
    },
    rows=(
        baselines({})[0],
        Row("baseline, bfloat16", "baseline", _BFLOAT16),
        Row("cGLO", "cglo"),
        Row("cGLO, bfloat16", "cglo", _BFLOAT16),
    ),
    seeds=tuple(range(20, 30)),  # none of which another table has run
)

if __name__ == "__main__":
    runner.run(TABLE)
