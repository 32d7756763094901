"""Trains any (state, step): devices, loop, checkpoints, logs; knows neither cGLO nor classifiers."""
