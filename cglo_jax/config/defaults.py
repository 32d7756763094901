"""Every field of a run with its default, unit and source: the only place for defaults.

A file in `configs/` calls `get_config()` and changes what differs. Sources in brackets: [P 4.3]
is section 4.3 of the paper, [A] the authors' released code, [M] a measurement of ours (which is
named in the run card of the config that uses it). `--stage=help` prints the comments, each for
itself: one says what its field is without those around it.
"""

from typing import Any

from ml_collections import ConfigDict

EXPORTS = ("npz", "tfds")
# Sides in pixels that the generator can make: 4 or 7, doubled at least once.
SIDES = tuple(sorted(start << k for start in (4, 7) for k in range(1, 12)))


def get_config() -> ConfigDict:
    """Returns the defaults: the paper's CIFAR-100 protocol on whatever data set is named."""
    # The run as a whole.
    config = ConfigDict()
    # a whole run (cGLO and classifiers) for each of them; the paper has 3 [P 4.3]
    config.seeds = (0, 1, 2)
    # how many devices of one process compute; 0 = all, as several processes use
    config.devices = 0
    # training steps that one call from Python takes, 0 = 1 on a CPU (more are slow there), 10
    # elsewhere; another number may round otherwise, and so may other periods of logs and
    # checkpoints with it
    config.steps_per_call = 0
    # refuse to train what needs more memory than is free
    config.check_memory = True
    # how often to go back to the newest checkpoint, with all learning rates multiplied by
    # rollback_factor, when a loss or the state is infinite or NaN; 0: the run ends then
    config.rollbacks = 0
    # what the learning rates are multiplied by at each of `rollbacks`
    config.rollback_factor = 0.5
    # what networks compute in, float32 or bfloat16; parameters stay float32
    config.dtype = "float32"
    # allow weights that were trained on other images; False: refuse all, and the report says so
    config.external_weights = True

    # Which images, and what is cut out of them.
    config.dataset = ConfigDict()
    # "digits" (embedded), "folder" or a TFDS image classification data set, such as "cifar100"
    config.dataset.name = "digits"
    # of "folder": the directory with one sub-folder of images per class, in train/ and test/ or
    # without them; wrapped in itself or beside folders that are no class, it is understood, too
    config.dataset.path = ""
    # of "folder": refuse to start if any file cannot be used, be it damaged or a copy
    config.dataset.strict = False
    # of "folder": what transparent images are put on: "white", "black", "grey", "#rrggbb" or
    # "auto": white, unless a class would vanish on it (set it before images are added later)
    config.dataset.background = "auto"
    # of "folder": bits that values of 16-bit images use, 8 to 16; 0 = 8, 10, 12, 14 or 16, the
    # least that holds the largest value of all images (set it before images are added later)
    config.dataset.bits = 0
    # where TFDS data sets are prepared; "" = $TFDS_DATA_DIR or ~/tensorflow_datasets
    config.dataset.data_dir = ""
    # pixels the short side is brought to; 0 = as stored (must be square). This, or `crop` if
    # set, must be 4 or 7 doubled some times: 8, 14, 16, 28, 32, 56, 64, 112, 128, 224, 256, ...
    config.dataset.size = 0
    # side of the square that networks see: the middle of an image for G and for tests, a
    # random part of it for the classifier; 0 = the middle `size` of it for all three
    config.dataset.crop = 0
    # labelled training images per class; 0 = all there are
    config.dataset.shots = 5
    # chooses which images are the labelled ones: the same for every seed of `seeds`
    config.dataset.split_seed = 0
    # use so many classes only, evenly spread over their list; 0 = all
    config.dataset.classes = 0
    # of CUB-200: file of lines "image_id is_train"; the labelled images are among those with 1
    config.dataset.split_file = ""
    # of "folder" without test/: share of each class that is tested on
    config.dataset.test_fraction = 0.25
    # weight cross-entropies by 1 / (labelled images of the class), on average by 1
    config.dataset.class_weights = False
    # number of further training images, whose labels are hidden [P Alg. 1]
    config.dataset.unlabelled = 0
    # also reconstruct the test images, labels never read [P 3.2]
    config.dataset.transductive = False
    # for tuning: test on this many unused *training* images instead; 0 = the test set
    config.dataset.holdout = 0

    # The codes z, one for each image, and the noise eps that G gets with them.
    config.latent = ConfigDict()
    config.latent.dim = 128  # d, dimension of the codes z [P 4.3]
    # "concat": G([z, eps]); "additive": G(z + eps) [P 5.2]; "none" [P 5.1]
    config.latent.noise = "concat"
    config.latent.noise_dim = 100  # dimension of eps, d if it is added [A]
    config.latent.noise_std = 0.15  # standard deviation of eps [A]
    # codes before the first step: "sphere" uniform on it; "hypercube" near one vertex per
    # class; "resnet" a ResNet-50's activations of the image [P 5.2]
    config.latent.init = "sphere"
    # of "hypercube": length of the noise beside a vertex of length 1, about
    config.latent.init_noise = 0.1
    # weights of "resnet": "imagenet", a .safetensors file with torchvision's names, or "random"
    config.latent.init_weights = "imagenet"

    # G, which paints an image of a code.
    config.generator = ConfigDict()
    # channels at full resolution, doubled per halving of the side
    config.generator.width = 64
    config.generator.max_width = 512  # most channels at any resolution

    # The small classifier that is trained with G and keeps the codes' classes apart.
    config.weak_classifier = ConfigDict()
    # what it sees: "image", G(z); "latent", z itself, by three dense layers [P 5.2]
    config.weak_classifier.input = "image"
    # "cross_entropy"; "cosine" [P 5.2]; "double_softmax": cross-entropy of a softmax [A]
    config.weak_classifier.loss = "cross_entropy"
    config.weak_classifier.width = 64  # channels of each of its four blocks [A]
    # weight of its cross-entropy in the loss, 0 = none [M: at the authors' .5, whose doubled
    # softmax makes it some K times weaker, images of CIFAR-100 are hardly reconstructed]
    config.weak_classifier.gamma = 0.02

    # What is minimised between an image and what G paints of its code.
    config.reconstruction = ConfigDict()
    # "perceptual" (eq. 1) or "laplacian" (GLO's)
    config.reconstruction.loss = "perceptual"
    # lambda_j of the VGG-16's conv1_2 .. conv5_2
    config.reconstruction.layer_weights = (1.0, 1.0, 1.0, 1.0, 1.0)
    # weight of the mean absolute pixel difference [A]
    config.reconstruction.pixel_weight = 1.0
    # weights of the VGG-16: "imagenet" (downloaded once), a .safetensors file with torchvision's
    # names, or "random"
    config.reconstruction.weights = "imagenet"
    config.reconstruction.normalize = True  # ImageNet's normalisation before the VGG-16
    # most memory, GB, of every device for the VGG-16's features of all training images, which
    # are then computed once (and pass through the host's memory), not at every step; 0: none;
    # unused with train.only_codes
    config.reconstruction.cache_gb = 2.0

    # The training of cGLO: G, codes and weak classifier.
    config.train = ConfigDict()
    config.train.epochs = 200  # number of epochs, of steps_per_epoch steps each [P 4.3]
    # steps on labelled images: CIFAR-100's 50000 / 128, whatever the shots [P 4.3]
    config.train.steps_per_epoch = 390
    # images per step over all devices; at most the images there are [P 4.3]
    config.train.batch_size = 128
    config.train.generator_lr = 7e-4  # Adam's learning rate of G [A]
    # Adam's learning rate of the codes, of which each has an optimiser state of its own [A]
    config.train.code_lr = 1e-3
    config.train.adam_b1 = 0.5  # Adam's b1, of G and codes [A]
    config.train.adam_b2 = 0.999  # Adam's b2, of G and codes [A]
    # epochs after which the learning rates of G and codes fall [A]
    config.train.lr_drop_epochs = (70, 140)
    # what they are multiplied by at each of lr_drop_epochs [A]
    config.train.lr_drop = 0.5
    config.train.weak_lr = 0.1  # SGD's learning rate of the weak classifier [A]
    config.train.weak_momentum = 0.9  # SGD's momentum of the weak classifier [A]
    # weight decay of the weak classifier's parameters [A]
    config.train.weak_weight_decay = 1e-4
    # epochs from one checkpoint to the next; the last epoch has one, too
    config.train.checkpoint_every_epochs = 10
    config.train.log_every_steps = 100  # steps between lines of metrics.jsonl
    # learn codes for images added to a folder since, G stays as it is
    config.train.only_codes = False

    # New images; how they are made counts for the methods that train on them, too.
    config.sample = ConfigDict()
    # way from one code to another: "slerp" (eq. 3) or "lerp"
    config.sample.interpolation = "slerp"
    # how far along it a new image lies: t is drawn from these, per image [P 4.2]
    config.sample.t_values = (0.1, 0.2, 0.3, 0.4)
    # statistics that G's batch norm uses: "running" or "batch" [A]
    config.sample.batch_statistics = "running"
    config.sample.per_class = 16  # images of each class that --stage=sample writes
    config.sample.seed = 0  # chooses which images --stage=sample writes
    # any of "npz" and "tfds": the images also as samples/samples.npz, as a TFDS data set
    config.sample.export = ()
    # how the map of the codes is made (Fig. 2): "tsne" (up to 5000 codes) or "pca"
    config.sample.projection = "tsne"

    # The final classifiers, with and without cGLO's images.
    config.classify = ConfigDict()
    # any of baseline, cglo, pixelmix, cutout, random_erasing, autoaugment, autoaugment_cglo, mixup,
    # mixmatch, pixelmix_cosine, cosine, cosine_ce, cglo_cosine; each is trained for the same steps
    config.classify.methods = ("baseline", "cglo")
    # probability that a training image is replaced by a new one [P 4.2]
    config.classify.replace_probability = 0.5
    # probability that Cutout, Random Erasing or AutoAugment changes an image [P 4.2]
    config.classify.augment_probability = 0.5
    # whether replacement, and t, are drawn for each "example" [P 4.2] or once for a "batch" [A]
    config.classify.draw_per = "example"
    # pixels: side of the square that Cutout greys; 8 at 32 px, 112 at 224 px
    config.classify.cutout_size = 8
    # of mixup: both parameters of the Beta distribution that shares are drawn from
    config.classify.mixup_alpha = 1.0
    config.classify.network = "wide_resnet"  # "wide_resnet" or "resnet50" [P 4.2]
    # weights that resnet50 starts from: "random", "imagenet" (downloaded once), or a .safetensors
    # file with torchvision's names
    config.classify.weights = "random"
    config.classify.depth = 28  # layers of a wide_resnet: 10, 16, 22, 28, ... [P 4.2]
    config.classify.width = 10  # factor by which a wide_resnet is wider than a ResNet
    config.classify.dropout = 0.3  # probability of dropout in a wide_resnet
    config.classify.epochs = 200  # number of epochs, of steps_per_epoch steps each [A]
    # steps: CIFAR-100's 50000 / 128, whatever the shots [P 4.3]
    config.classify.steps_per_epoch = 390
    # images per step over all devices; at most the images there are [P 4.3]
    config.classify.batch_size = 128
    config.classify.lr = 0.1  # learning rate of SGD with Nesterov momentum [P 4.3]
    config.classify.momentum = 0.9  # Nesterov momentum [A]
    # weight decay of every parameter, as the authors' optimiser does [A]
    config.classify.weight_decay = 5e-4
    config.classify.lr_drop_epochs = (60, 120, 160)  # epochs after which lr falls [A]
    # what lr is multiplied by at each of lr_drop_epochs [A]
    config.classify.lr_drop = 0.2
    config.classify.pad = 4  # pixels of padding before the random crop, 0 = no crop
    config.classify.pad_value = 0.0  # value of that padding, in [-1, 1]: 0 = mid-grey
    config.classify.flip = True  # random horizontal flip
    # crop and flip synthetic images like real ones
    config.classify.augment_synthetic = True
    # epochs from one checkpoint to the next; the last epoch has one, too
    config.classify.checkpoint_every_epochs = 50
    config.classify.log_every_steps = 100  # steps between lines of metrics.jsonl

    # Of the method mixmatch; names and values are Berthelot et al.'s (2019).
    config.mixmatch = ConfigDict()
    config.mixmatch.augmentations = 2  # K, whose predictions are averaged
    config.mixmatch.temperature = 0.5  # T of sharpening
    # both parameters of the Beta distribution that shares are drawn from
    config.mixmatch.alpha = 0.75
    config.mixmatch.lambda_u = 75.0  # weight of the unlabelled loss after its ramp
    # share of all steps in which lambda_u grows from 0: 2**14 of 2**20 there
    config.mixmatch.ramp = 1 / 64
    config.mixmatch.ema = 0.999  # decay of the averaged parameters, which are tested

    # The tables, the figures and the verdict.
    config.report = ConfigDict()
    # confidence of the t-interval of the paired difference over seeds
    config.report.confidence = 0.95
    # work directories of runs, with commas between them, that --stage=report sets side by side
    # in place of reporting one; "" = none
    config.report.compare = ""

    # Where metrics and pictures go besides the work directory.
    config.log = ConfigDict()
    # project of Weights & Biases that scalars and pictures go to as well; "" = none; needs the extra wandb
    config.log.wandb = ""
    return config.lock()


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Returns {'latent.dim': 128, ...}: every field by its dotted name, tuples as lists."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{name}.{key}": leaf for key, leaf in flatten(value).items()})
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat
