"""cGLO JAX: better image classifiers from a few labelled images per class."""

__version__ = "0.1.0"
