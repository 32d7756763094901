"""One training set of cGLO on some devices, stepped by hand."""

import dataclasses

import jax
import numpy as np

from cglo_jax.cglo import algorithm
from cglo_jax.stages import train
from cglo_jax.training import parallel

BATCH = np.arange(8)


class Bench:
    """One training set on some devices, stepped by hand."""

    def __init__(self, config, dataset, *, devices=1, seed=0, **spec_changes):
        self.devices = tuple(jax.local_devices()[:devices])
        self.spec = algorithm.create_spec(config, dataset)
        self.spec = dataclasses.replace(self.spec, **spec_changes)
        key_init, self.key, self.key_order = jax.random.split(jax.random.key(seed), 3)
        vgg, _ = train.load_vgg(config)
        cache_gb = config.reconstruction.cache_gb
        shared = algorithm.create_shared(
            self.key, dataset, vgg, cache_gb, spec=self.spec
        )
        shared = algorithm.compute_features(shared, spec=self.spec)
        self.shared = parallel.replicate(shared, self.devices)
        self.state = parallel.create_replicated(
            algorithm.init_state,
            self.devices,
            key_init,
            spec=self.spec,
            n=len(dataset.ids),
            dim=config.latent.dim,
        )

    def step(self, indices, labelled=True):
        """Takes one step; returns its metrics as floats."""
        step_fn = train.compiled_step(self.spec, labelled, self.devices)
        batch = parallel.shard(np.asarray(indices, np.int32), self.devices)
        self.state, metrics = step_fn(self.state, self.shared, batch)
        return {name: float(value) for name, value in metrics.items()}

    def host_state(self):
        """The state now, copied: a step donates the one before it."""
        return jax.tree.map(np.array, self.state)
