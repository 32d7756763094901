"""The final classifier, as pure functions: step, augmentation methods, MixMatch."""
