"""A finished run as an object: generator and classifiers."""
