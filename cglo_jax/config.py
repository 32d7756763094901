"""Every field of a run with its default, unit and source: the only place for defaults.

A file in `configs/` calls `get_config()` and changes what differs. Sources in brackets: [P 4.3]
is section 4.3 of the paper, [A] the authors' released code, [M] a measurement of ours (which is
named in the run card of the config that uses it).
"""

from typing import Any

from ml_collections import ConfigDict

EXPORTS = ("npz", "tfds")
# Sides in pixels that the generator can make: 4 or 7, doubled at least once.
SIDES = tuple(sorted(start << k for start in (4, 7) for k in range(1, 12)))


def get_config() -> ConfigDict:
    """Returns the defaults: the paper's CIFAR-100 protocol on whatever data set is named."""
    config = ConfigDict()
    # one whole run (cGLO and classifiers) each; 3 in the paper [P 4.3]
    config.seeds = (0, 1, 2)
    config.devices = 0  # of one process; 0 = all, as several processes use
    # steps that one call from Python takes, 0 = 1 on a CPU (more are slow there), 10 elsewhere;
    # another number may round otherwise, and so may other periods of logs and checkpoints with it
    config.steps_per_call = 0
    # refuse to train what needs more memory than is free
    config.check_memory = True
    # how often to go back to the newest checkpoint, with all learning rates multiplied by
    # rollback_factor, when a loss or the state is infinite or NaN; 0: the run ends then
    config.rollbacks = 0
    config.rollback_factor = 0.5  # of each time
    # compute dtype, float32 or bfloat16; parameters stay float32
    config.dtype = "float32"
    # False: refuse all weights that were trained on other images; the report says so
    config.external_weights = True

    config.dataset = ConfigDict()
    # "digits" (embedded), "folder" or a TFDS image classification data set
    config.dataset.name = "digits"
    # of "folder": one sub-folder of images per class, in train/ and test/ or without them
    config.dataset.path = ""
    # of "folder": refuse to start if any file cannot be used, be it damaged or a copy
    config.dataset.strict = False
    # prepared TFDS directory; "" = $TFDS_DATA_DIR or ~/tensorflow_datasets
    config.dataset.data_dir = ""
    # pixels the short side is brought to; 0 = as stored (must be square). This, or `crop` if
    # set, must be one of SIDES: 32, 56, 64, 112, 128, 224, 256, ...
    config.dataset.size = 0
    # side of the square that networks see: the middle of an image for G and for tests, a
    # random part of it for the classifier; 0 = the middle `size` of it for all three
    config.dataset.crop = 0
    # labelled training images per class; 0 = all there are
    config.dataset.shots = 5
    config.dataset.split_seed = 0  # which images: the same for every seed of `seeds`
    # use so many classes only, evenly spread over their list; 0 = all
    config.dataset.classes = 0
    # CUB-200: lines "image_id is_train", the labelled images are among those with 1
    config.dataset.split_file = ""
    # of "folder" without test/: share of each class that is tested on
    config.dataset.test_fraction = 0.25
    # weight cross-entropies by 1 / (labelled images of the class), on average by 1
    config.dataset.class_weights = False
    # further training images whose labels are hidden [P Alg. 1]
    config.dataset.unlabelled = 0
    # also reconstruct the test images, labels never read [P 3.2]
    config.dataset.transductive = False
    # for tuning: test on this many unused *training* images instead; 0 = the test set
    config.dataset.holdout = 0

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
    # of "resnet": "imagenet", a .safetensors file with torchvision's names, or "random"
    config.latent.init_weights = "imagenet"

    config.generator = ConfigDict()
    # channels at full resolution, doubled per halving of the side
    config.generator.width = 64
    config.generator.max_width = 512  # upper limit of the channels

    config.weak_classifier = ConfigDict()
    # "image": of G(z); "latent": three dense layers on z itself [P 5.2]
    config.weak_classifier.input = "image"
    # "cross_entropy"; "cosine" [P 5.2]; "double_softmax": cross-entropy of a softmax [A]
    config.weak_classifier.loss = "cross_entropy"
    config.weak_classifier.width = 64  # channels of its four blocks [A]
    # weight of its cross-entropy in the loss, 0 = none [M: at the authors' .5, whose doubled
    # softmax makes it some K times weaker, images of CIFAR-100 are hardly reconstructed]
    config.weak_classifier.gamma = 0.02

    config.reconstruction = ConfigDict()
    # "perceptual" (eq. 1) or "laplacian" (GLO's)
    config.reconstruction.loss = "perceptual"
    # lambda_j, conv1_2 .. conv5_2
    config.reconstruction.layer_weights = (1.0, 1.0, 1.0, 1.0, 1.0)
    # weight of the mean absolute pixel difference [A]
    config.reconstruction.pixel_weight = 1.0
    # of the VGG-16: "imagenet" (downloaded once), a .safetensors file with torchvision's
    # names, or "random"
    config.reconstruction.weights = "imagenet"
    config.reconstruction.normalize = True  # ImageNet's normalisation before the VGG-16
    # most memory, GB, of every device for the VGG-16's features of all training images, which
    # are then computed once (and pass through the host's memory), not at every step; 0: none;
    # unused with train.only_codes
    config.reconstruction.cache_gb = 2.0

    config.train = ConfigDict()
    config.train.epochs = 200  # [P 4.3]
    # labelled steps: CIFAR-100's 50000 / 128, whatever the shots [P 4.3]
    config.train.steps_per_epoch = 390
    # images per step over all devices; at most the images there are [P 4.3]
    config.train.batch_size = 128
    config.train.generator_lr = 7e-4  # Adam [A]
    config.train.code_lr = 1e-3  # Adam, one optimiser state per code [A]
    config.train.adam_b1 = 0.5  # of both [A]
    config.train.adam_b2 = 0.999  # of both [A]
    config.train.lr_drop_epochs = (70, 140)  # of both [A]
    config.train.lr_drop = 0.5  # factor at each of these epochs [A]
    config.train.weak_lr = 0.1  # SGD, weak classifier [A]
    config.train.weak_momentum = 0.9  # [A]
    config.train.weak_weight_decay = 1e-4  # [A]
    config.train.checkpoint_every_epochs = 10  # besides the last epoch
    config.train.log_every_steps = 100  # steps between lines of metrics.jsonl
    # learn codes for images added to a folder since, G stays as it is
    config.train.only_codes = False

    config.sample = ConfigDict()
    config.sample.interpolation = "slerp"  # "slerp" (eq. 3) or "lerp"
    # t is drawn from these, per image [P 4.2]
    config.sample.t_values = (0.1, 0.2, 0.3, 0.4)
    # of G's batch norm: "running" or "batch" [A]
    config.sample.batch_statistics = "running"
    config.sample.per_class = 16  # images written by --stage=sample
    config.sample.seed = 0  # of the images written
    # of EXPORTS: the images also as samples/samples.npz, as a TFDS data set
    config.sample.export = ()
    # of the code map (Fig. 2): "tsne" (up to 5000 codes) or "pca"
    config.sample.projection = "tsne"

    config.classify = ConfigDict()
    # of methods.METHODS, each trained for the same steps
    config.classify.methods = ("baseline", "cglo")
    # that an image is replaced, per example [P 4.2]
    config.classify.replace_probability = 0.5
    # that Cutout, Random Erasing or AutoAugment changes an image, per example [P 4.2]
    config.classify.augment_probability = 0.5
    # what is drawn once for it: replacement, and t, per "example" [P 4.2] or "batch" [A]
    config.classify.draw_per = "example"
    # pixels: side of the square that Cutout greys; 8 at 32 px, 112 at 224 px
    config.classify.cutout_size = 8
    # of mixup: both parameters of the Beta distribution of the share
    config.classify.mixup_alpha = 1.0
    config.classify.network = "wide_resnet"  # or "resnet50" [P 4.2]
    # that resnet50 starts from: "random", "imagenet" (downloaded once), or a .safetensors
    # file with torchvision's names
    config.classify.weights = "random"
    config.classify.depth = 28  # WideResNet [P 4.2]
    config.classify.width = 10  # WideResNet
    config.classify.dropout = 0.3  # WideResNet
    config.classify.epochs = 200  # [A]
    config.classify.steps_per_epoch = 390  # as above [P 4.3]
    config.classify.batch_size = 128  # [P 4.3]
    config.classify.lr = 0.1  # SGD with Nesterov momentum [P 4.3]
    config.classify.momentum = 0.9  # [A]
    # on every parameter, as the authors' optimiser does [A]
    config.classify.weight_decay = 5e-4
    config.classify.lr_drop_epochs = (60, 120, 160)  # [A]
    config.classify.lr_drop = 0.2  # factor at each of these epochs [A]
    config.classify.pad = 4  # pixels of padding before the random crop, 0 = no crop
    config.classify.pad_value = 0.0  # of that padding in [-1, 1]: 0 = mid-grey
    config.classify.flip = True  # random horizontal flip
    # crop and flip synthetic images like real ones
    config.classify.augment_synthetic = True
    config.classify.checkpoint_every_epochs = 50  # besides the last epoch
    config.classify.log_every_steps = 100  # steps between lines of metrics.jsonl

    # Of the method mixmatch; names and values are Berthelot et al.'s (2019).
    config.mixmatch = ConfigDict()
    config.mixmatch.augmentations = 2  # K, whose predictions are averaged
    config.mixmatch.temperature = 0.5  # T of sharpening
    # both parameters of the Beta distribution of the share
    config.mixmatch.alpha = 0.75
    config.mixmatch.lambda_u = 75.0  # weight of the unlabelled loss after its ramp
    # share of all steps in which lambda_u grows from 0: 2**14 of 2**20 there
    config.mixmatch.ramp = 1 / 64
    config.mixmatch.ema = 0.999  # decay of the averaged parameters, which are tested

    config.report = ConfigDict()
    # of the t-interval of the paired difference over seeds
    config.report.confidence = 0.95
    # of --stage=report: runs to be set side by side instead, by their work directories with
    # commas between them
    config.report.compare = ""

    config.log = ConfigDict()
    # project of Weights & Biases that scalars and pictures go to as well; "" = none
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
