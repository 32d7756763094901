"""Table 4: other designs of cGLO; see `experiments.runner`.

python -m experiments.table4 --scale=cpu --data=digits
"""

from experiments import runner
from experiments.tables import Row, Table, baselines, by_shots

_PRINTED = by_shots({25: 25})

TABLE = Table(
    name="table4",
    title="Table 4: design choices of cGLO, CIFAR-100, 25 images per class",
    section="section 5.2",
    data="cifar100",
    columns={
        ("cpu", "digits"): by_shots({5: 25}),
        ("cpu", "cifar100"): by_shots({10: 25}),
        ("hour", "cifar100"): _PRINTED,
        ("paper", "cifar100"): _PRINTED,
    },
    metrics=("top1", "top5"),
    rows=(
        Row("cGLO", "cglo", paper={"25": "43.84 ± 0.25 / 67.77 ± 0.18"}),
        *baselines({"25": "38.39 ± 0.18 / 67.77 ± 0.18"}),
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
        Row(
            "cosine loss of f_phi",
            "cglo",
            {"weak_classifier.loss": "cosine"},
            paper={"25": "41.01 ± 0.27 / 68.45 ± 0.31"},
        ),
        Row("cosine loss, final classifier", "cglo_cosine"),
        Row("cGLO, tuned classifier", "cglo", tuned=True),
    ),
    note=(
        "cGLO and baseline are the paper's Table 3, for reference; their equal top-5 is "
        "evidently a misprint there. The paper does not say how strong the additive noise is: "
        'the .05 is our choice. Nor does it say whether its "Cosine Loss" (section 5.2) is that of '
        "f_phi or of the final classifier: its numbers stand beside f_phi's, and the other is a row "
        "of ours."
    ),
)

if __name__ == "__main__":
    runner.run(TABLE)
