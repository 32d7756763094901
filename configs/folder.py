"""Your own images: one sub-folder per class.

Run card

    python -m cglo_jax.main --config=configs/folder.py --config.dataset.path=DIR

DIR/cat/*.jpg, DIR/dog/*.png, ... or the same below DIR/train and DIR/test. Without DIR/test about
a quarter of each class is held out to test on. Images are brought to squares of 64 pixels
(--config.dataset.size=128 for more; the work grows with its square).
experiments/tools/make_folder.py makes such a folder (10 classes, 158 training and 49 test images). With
--config.dataset.size=32 it took 12:56 minutes and 1.6 GB on two busy cores (x86-64, jax 0.10.2):
baseline 66.67 +- 6.05 %, cGLO 65.99 +- .68 % (3 seeds): no measurable difference. That was
before the noise became as strong as the authors' (latent.noise_gain). 64 px was not run.
No external weights: the loss is the Laplacian pyramid's, the classifier starts from random ones.
"""

from ml_collections import ConfigDict

from cglo_jax import config as defaults


def get_config() -> ConfigDict:
    """Returns the defaults with what differs for a few images of people's own."""
    config = defaults.get_config()
    config.external_weights = False
    config.dataset.name = "folder"
    config.dataset.size = 64
    config.dataset.shots = 0  # all there are
    config.dataset.class_weights = True
    config.reconstruction.loss = "laplacian"
    config.generator.width = 32
    config.train.epochs = 20
    config.train.steps_per_epoch = 50
    config.train.batch_size = 32
    config.train.code_lr = 1e-2
    config.train.lr_drop_epochs = (10, 15)
    config.classify.depth = 10
    config.classify.width = 2
    config.classify.dropout = 0.0
    config.classify.epochs = 20
    config.classify.steps_per_epoch = 25
    config.classify.batch_size = 32
    config.classify.lr_drop_epochs = (12, 16)
    config.mixmatch.ema = 0.99  # the average of few steps must forget the first ones
    config.mixmatch.ramp = 1.0  # not before the classifier knows anything
    return config
