"""Tables of ours, run as the paper's are by `experiments.tables`: study, confirm, precision."""

from experiments.harness.table import TUNED, Row, Table, baselines, by_shots

_LONGER = {"classify.epochs": 12, "classify.lr_drop_epochs": (8, 10)}
_BFLOAT16 = {"dtype": "bfloat16"}


def _changed(name: str, **changes: object) -> Row:
    """Returns a row of cGLO with the tuned classifier; fields with "__" for "."."""
    fields = {field.replace("__", "."): value for field, value in changes.items()}
    return Row(name, "cglo", fields, tuned=True)


# What cGLO's gain depends on, one change at a time, tested on held-out *training* images. Every row
# but the baselines and controls is cGLO with the tuned classifier and one thing changed; where the
# change is one of the classifier's, there is a baseline with it; the differences are to the one without.
STUDY = Table(
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
        _changed("cGLO"),
        _changed("gamma 0", weak_classifier__gamma=0.0),
        _changed("gamma 0.1", weak_classifier__gamma=0.1),
        _changed("gamma 0.5", weak_classifier__gamma=0.5),
        _changed("code rate / 5", train__code_lr=2e-3),
        _changed("no noise", latent__noise="none"),
        _changed("noise 0.5", latent__noise_std=0.5),
        _changed("half the cGLO steps", train__epochs=6, train__lr_drop_epochs=(3, 5)),
        _changed(
            "twice the cGLO steps", train__epochs=24, train__lr_drop_epochs=(12, 18)
        ),
        _changed("replace 0.25", classify__replace_probability=0.25),
        _changed("replace 0.75", classify__replace_probability=0.75),
        _changed("t 0.1 only", sample__t_values=(0.1,)),
        _changed("t 0.5 only", sample__t_values=(0.5,)),
        _changed("t 0: reconstructions", sample__t_values=(0.0,)),
        _changed("synthetic images not augmented", classify__augment_synthetic=False),
        Row("Baseline, twice the steps", "baseline", _LONGER, tuned=True),
        Row("cGLO, twice the classifier's steps", "cglo", _LONGER, tuned=True),
    ),
)

# What the tables suggest, on draws of labelled images that suggested nothing. Table 4 at --scale=cpu
# suggests that cGLO gains most where the final classifier is trained with the cosine loss. Best of
# some twenty rows on the seeds that one looked at is no result, so here the same is run with other
# seeds, which draw other labelled images. The control mixes pixels with that loss too.
CONFIRM = Table(
    name="confirm",
    title="cGLO and the cosine loss on fresh draws",
    section="ours",
    data="cifar100",
    columns={
        ("cpu", "cifar100"): by_shots({10: 10}),
        ("cpu", "digits"): by_shots({5: 5}),
    },
    rows=(
        baselines({})[0],
        Row("cosine loss", "cosine"),
        Row("cGLO", "cglo"),
        Row("cGLO, cosine loss", "cglo_cosine"),
        Row("Pixel mix, cosine loss", "pixelmix_cosine"),
        Row("mixup", "mixup"),
    ),
    seeds=(10, 11, 12, 13, 14, 15),
)

# Whether computing networks in bfloat16, all else in float32, costs accuracy: a row each for baseline
# and cGLO in either type, on equal draws of labelled images. On a CPU bfloat16 is emulated and slow
# (10 minutes on two cores for digits); it rounds as a GPU's does.
PRECISION = Table(
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

TABLES = (STUDY, CONFIRM, PRECISION)
