"""`config.dataset` -> two uint8 `Dataset`s; NumPy only."""
