"""Bytes that survive a kill; knows nothing of images or JAX."""
