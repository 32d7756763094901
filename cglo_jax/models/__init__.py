"""Networks as Flax modules: plain fields, NHWC images, float32 parameters."""
