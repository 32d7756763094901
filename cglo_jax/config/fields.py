"""Every field of a run once: default, meaning, allowed values, source and what it determines.

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
    COLOUR,
    DEPTH,
    EPOCH_LIST,
    EXPORT_LIST,
    INSIDE_0_1,
    LAYER_LIST,
    LAYER_WEIGHTS,
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
    """Which trained results a field determines: they cannot continue with another value of it."""

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
      affects: the effect of its fields, unless they have their own.
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
      check: restricts the values of its type; fields that depend on each other are in `validation`.
      source: where the default or the idea comes from.
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
        "random seeds; each is a whole run (cGLO and classifiers), and the paper has "
        "3 of them",
        SEED_LIST,
        source="P 4.3",
    ),
    Field(
        "devices",
        0,
        "number of devices to compute on; 0 = all, which several processes require",
        NOT_NEGATIVE,
    ),
    Field(
        "steps_per_call",
        0,
        "training steps per call from Python to the device; 0 = automatic: 1 on a CPU, "
        "where more are slow, and 10 elsewhere; changing it, or changing logging and "
        "checkpoint intervals while it is above 1, may change results by rounding",
        NOT_NEGATIVE,
    ),
    Field(
        "check_memory",
        True,
        "refuse to start a training that needs more memory than is free",
    ),
    Field(
        "rollbacks",
        0,
        "how often training may go back to the newest checkpoint, with smaller "
        "learning rates (rollback_factor), after a loss or the state became infinite "
        "or NaN; 0 = the run ends then",
        NOT_NEGATIVE,
    ),
    Field(
        "rollback_factor",
        0.5,
        "factor for all learning rates at each rollback (rollbacks)",
        INSIDE_0_1,
    ),
    Field(
        "dtype",
        "float32",
        "number format in which networks compute: float32 or bfloat16; parameters "
        "stay float32",
        one_of("float32", "bfloat16"),
        affects=CGLO,
    ),
    Field(
        "external_weights",
        True,
        "allow weights that were trained on other images; False = refuse them all, "
        "and the report states it",
    ),
    Section(
        "dataset", "Which images are used, and how they are resized and cropped.", CGLO
    ),
    Field(
        "dataset.name",
        "digits",
        '"digits" (included), "folder" (your own images) or the name of an image '
        'classification data set of TFDS, such as "cifar100"',
    ),
    Field(
        "dataset.path",
        "",
        'for "folder": the directory of the images, one sub-folder per class, either '
        "directly in it or in its train/ and test/; a directory around it, and "
        "folders beside the classes, are recognised",
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.strict",
        False,
        'for "folder": refuse to start if any file is damaged, a copy of another or '
        "otherwise unusable",
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.background",
        "auto",
        'for "folder": background of transparent images: "white", "black", "grey", '
        '"#rrggbb" or "auto", which is white unless the images of a class would be '
        "invisible on it; set it before more images are added",
        BACKGROUND,
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.bits",
        0,
        'for "folder": bits per value that 16-bit images use, 8 to 16; 0 = the '
        "smallest of 8, 10, 12, 14 and 16 that holds the largest value of all images; "
        "set it before more images are added",
        BITS,
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.data_dir",
        "",
        'directory of prepared TFDS data sets; "" = $TFDS_DATA_DIR or '
        "~/tensorflow_datasets",
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.size",
        0,
        "length in pixels to which the short side of images is resized; 0 = as "
        "stored, which must be square. It, or crop if that is set, must be 4 or 7 "
        "doubled at least once: 8, 14, 16, 28, 32, 56, 64, 112, 128, 224, 256, ...",
        NOT_NEGATIVE,
    ),
    Field(
        "dataset.crop",
        0,
        "side in pixels of the square that networks see: a centre crop for the "
        "generator and for tests, a random crop for training classifiers; 0 = the "
        "centre square of side dataset.size for all of them",
        NOT_NEGATIVE,
    ),
    Field(
        "dataset.shots",
        5,
        "number of labelled training images per class; 0 = all",
        NOT_NEGATIVE,
    ),
    Field(
        "dataset.shortfall",
        0,
        "how many images a class may have fewer than dataset.shots: all images of such "
        "a class are used, as long as another class has dataset.shots; 0 = it is refused",
        NOT_NEGATIVE,
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.split_seed",
        0,
        "random seed that chooses the labelled images, the same ones for every run of "
        "`seeds` unless dataset.split_per_seed",
        NOT_NEGATIVE,
    ),
    Field(
        "dataset.split_per_seed",
        False,
        "choose other labelled (and unlabelled) images for each of `seeds`, by "
        "dataset.split_seed + seed, so that intervals cover their choice, too",
        source="A",
    ),
    Field(
        "dataset.classes",
        0,
        "number of classes to use, evenly spaced in the list of all; 0 = all",
        NOT_NEGATIVE,
    ),
    Field(
        "dataset.split_file",
        "",
        'for CUB-200: a file of lines "image_id is_train"; labelled images are chosen '
        "among those with is_train 1",
        affects=BY_CONTENT,
    ),
    Field(
        "dataset.test_fraction",
        0.25,
        'for "folder" without test/: the share of each class\'s images that is the '
        "test set",
        BELOW_1,
    ),
    Field(
        "dataset.class_weights",
        False,
        "weight each example's cross-entropy by 1 / (labelled images of its class), "
        "scaled to a mean of 1",
    ),
    Field(
        "dataset.unlabelled",
        0,
        "number of additional training images whose labels are hidden",
        NOT_NEGATIVE,
        source="P Alg. 1",
    ),
    Field(
        "dataset.transductive",
        False,
        "train codes for the test images, too; their labels are never read",
        source="P 3.2",
    ),
    Field(
        "dataset.holdout",
        0,
        "for tuning: test on this many unused *training* images instead of the test "
        "set; 0 = the test set",
        NOT_NEGATIVE,
    ),
    Section(
        "latent",
        "The codes z, one per image, and the noise eps that the generator receives "
        "with them.",
        CGLO,
    ),
    Field(
        "latent.dim", 128, "d, dimension of the codes z", at_least(2), source="P 4.3"
    ),
    Field(
        "latent.noise",
        "concat",
        'how noise enters the generator: "concat": G([z, eps]); "additive": G(z + '
        'eps) [P 5.2]; "none": G(z) [P 5.1]',
        one_of("concat", "additive", "none"),
    ),
    Field(
        "latent.noise_dim",
        100,
        "dimension of the noise eps with latent.noise=concat; additive noise has "
        "dimension d",
        source="A",
    ),
    Field(
        "latent.noise_std",
        0.15,
        "standard deviation of the noise eps",
        NOT_NEGATIVE,
        source="A",
    ),
    Field(
        "latent.noise_gain",
        1.414,
        "gain of Xavier's normal initialisation of the dense layer that the noise "
        "passes through with latent.noise=concat: how strong the noise is beside the "
        "code when training starts; PyTorch's default has the variance of 0.577",
        POSITIVE,
        source="A",
    ),
    Field(
        "latent.init",
        "sphere",
        'codes before the first step: "sphere": uniform on the unit sphere; '
        '"hypercube": near a vertex of a hypercube, one per class; "resnet": '
        "activations of a ResNet for the image (latent.init_network)",
        one_of("sphere", "hypercube", "resnet"),
        source="P 5.2",
    ),
    Field(
        "latent.init_noise",
        0.1,
        "for latent.init=hypercube: approximate length of the noise added to a "
        "vertex, whose length is 1",
        NOT_NEGATIVE,
    ),
    Field(
        "latent.init_network",
        "resnet50",
        'for latent.init=resnet: "resnet50" or "resnet18" [A], which has 512 activations',
        one_of("resnet50", "resnet18"),
    ),
    Field(
        "latent.init_size",
        0,
        "for latent.init=resnet: side in pixels to which images are resized for that "
        "network; 0 = they keep theirs, the authors have 224",
        between(0, 1024),
    ),
    Field(
        "latent.init_weights",
        "imagenet",
        'for latent.init=resnet: "imagenet" (of a resnet50 only), a .safetensors file '
        'with torchvision\'s names, or "random"',
        WEIGHTS,
        affects=BY_CONTENT,
    ),
    Section(
        "generator", "The generator G, which generates an image from a code.", CGLO
    ),
    Field(
        "generator.width",
        64,
        "channels of the generator at full resolution; twice as many at each halving "
        "of the side",
        POSITIVE,
    ),
    Field(
        "generator.max_width",
        512,
        "largest number of channels of the generator at any resolution",
        POSITIVE,
    ),
    Field(
        "generator.normalize_codes",
        False,
        "divide codes by their length inside the generator, with additive noise the sum "
        "of code and noise; linear interpolation then lies on the sphere, too [A]",
    ),
    Section(
        "weak_classifier",
        "The small classifier trained together with the generator; it keeps the codes "
        "of different classes apart.",
        CGLO,
    ),
    Field(
        "weak_classifier.input",
        "image",
        'input of the weak classifier: "image": the generated image G(z); "latent": '
        "the code z, through three dense layers",
        one_of("image", "latent"),
        source="P 5.2",
    ),
    Field(
        "weak_classifier.loss",
        "cross_entropy",
        'loss of the weak classifier: "cross_entropy"; "cosine" [P 5.2]; '
        '"double_softmax": cross-entropy of a softmax [A]',
        one_of("cross_entropy", "cosine", "double_softmax"),
    ),
    Field(
        "weak_classifier.width",
        64,
        "channels of each of the weak classifier's four blocks",
        POSITIVE,
        source="A",
    ),
    Field(
        "weak_classifier.dropout",
        0.0,
        "dropout probability before the weak classifier's last layer",
        BELOW_1,
    ),
    Field(
        "weak_classifier.label_smoothing",
        0.0,
        "share of a label that is spread evenly over all classes in the weak "
        "classifier's loss",
        BELOW_1,
    ),
    Field(
        "weak_classifier.scale_gradient",
        True,
        "the weak classifier's own step follows gamma times its loss; False: its loss "
        "alone, so that gamma weighs only what reaches the generator and the codes",
        source="P Alg. 1",
    ),
    Field(
        "weak_classifier.negative_slope",
        0.0,
        "slope of the weak classifier's activation below 0; 0 = ReLU, the authors have "
        "0.1",
        between(0, 1),
    ),
    Field(
        "weak_classifier.gamma",
        0.02,
        "weight of the weak classifier's loss in the whole loss; 0 = no weak "
        "classifier",
        NOT_NEGATIVE,
        source=(
            "M: more accurate than 0, 0.1 and the authors' 0.5 on all classes of CIFAR-100, no "
            "measurable difference on ten; at 0.5 images are reconstructed two to three times worse"
        ),
    ),
    Section(
        "reconstruction",
        "The reconstruction loss between an image and the image generated from its "
        "code.",
        CGLO,
    ),
    Field(
        "reconstruction.loss",
        "perceptual",
        '"perceptual" (eq. 1: distances of VGG-16 features) or "laplacian" (as GLO: '
        "distances of Laplacian pyramids)",
        one_of("perceptual", "laplacian"),
    ),
    Field(
        "reconstruction.layers",
        ("conv1_2", "conv2_2", "conv3_2", "conv4_2", "conv5_2"),
        "layers of the VGG-16 that the perceptual loss compares: conv1_1 to conv5_3 "
        "after their ReLU, conv1_1_pre to conv5_3_pre before it, pool1 to pool5",
        LAYER_LIST,
        source="P eq. 1",
    ),
    Field(
        "reconstruction.layer_weights",
        (1.0, 1.0, 1.0, 1.0, 1.0),
        "weights lambda_j of reconstruction.layers in the perceptual loss, as many as "
        "there are layers; the VGG-16 is computed up to the deepest of weight above 0",
        LAYER_WEIGHTS,
    ),
    Field(
        "reconstruction.unit_activations",
        False,
        "divide each layer of the perceptual loss by its mean activation over 256 "
        "training images, so that a weight means the same for every network",
    ),
    Field(
        "reconstruction.pixel_weight",
        1.0,
        "weight of the mean absolute difference of pixels in the perceptual loss",
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
        "reconstruction.normalize",
        True,
        "normalise images by ImageNet's mean and standard deviation before the VGG-16",
    ),
    Field(
        "reconstruction.cache_gb",
        2.0,
        "memory of each device, in GB, that the VGG-16's features of all training "
        "images may take; if they fit, they are computed once (and pass through the "
        "host's memory) instead of at every step; 0 = never; not used with "
        "train.only_codes",
        NOT_NEGATIVE,
        affects=NOTHING,
    ),
    Section("train", "Training of cGLO: generator, codes and weak classifier.", CGLO),
    Field(
        "train.epochs",
        200,
        "number of epochs of cGLO, of train.steps_per_epoch steps on labelled images "
        "each, and train.unlabelled_steps on unlabelled ones, if there are any",
        POSITIVE,
        source="P 4.3",
    ),
    Field(
        "train.steps_per_epoch",
        390,
        "steps per epoch of cGLO on labelled images: CIFAR-100's 50000 / 128, "
        "whatever the number of labelled images; 0 = one pass over them, as the "
        "authors' code",
        NOT_NEGATIVE,
        source="P 4.3",
    ),
    Field(
        "train.unlabelled_steps",
        0,
        "steps per epoch of cGLO on unlabelled images (dataset.unlabelled and "
        "dataset.transductive): 0 = one pass over them; with train.steps_per_epoch=0, "
        "too, an epoch is one pass over each set, as in Algorithm 1 without "
        "oversampling",
        NOT_NEGATIVE,
        source="P Alg. 1",
    ),
    Field(
        "train.epoch_ends_on",
        "labelled",
        'images of the last steps of an epoch: "labelled", so that batch norm\'s '
        "running averages, which generating new images uses, are those of labelled "
        'images; or "unlabelled", the order in which Algorithm 1 is written [P, A]',
        one_of("labelled", "unlabelled"),
    ),
    Field(
        "train.batch_size",
        128,
        "images per step of cGLO, over all devices; if there are fewer images, their "
        "number",
        POSITIVE,
        source="P 4.3",
    ),
    Field(
        "train.generator_lr",
        7e-4,
        "Adam's learning rate for the generator",
        POSITIVE,
        source="A",
    ),
    Field(
        "train.code_lr",
        1e-3,
        "Adam's learning rate for the codes; each code has its own optimiser state",
        POSITIVE,
        source="A",
    ),
    Field(
        "train.adam_b1",
        0.5,
        "Adam's beta1, for generator and codes",
        BELOW_1,
        source="A",
    ),
    Field(
        "train.adam_b2",
        0.999,
        "Adam's beta2, for generator and codes",
        BELOW_1,
        source="A",
    ),
    Field(
        "train.lr_drop_epochs",
        (70, 140),
        "epochs after which the learning rates of generator and codes are multiplied "
        "by train.lr_drop",
        EPOCH_LIST,
        source="A",
    ),
    Field(
        "train.lr_drop",
        0.5,
        "factor for the learning rates of generator and codes at each of "
        "train.lr_drop_epochs",
        POSITIVE,
        source="A",
    ),
    Field(
        "train.weak_lr",
        0.1,
        "SGD's learning rate for the weak classifier",
        POSITIVE,
        source="A",
    ),
    Field(
        "train.weak_momentum",
        0.9,
        "SGD's momentum for the weak classifier",
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
        "epochs of cGLO between checkpoints; the last epoch always has one",
        POSITIVE,
        affects=NOTHING,
    ),
    Field(
        "train.log_every_steps",
        100,
        "steps of cGLO between lines of metrics.jsonl",
        POSITIVE,
        affects=NOTHING,
    ),
    Field(
        "train.only_codes",
        False,
        "train only the codes of images that were added to a folder later; the "
        "generator stays unchanged",
        affects=NOTHING,
    ),
    Section(
        "sample",
        "Synthetic images: those that --stage=sample writes, and those that methods "
        "such as cglo train on.",
        NOTHING,
    ),
    Field(
        "sample.interpolation",
        "slerp",
        'path between two codes: "slerp" (spherical, eq. 3) or "lerp" (linear)',
        one_of("slerp", "lerp"),
        affects=CLASSIFIER,
    ),
    Field(
        "sample.t_values",
        (0.1, 0.2, 0.3, 0.4),
        "positions t along the path between two codes, from 0 to 1; one is drawn per "
        "synthetic image",
        SHARE_LIST,
        source="P 4.2",
        affects=CLASSIFIER,
    ),
    Field(
        "sample.batch_statistics",
        "running",
        "statistics that the generator's batch norm uses for synthetic images: "
        '"running" (averages of training) or "batch" (of the images generated '
        "together)",
        one_of("running", "batch"),
        source="A",
        affects=CLASSIFIER,
    ),
    Field(
        "sample.per_class",
        16,
        "number of synthetic images per class that --stage=sample writes",
        POSITIVE,
    ),
    Field(
        "sample.seed",
        0,
        "random seed of the synthetic images that --stage=sample writes",
        NOT_NEGATIVE,
    ),
    Field(
        "sample.export",
        (),
        'also write the synthetic images as "npz" (samples/samples.npz), "tfds" (a '
        "TFDS data set) or both",
        EXPORT_LIST,
    ),
    Field(
        "sample.projection",
        "tsne",
        'method of the two-dimensional map of the codes (Fig. 2): "tsne" (of at most '
        '5000 codes) or "pca"',
        one_of("tsne", "pca"),
    ),
    Section(
        "classify",
        "The final classifiers, trained with and without synthetic images.",
        CLASSIFIER,
    ),
    Field(
        "classify.methods",
        ("baseline", "cglo"),
        "any of baseline, cglo, pixelmix, cutout, random_erasing, autoaugment, "
        "autoaugment_cglo, mixup, mixmatch, pixelmix_cosine, cosine, cosine_ce, "
        "cglo_cosine; all train for the same number of steps",
        METHOD_LIST,
        affects=NOTHING,
    ),
    Field(
        "classify.replace_probability",
        0.5,
        "probability that a synthetic image replaces a training image",
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
        'whether replacement and t are drawn for each "example" [P 4.2] or once for a '
        '"batch" [A]',
        one_of("example", "batch"),
    ),
    Field(
        "classify.cutout_size",
        8,
        "side in pixels of the square that Cutout makes grey, such as 8 for images of "
        "32 pixels and 112 for 224",
        POSITIVE,
    ),
    Field(
        "classify.cutout_form",
        "square",
        'what Cutout cuts out: "square": a grey square around any pixel; "authors": '
        "filled with the image's mean, its columns beginning at the number of its "
        "first row by a slip, so that it may be of any width, or nothing [A]",
        one_of("square", "authors"),
    ),
    Field(
        "classify.erasing_probability",
        1.0,
        "probability that Random Erasing erases anything of an image that "
        "classify.augment_probability has it change",
        between(0, 1),
    ),
    Field(
        "classify.erasing_fill",
        (0.0,),
        "colour that Random Erasing fills with, one value in [-1, 1] or one per "
        "channel; 0 = mid-grey",
        COLOUR,
    ),
    Field(
        "classify.mixup_alpha",
        1.0,
        "for the method mixup: both parameters of the Beta distribution of mixing "
        "proportions",
        POSITIVE,
    ),
    Field(
        "classify.network",
        "wide_resnet",
        'network of the final classifiers: "wide_resnet" or "resnet50"',
        one_of("wide_resnet", "resnet50"),
        source="P 4.2",
    ),
    Field(
        "classify.weights",
        "random",
        'initial weights of a resnet50: "random", "imagenet" (downloaded once), or a '
        ".safetensors file with torchvision's names",
        WEIGHTS,
        affects=BY_CONTENT,
    ),
    Field(
        "classify.depth",
        28,
        "number of layers of a wide_resnet: 10, 16, 22, 28, ...",
        DEPTH,
        source="P 4.2",
    ),
    Field(
        "classify.width",
        10,
        "widening factor of a wide_resnet: its channels relative to a ResNet's",
        POSITIVE,
    ),
    Field("classify.dropout", 0.3, "dropout probability in a wide_resnet", BELOW_1),
    Field(
        "classify.epochs",
        200,
        "number of epochs of a classifier, of classify.steps_per_epoch steps each",
        POSITIVE,
        source="A",
    ),
    Field(
        "classify.steps_per_epoch",
        390,
        "steps per epoch of a classifier: CIFAR-100's 50000 / 128, whatever the "
        "number of labelled images",
        POSITIVE,
        source="P 4.3",
    ),
    Field(
        "classify.batch_size",
        128,
        "images per step of a classifier, over all devices; if there are fewer "
        "images, their number",
        POSITIVE,
        source="P 4.3",
    ),
    Field(
        "classify.lr",
        0.1,
        "learning rate of SGD with Nesterov momentum, for classifiers",
        POSITIVE,
        source="P 4.3",
    ),
    Field(
        "classify.momentum",
        0.9,
        "Nesterov momentum of SGD, for classifiers",
        BELOW_1,
        source="A",
    ),
    Field(
        "classify.weight_decay",
        5e-4,
        "weight decay of all parameters of a classifier, as in the authors' optimiser",
        NOT_NEGATIVE,
        source="A",
    ),
    Field(
        "classify.lr_drop_epochs",
        (60, 120, 160),
        "epochs after which a classifier's learning rate is multiplied by "
        "classify.lr_drop",
        EPOCH_LIST,
        source="A",
    ),
    Field(
        "classify.lr_drop",
        0.2,
        "factor for a classifier's learning rate at each of classify.lr_drop_epochs",
        POSITIVE,
        source="A",
    ),
    Field(
        "classify.pad",
        4,
        "pixels of padding on each side before a classifier's random crop; 0 = no "
        "random crop",
        NOT_NEGATIVE,
    ),
    Field(
        "classify.pad_value",
        0.0,
        "value of the padding of classify.pad, in [-1, 1]; 0 = mid-grey",
        between(-1, 1),
    ),
    Field(
        "classify.flip",
        True,
        "flip training images of classifiers horizontally at random",
    ),
    Field(
        "classify.augment_synthetic",
        True,
        "change synthetic images as real ones are: crop, flip, and in "
        "autoaugment_cglo AutoAugment",
    ),
    Field(
        "classify.checkpoint_every_epochs",
        50,
        "epochs of a classifier between checkpoints; the last epoch always has one",
        POSITIVE,
        affects=NOTHING,
    ),
    Field(
        "classify.log_every_steps",
        100,
        "steps of a classifier between lines of metrics.jsonl",
        POSITIVE,
        affects=NOTHING,
    ),
    Section(
        "mixmatch",
        "The method mixmatch; names and values are those of Berthelot et al. (2019).",
        CLASSIFIER,
    ),
    Field(
        "mixmatch.augmentations",
        2,
        "K, number of augmented copies of an unlabelled image whose predictions are "
        "averaged",
        POSITIVE,
    ),
    Field(
        "mixmatch.temperature",
        0.5,
        "temperature T that sharpens the averaged predictions",
        POSITIVE,
    ),
    Field(
        "mixmatch.alpha",
        0.75,
        "both parameters of the Beta distribution of MixMatch's mixing proportions",
        POSITIVE,
    ),
    Field(
        "mixmatch.lambda_u",
        75.0,
        "weight of the loss on unlabelled images, after its ramp (mixmatch.ramp)",
        NOT_NEGATIVE,
    ),
    Field(
        "mixmatch.ramp",
        1 / 64,
        "share of all steps over which the weight of the loss on unlabelled images "
        "grows from 0; Berthelot et al. have 2^14 of 2^20 steps",
        between(0, 1),
    ),
    Field(
        "mixmatch.ema",
        0.999,
        "decay of the moving average of MixMatch's parameters; the averaged "
        "parameters are tested",
        BELOW_1,
    ),
    Section("report", "Tables, figures and the verdict.", NOTHING),
    Field(
        "report.confidence",
        0.95,
        "confidence level of the t-interval of the difference between methods, paired "
        "over seeds",
        INSIDE_0_1,
    ),
    Field(
        "report.compare",
        "",
        "for --stage=report: work directories of runs, separated by commas, to "
        'compare side by side instead of reporting one; "" = none',
    ),
    Section(
        "log",
        "Where metrics and pictures are sent besides the work directory.",
        NOTHING,
    ),
    Field(
        "log.wandb",
        "",
        'Weights & Biases project to which metrics and pictures are sent, too; "" = '
        "none; needs the extra wandb",
        WANDB_PROJECT,
    ),
)
FIELDS = {row.name: row for row in ROWS if isinstance(row, Field)}
SECTIONS = {row.name: row for row in ROWS if isinstance(row, Section)}


def affects(name: str) -> Affects:
    """Returns what a field determines, by its dotted name."""
    field = FIELDS[name]
    return field.affects or SECTIONS[field.section].affects
