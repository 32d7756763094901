"""Every field of a run once: default, meaning, what it may be, source and what it determines.

Defaults, validation, fingerprints, `--stage=help` and docs/reference.md are made of these rows. A
file in `configs/` calls `config.get_config()` and changes what differs.

Sources: "P 4.3" is section 4.3 of the paper, "A" the authors' released code, "M" a measurement of
ours (named in the run card of the config that uses it).
"""

import enum
from typing import Any, NamedTuple

from cglo_jax.config.checks import (
    BACKGROUND,
    BELOW_1,
    BITS,
    DEPTH,
    EPOCH_LIST,
    EXPORT_LIST,
    FIVE_WEIGHTS,
    INSIDE_0_1,
    METHOD_LIST,
    NOT_NEGATIVE,
    POSITIVE,
    SEED_LIST,
    SHARE_LIST,
    WANDB_PROJECT,
    WEIGHTS,
    Check,
    at_least,
    between,
    one_of,
)

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list",
}


class Affects(enum.Enum):
    """Which trained results a field determines: they cannot go on with another value of it."""

    CGLO = "a cGLO checkpoint, and the classifiers trained with it"
    CLASSIFIER = "a classifier"
    BY_CONTENT = "none by itself: what it names or selects is compared by ids or sha256"
    NOTHING = "none"


CGLO, CLASSIFIER, BY_CONTENT, NOTHING = Affects


class Section(NamedTuple):
    """The heading of fields whose names begin with the same word.

    Attributes:
      name: such as "latent"; "" of the fields without a dot.
      title: a sentence.
      affects: of its fields, unless they have their own.
    """

    name: str
    title: str
    affects: Affects


class Field(NamedTuple):
    """A field of the configuration.

    Attributes:
      name: dotted, such as "latent.dim".
      default: bool, int, float, str or a tuple of one of these; its type is the field's.
      meaning: understood without the fields beside it.
      check: what it may be beside its type; fields that depend on each other are in `validation`.
      source: of the default or the idea.
      affects: None: as its section.
    """

    name: str
    default: Any
    meaning: str
    check: Check | None = None
    source: str = ""
    affects: Affects | None = None

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """The last part of its name, such as "dim"."""
        return self.name.rpartition(".")[2]

    @property
    def kind(self) -> str:
        """The words for its type, such as "a whole number"."""
        return _KINDS[type(self.default)]

    @property
    def description(self) -> str:
        """Meaning and source, such as "dimension of the codes z [P 4.3]"."""
        return f"{self.meaning} [{self.source}]" if self.source else self.meaning


ROWS: tuple[Section | Field, ...] = (
    Section("", "The run as a whole.", NOTHING),
    Field(
        "seeds",
        (0, 1, 2),
        "a whole run (cGLO and classifiers) for each of them; the paper has 3",
        SEED_LIST,
        source="P 4.3",
    ),
    Field(
        "devices",
        0,
        "how many devices of one process compute; 0 = all, as several processes use",
        NOT_NEGATIVE,
    ),
    Field(
        "steps_per_call",
        0,
        "training steps that one call from Python takes, 0 = 1 on a CPU (more are "
        "slow there), 10 elsewhere; another number may round otherwise, and so "
        "may other periods of logs and checkpoints with it",
        NOT_NEGATIVE,
    ),
    Field("check_memory", True, "refuse to train what needs more memory than is free"),
    Field(
        "rollbacks",
        0,
        "how often to go back to the newest checkpoint, with all learning rates "
        "multiplied by rollback_factor, when a loss or the state is infinite or "
        "NaN; 0: the run ends then",
        NOT_NEGATIVE,
    ),
    Field(
        "rollback_factor",
        0.5,
        "what the learning rates are multiplied by at each of `rollbacks`",
        INSIDE_0_1,
    ),
    Field(
        "dtype",
        "float32",
        "what networks compute in, float32 or bfloat16; parameters stay float32",
        one_of("float32", "bfloat16"),
        affects=CGLO,
    ),
    Field(
        "external_weights",
        True,
        "allow weights that were trained on other images; False: refuse all, and "
        "the report says so",
    ),
    Section("dataset", "Which images, and what is cut out of them.", CGLO),
    Field(
        "dataset.name",
        "digits",
        '"digits" (embedded), "folder" or a TFDS image classification data set, '
        'such as "cifar100"',
    ),
    Field(
        "dataset.path",
        "",
        'of "folder": the directory with one sub-folder of images per class, in '
        "train/ and test/ or without them; wrapped in itself or beside folders "
        "that are no class, it is understood, too",
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.strict",
        False,
        'of "folder": refuse to start if any file cannot be used, be it damaged '
        "or a copy",
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.background",
        "auto",
        'of "folder": what transparent images are put on: "white", "black", '
        '"grey", "#rrggbb" or "auto": white, unless a class would vanish on it '
        "(set it before images are added later)",
        BACKGROUND,
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.bits",
        0,
        'of "folder": bits that values of 16-bit images use, 8 to 16; 0 = 8, 10, '
        "12, 14 or 16, the least that holds the largest value of all images (set "
        "it before images are added later)",
        BITS,
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.data_dir",
        "",
        'where TFDS data sets are prepared; "" = $TFDS_DATA_DIR or '
        "~/tensorflow_datasets",
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.size",
        0,
        "pixels the short side is brought to; 0 = as stored (must be square). "
        "This, or `crop` if set, must be 4 or 7 doubled some times: 8, 14, 16, "
        "28, 32, 56, 64, 112, 128, 224, 256, ...",
        NOT_NEGATIVE,
    ),
    Field(
        "dataset.crop",
        0,
        "side of the square that networks see: the middle of an image for G and "
        "for tests, a random part of it for the classifier; 0 = the middle `size` "
        "of it for all three",
        NOT_NEGATIVE,
    ),
    Field(
        "dataset.shots",
        5,
        "labelled training images per class; 0 = all there are",
        NOT_NEGATIVE,
    ),
    Field(
        "dataset.split_seed",
        0,
        "chooses which images are the labelled ones: the same for every seed of "
        "`seeds`",
        NOT_NEGATIVE,
    ),
    Field(
        "dataset.classes",
        0,
        "use so many classes only, evenly spread over their list; 0 = all",
        NOT_NEGATIVE,
    ),
    Field(
        "dataset.split_file",
        "",
        'of CUB-200: file of lines "image_id is_train"; the labelled images are '
        "among those with 1",
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.test_fraction",
        0.25,
        'of "folder" without test/: share of each class that is tested on',
        BELOW_1,
    ),
    Field(
        "dataset.class_weights",
        False,
        "weight cross-entropies by 1 / (labelled images of the class), on average by 1",
    ),
    Field(
        "dataset.unlabelled",
        0,
        "number of further training images, whose labels are hidden",
        NOT_NEGATIVE,
        source="P Alg. 1",
    ),
    Field(
        "dataset.transductive",
        False,
        "also reconstruct the test images, labels never read",
        source="P 3.2",
    ),
    Field(
        "dataset.holdout",
        0,
        "for tuning: test on this many unused *training* images instead; 0 = the "
        "test set",
        NOT_NEGATIVE,
    ),
    Section(
        "latent",
        "The codes z, one for each image, and the noise eps that G gets with them.",
        CGLO,
    ),
    Field(
        "latent.dim", 128, "d, dimension of the codes z", at_least(2), source="P 4.3"
    ),
    Field(
        "latent.noise",
        "concat",
        '"concat": G([z, eps]); "additive": G(z + eps) [P 5.2]; "none" [P 5.1]',
        one_of("concat", "additive", "none"),
    ),
    Field("latent.noise_dim", 100, "dimension of eps, d if it is added", source="A"),
    Field(
        "latent.noise_std", 0.15, "standard deviation of eps", NOT_NEGATIVE, source="A"
    ),
    Field(
        "latent.init",
        "sphere",
        'codes before the first step: "sphere" uniform on it; "hypercube" near '
        'one vertex per class; "resnet" a ResNet-50\'s activations of the image',
        one_of("sphere", "hypercube", "resnet"),
        source="P 5.2",
    ),
    Field(
        "latent.init_noise",
        0.1,
        'of "hypercube": length of the noise beside a vertex of length 1, about',
        NOT_NEGATIVE,
    ),
    Field(
        "latent.init_weights",
        "imagenet",
        'weights of "resnet": "imagenet", a .safetensors file with torchvision\'s '
        'names, or "random"',
        WEIGHTS,
        affects=BY_CONTENT,
    ),
    Section("generator", "G, which paints an image of a code.", CGLO),
    Field(
        "generator.width",
        64,
        "channels at full resolution, doubled per halving of the side",
        POSITIVE,
    ),
    Field("generator.max_width", 512, "most channels at any resolution", POSITIVE),
    Section(
        "weak_classifier",
        "The small classifier that is trained with G and keeps the codes' classes "
        "apart.",
        CGLO,
    ),
    Field(
        "weak_classifier.input",
        "image",
        'what it sees: "image", G(z); "latent", z itself, by three dense layers',
        one_of("image", "latent"),
        source="P 5.2",
    ),
    Field(
        "weak_classifier.loss",
        "cross_entropy",
        '"cross_entropy"; "cosine" [P 5.2]; "double_softmax": cross-entropy of a '
        "softmax [A]",
        one_of("cross_entropy", "cosine", "double_softmax"),
    ),
    Field(
        "weak_classifier.width",
        64,
        "channels of each of its four blocks",
        POSITIVE,
        source="A",
    ),
    Field(
        "weak_classifier.gamma",
        0.02,
        "weight of its cross-entropy in the loss, 0 = none",
        NOT_NEGATIVE,
        source=(
            "M: at the authors' .5, whose doubled softmax makes it some K times "
            "weaker, images of CIFAR-100 are hardly reconstructed"
        ),
    ),
    Section(
        "reconstruction",
        "What is minimised between an image and what G paints of its code.",
        CGLO,
    ),
    Field(
        "reconstruction.loss",
        "perceptual",
        '"perceptual" (eq. 1) or "laplacian" (GLO\'s)',
        one_of("perceptual", "laplacian"),
    ),
    Field(
        "reconstruction.layer_weights",
        (1.0, 1.0, 1.0, 1.0, 1.0),
        "lambda_j of the VGG-16's conv1_2 .. conv5_2",
        FIVE_WEIGHTS,
    ),
    Field(
        "reconstruction.pixel_weight",
        1.0,
        "weight of the mean absolute pixel difference",
        NOT_NEGATIVE,
        source="A",
    ),
    Field(
        "reconstruction.weights",
        "imagenet",
        'weights of the VGG-16: "imagenet" (downloaded once), a .safetensors file '
        'with torchvision\'s names, or "random"',
        WEIGHTS,
        affects=BY_CONTENT,
    ),
    Field(
        "reconstruction.normalize", True, "ImageNet's normalisation before the VGG-16"
    ),
    Field(
        "reconstruction.cache_gb",
        2.0,
        "most memory, GB, of every device for the VGG-16's features of all "
        "training images, which are then computed once (and pass through the "
        "host's memory), not at every step; 0: none; unused with train.only_codes",
        NOT_NEGATIVE,
        affects=NOTHING,
    ),
    Section("train", "The training of cGLO: G, codes and weak classifier.", CGLO),
    Field(
        "train.epochs",
        200,
        "number of epochs, of steps_per_epoch steps each",
        POSITIVE,
        source="P 4.3",
    ),
    Field(
        "train.steps_per_epoch",
        390,
        "steps on labelled images: CIFAR-100's 50000 / 128, whatever the shots",
        POSITIVE,
        source="P 4.3",
    ),
    Field(
        "train.batch_size",
        128,
        "images per step over all devices; at most the images there are",
        POSITIVE,
        source="P 4.3",
    ),
    Field(
        "train.generator_lr", 7e-4, "Adam's learning rate of G", POSITIVE, source="A"
    ),
    Field(
        "train.code_lr",
        1e-3,
        "Adam's learning rate of the codes, of which each has an optimiser state "
        "of its own",
        POSITIVE,
        source="A",
    ),
    Field("train.adam_b1", 0.5, "Adam's b1, of G and codes", BELOW_1, source="A"),
    Field("train.adam_b2", 0.999, "Adam's b2, of G and codes", BELOW_1, source="A"),
    Field(
        "train.lr_drop_epochs",
        (70, 140),
        "epochs after which the learning rates of G and codes fall",
        EPOCH_LIST,
        source="A",
    ),
    Field(
        "train.lr_drop",
        0.5,
        "what they are multiplied by at each of lr_drop_epochs",
        POSITIVE,
        source="A",
    ),
    Field(
        "train.weak_lr",
        0.1,
        "SGD's learning rate of the weak classifier",
        POSITIVE,
        source="A",
    ),
    Field(
        "train.weak_momentum",
        0.9,
        "SGD's momentum of the weak classifier",
        BELOW_1,
        source="A",
    ),
    Field(
        "train.weak_weight_decay",
        1e-4,
        "weight decay of the weak classifier's parameters",
        NOT_NEGATIVE,
        source="A",
    ),
    Field(
        "train.checkpoint_every_epochs",
        10,
        "epochs from one checkpoint to the next; the last epoch has one, too",
        POSITIVE,
        affects=NOTHING,
    ),
    Field(
        "train.log_every_steps",
        100,
        "steps between lines of metrics.jsonl",
        POSITIVE,
        affects=NOTHING,
    ),
    Field(
        "train.only_codes",
        False,
        "learn codes for images added to a folder since, G stays as it is",
        affects=NOTHING,
    ),
    Section(
        "sample",
        "New images; how they are made counts for the methods that train on them, too.",
        NOTHING,
    ),
    Field(
        "sample.interpolation",
        "slerp",
        'way from one code to another: "slerp" (eq. 3) or "lerp"',
        one_of("slerp", "lerp"),
        affects=CLASSIFIER,
    ),
    Field(
        "sample.t_values",
        (0.1, 0.2, 0.3, 0.4),
        "how far along it a new image lies: t is drawn from these, per image",
        SHARE_LIST,
        source="P 4.2",
        affects=CLASSIFIER,
    ),
    Field(
        "sample.batch_statistics",
        "running",
        'statistics that G\'s batch norm uses: "running" or "batch"',
        one_of("running", "batch"),
        source="A",
        affects=CLASSIFIER,
    ),
    Field(
        "sample.per_class",
        16,
        "images of each class that --stage=sample writes",
        POSITIVE,
    ),
    Field("sample.seed", 0, "chooses which images --stage=sample writes", NOT_NEGATIVE),
    Field(
        "sample.export",
        (),
        'any of "npz" and "tfds": the images also as samples/samples.npz, as a '
        "TFDS data set",
        EXPORT_LIST,
    ),
    Field(
        "sample.projection",
        "tsne",
        'how the map of the codes is made (Fig. 2): "tsne" (up to 5000 codes) or "pca"',
        one_of("tsne", "pca"),
    ),
    Section(
        "classify", "The final classifiers, with and without cGLO's images.", CLASSIFIER
    ),
    Field(
        "classify.methods",
        ("baseline", "cglo"),
        "any of baseline, cglo, pixelmix, cutout, random_erasing, autoaugment, "
        "autoaugment_cglo, mixup, mixmatch, pixelmix_cosine, cosine, cosine_ce, "
        "cglo_cosine; each is trained for the same steps",
        METHOD_LIST,
        affects=NOTHING,
    ),
    Field(
        "classify.replace_probability",
        0.5,
        "probability that a training image is replaced by a new one",
        between(0, 1),
        source="P 4.2",
    ),
    Field(
        "classify.augment_probability",
        0.5,
        "probability that Cutout, Random Erasing or AutoAugment changes an image",
        between(0, 1),
        source="P 4.2",
    ),
    Field(
        "classify.draw_per",
        "example",
        'whether replacement, and t, are drawn for each "example" [P 4.2] or once '
        'for a "batch" [A]',
        one_of("example", "batch"),
    ),
    Field(
        "classify.cutout_size",
        8,
        "pixels: side of the square that Cutout greys; 8 at 32 px, 112 at 224 px",
        POSITIVE,
    ),
    Field(
        "classify.mixup_alpha",
        1.0,
        "of mixup: both parameters of the Beta distribution that shares are drawn from",
        POSITIVE,
    ),
    Field(
        "classify.network",
        "wide_resnet",
        '"wide_resnet" or "resnet50"',
        one_of("wide_resnet", "resnet50"),
        source="P 4.2",
    ),
    Field(
        "classify.weights",
        "random",
        'weights that resnet50 starts from: "random", "imagenet" (downloaded '
        "once), or a .safetensors file with torchvision's names",
        WEIGHTS,
        affects=BY_CONTENT,
    ),
    Field(
        "classify.depth",
        28,
        "layers of a wide_resnet: 10, 16, 22, 28, ...",
        DEPTH,
        source="P 4.2",
    ),
    Field(
        "classify.width",
        10,
        "factor by which a wide_resnet is wider than a ResNet",
        POSITIVE,
    ),
    Field("classify.dropout", 0.3, "probability of dropout in a wide_resnet", BELOW_1),
    Field(
        "classify.epochs",
        200,
        "number of epochs, of steps_per_epoch steps each",
        POSITIVE,
        source="A",
    ),
    Field(
        "classify.steps_per_epoch",
        390,
        "steps: CIFAR-100's 50000 / 128, whatever the shots",
        POSITIVE,
        source="P 4.3",
    ),
    Field(
        "classify.batch_size",
        128,
        "images per step over all devices; at most the images there are",
        POSITIVE,
        source="P 4.3",
    ),
    Field(
        "classify.lr",
        0.1,
        "learning rate of SGD with Nesterov momentum",
        POSITIVE,
        source="P 4.3",
    ),
    Field("classify.momentum", 0.9, "Nesterov momentum", BELOW_1, source="A"),
    Field(
        "classify.weight_decay",
        5e-4,
        "weight decay of every parameter, as the authors' optimiser does",
        NOT_NEGATIVE,
        source="A",
    ),
    Field(
        "classify.lr_drop_epochs",
        (60, 120, 160),
        "epochs after which lr falls",
        EPOCH_LIST,
        source="A",
    ),
    Field(
        "classify.lr_drop",
        0.2,
        "what lr is multiplied by at each of lr_drop_epochs",
        POSITIVE,
        source="A",
    ),
    Field(
        "classify.pad",
        4,
        "pixels of padding before the random crop, 0 = no crop",
        NOT_NEGATIVE,
    ),
    Field(
        "classify.pad_value",
        0.0,
        "value of that padding, in [-1, 1]: 0 = mid-grey",
        between(-1, 1),
    ),
    Field("classify.flip", True, "random horizontal flip"),
    Field(
        "classify.augment_synthetic",
        True,
        "crop and flip synthetic images like real ones",
    ),
    Field(
        "classify.checkpoint_every_epochs",
        50,
        "epochs from one checkpoint to the next; the last epoch has one, too",
        POSITIVE,
        affects=NOTHING,
    ),
    Field(
        "classify.log_every_steps",
        100,
        "steps between lines of metrics.jsonl",
        POSITIVE,
        affects=NOTHING,
    ),
    Section(
        "mixmatch",
        "Of the method mixmatch; names and values are Berthelot et al.'s (2019).",
        CLASSIFIER,
    ),
    Field("mixmatch.augmentations", 2, "K, whose predictions are averaged", POSITIVE),
    Field("mixmatch.temperature", 0.5, "T of sharpening", POSITIVE),
    Field(
        "mixmatch.alpha",
        0.75,
        "both parameters of the Beta distribution that shares are drawn from",
        POSITIVE,
    ),
    Field(
        "mixmatch.lambda_u",
        75.0,
        "weight of the unlabelled loss after its ramp",
        NOT_NEGATIVE,
    ),
    Field(
        "mixmatch.ramp",
        1 / 64,
        "share of all steps in which lambda_u grows from 0: 2**14 of 2**20 there",
        between(0, 1),
    ),
    Field(
        "mixmatch.ema",
        0.999,
        "decay of the averaged parameters, which are tested",
        BELOW_1,
    ),
    Section("report", "The tables, the figures and the verdict.", NOTHING),
    Field(
        "report.confidence",
        0.95,
        "confidence of the t-interval of the paired difference over seeds",
        INSIDE_0_1,
    ),
    Field(
        "report.compare",
        "",
        "work directories of runs, with commas between them, that --stage=report "
        'sets side by side in place of reporting one; "" = none',
    ),
    Section(
        "log", "Where metrics and pictures go besides the work directory.", NOTHING
    ),
    Field(
        "log.wandb",
        "",
        'project of Weights & Biases that scalars and pictures go to as well; "" '
        "= none; needs the extra wandb",
        WANDB_PROJECT,
    ),
)
FIELDS = {row.name: row for row in ROWS if isinstance(row, Field)}
SECTIONS = {row.name: row for row in ROWS if isinstance(row, Section)}


def affects(name: str) -> Affects:
    """Returns what a field determines, by its dotted name."""
    field = FIELDS[name]
    return field.affects or SECTIONS[field.section].affects
