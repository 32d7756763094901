"""Figure 5: new images between two reconstructed ones of CIFAR-100, 10 images per class.

    python -m experiments.figure5 --data_dir=DIR                   # 10 of the classes
    python -m experiments.figure5 --scale=paper --data_dir=DIR     # all, on a GPU

At the scale of a CPU it shares its cGLO with Figure 4: some minutes on two cores.
"""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cglo_jax import codes, data, figures, sample
from experiments import trained

ROWS = 10  # classes
BETWEEN = 7  # new images in a row


def draw(run: trained.Trained) -> Image.Image:
    """Walks from the first image of a class to its second, with one draw of noise per row."""
    members = run.sampler.classes.members
    shown = np.linspace(0, len(members) - 1, ROWS).round().astype(int)
    first, second = members[shown, 0], members[shown, 1]
    t = jnp.linspace(0, 1, BETWEEN + 2)
    path = codes.INTERPOLATIONS[run.spec.interpolation]
    walk = jax.vmap(jax.vmap(path, (None, None, 0)), (0, 0, None))
    z = walk(jnp.asarray(run.z[first]), jnp.asarray(run.z[second]), t)  # [R, T, d]
    keys = jnp.repeat(codes.example_keys(jax.random.key(0), first), len(t))
    flat, variables = z.reshape(-1, z.shape[-1]), run.sampler.variables
    images = data.to_uint8(sample.generate(variables, flat, keys, spec=run.spec))
    images = images.reshape(ROWS, len(t), *images.shape[1:])
    names = [run.dataset.class_names[k] for k in shown]
    return figures.interpolation_grid(images, t.tolist(), names)


def main() -> None:
    """Trains the cGLO if it is not there and draws the figure."""
    args = trained.parse(__doc__)
    config = trained.cifar100_config(args.scale, args.data_dir)
    run = trained.train_cglo(config, args.workdir / args.scale / "cifar100")
    trained.save(draw(run), f"figure5_{args.scale}.png")


if __name__ == "__main__":
    main()
