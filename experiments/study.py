"""What cGLO's gain depends on, one change at a time; nothing is tested on test images.

    python -m experiments.study --data=cifar100 --data_dir=DIR

A table of ours, run like the paper's (see `experiments.runner`), but tested on held-out *training*
images. Every row but the baselines and controls is cGLO with the tuned classifier and one thing changed; where the
change is one of the classifier's, there is a baseline with it; the differences are to the one without.
"""

from experiments import runner
from experiments.tables import TUNED, Row, Table, by_shots

_LONGER = {"classify.epochs": 12, "classify.lr_drop_epochs": (8, 10)}


def _row(name: str, **changes: object) -> Row:
    """A row of cGLO; fields with "__" for "."."""
    fields = {field.replace("__", "."): value for field, value in changes.items()}
    return Row(name, "cglo", fields, tuned=True)


TABLE = Table(
    name="study",
    title="What the gain of cGLO depends on, held-out training images",
    section="ours",
    data="cifar100",
    columns={
        ("cpu", "cifar100"): by_shots({10: 10}, dataset__holdout=1000),
    },
    rows=(
        Row(TUNED, "baseline", tuned=True),
        Row("Pixel mix", "pixelmix", tuned=True),
        Row(
            "MixMatch, ramp of 1/64", "mixmatch", {"mixmatch.ramp": 1 / 64}, tuned=True
        ),
        Row("MixMatch, ramp over the run", "mixmatch", tuned=True),
        _row("cGLO"),
        _row("gamma 0", weak_classifier__gamma=0.0),
        _row("gamma 0.1", weak_classifier__gamma=0.1),
        _row("gamma 0.5", weak_classifier__gamma=0.5),
        _row("code rate / 5", train__code_lr=2e-3),
        _row("no noise", latent__noise="none"),
        _row("noise 0.5", latent__noise_std=0.5),
        _row("half the cGLO steps", train__epochs=6, train__lr_drop_epochs=(3, 5)),
        _row("twice the cGLO steps", train__epochs=24, train__lr_drop_epochs=(12, 18)),
        _row("replace 0.25", classify__replace_probability=0.25),
        _row("replace 0.75", classify__replace_probability=0.75),
        _row("t 0.1 only", sample__t_values=(0.1,)),
        _row("t 0.5 only", sample__t_values=(0.5,)),
        _row("t 0: reconstructions", sample__t_values=(0.0,)),
        _row("synthetic images not augmented", classify__augment_synthetic=False),
        Row("Baseline, twice the steps", "baseline", _LONGER, tuned=True),
        Row("cGLO, twice the classifier's steps", "cglo", _LONGER, tuned=True),
    ),
)

if __name__ == "__main__":
    runner.run(TABLE)
