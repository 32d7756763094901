"""JAX's side of experiments/parity/networks.py: random weights for the networks of cglo_jax."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from cglo_jax.models.resnet import ResNet50
from cglo_jax.models.vgg import VGG16
from cglo_jax.models.wide_resnet import WideResNet
from cglo_jax.pretrained import networks

NAMES = {**networks.NAMES, "wrn28_10": "WRN-28-10"}

# The wide ResNet's parts have the same names on both sides; what is in them has not.
_TORCH_LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def create(
    network: str, dtype: str = "float32", *, normalize: bool = True
) -> nn.Module:
    """Creates 'vgg16', 'resnet50' (1000 classes) or 'wrn28_10' (100 classes)."""
    if network == "vgg16":
        return VGG16(normalize=normalize, dtype=jnp.dtype(dtype))
    if network == "resnet50":
        return ResNet50(1000, normalize=normalize, dtype=jnp.dtype(dtype))
    return WideResNet(100, dtype=jnp.dtype(dtype))


def wide_resnet_names() -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Returns {PyTorch's name: (path in Flax's variables, PyTorch's shape)}."""
    x, model = jnp.zeros((1, 32, 32, 3)), create("wrn28_10")
    drawn = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    names = {}
    for path, leaf in flatten_dict(drawn).items():
        name = ".".join((*path[1:-1], _TORCH_LEAF[path[-1]]))
        names[name] = path, tuple(leaf.shape[i] for i in _torch_axes(leaf.ndim))
    return names


def _torch_axes(ndim: int) -> tuple[int, ...]:
    """Returns the order of Flax's axes in PyTorch: HWIO -> OIHW, [I, O] -> [O, I]."""
    return {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[ndim]


def torch_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Returns {PyTorch's name: shape} of all that a network has learnt."""
    if network == "wrn28_10":
        return {name: shape for name, (_, shape) in wide_resnet_names().items()}
    shapes = dict(networks.SHAPES[network]())
    if network == "resnet50":
        shapes |= {"fc.weight": (1000, 2048), "fc.bias": (1000,)}
    return shapes


def random_tensors(network: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws weights with which maps keep their size: {PyTorch's name: float32 array}.

    Kernels are uniform with variance 2 / fan_in where nothing is added up, half of that
    in residual networks. From NumPy's RandomState, whose stream never changes.
    """
    rng = np.random.RandomState(seed)
    gain = 2 if network == "vgg16" else 1
    tensors = {}
    for name, shape in sorted(torch_shapes(network).items()):
        if len(shape) > 1:
            bound = (3 * gain / np.prod(shape[1:])) ** 0.5
            low, high = -bound, bound
        elif name.endswith(("weight", "running_var")):
            low, high = 0.5, 1.5
        else:
            low, high = -0.2, 0.2
        tensors[name] = rng.uniform(low, high, shape).astype(np.float32)
    return tensors


def from_torch(network: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts PyTorch's tensors to variables of the network in cglo_jax."""
    if network == "vgg16":
        return {"params": networks.vgg16_params(tensors)}
    if network == "wrn28_10":
        flat = {}
        for name, (path, _) in wide_resnet_names().items():
            axes = np.argsort(_torch_axes(tensors[name].ndim))
            flat[path] = tensors[name].transpose(axes)
        return unflatten_dict(flat)
    body = {k: v for k, v in tensors.items() if not k.startswith("fc.")}
    params, batch_stats = networks.resnet_variables(body)
    head = {"kernel": tensors["fc.weight"].T, "bias": tensors["fc.bias"]}
    return {"params": {**params, "head": head}, "batch_stats": batch_stats}


def scalar(taps: Mapping[str, jax.Array]) -> jax.Array:
    """Sums the logits, weighted by cos(class), or without logits the means of the taps."""
    if "logits" in taps:
        weights = jnp.cos(
            jnp.arange(taps["logits"].shape[1], dtype=taps["logits"].dtype)
        )
        return (taps["logits"] * weights[None]).sum()
    return sum(tap.mean() for tap in taps.values())


def running_values(batch_stats: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Joins the running values of all batch norms, sorted by name."""
    flat = flatten_dict(batch_stats)
    return {
        f"running {name}": np.concatenate(
            [flat[path] for path in sorted(flat) if path[-1] == leaf]
        )
        for name, leaf in (("means", "mean"), ("variances", "var"))
    }


def run(
    network: str,
    tensors: Mapping[str, np.ndarray],
    x: np.ndarray,
    *,
    train: bool = False,
    normalize: bool = True,
) -> dict[str, np.ndarray]:
    """Computes a network's taps and the gradient of their `scalar`.

    Args:
      network: See `create`.
      tensors: {PyTorch's name: array}, all of the network.
      x: Images [B, H, W, 3] in [-1, 1]; its type, float32 or float64, is computed in.
      train: Normalise by batch statistics, else by running ones.
      normalize: Apply ImageNet's normalisation; unused by the wide ResNet.

    Returns:
      {tap: [B, H, W, C] or [B, C], ..., 'input gradient': [B, H, W, 3]} and, if `train`,
      the updated 'running means' and 'running variances' of all batch norms.
    """
    model = create(network, x.dtype.name, normalize=normalize)

    def value(x: jax.Array, variables: dict) -> tuple[jax.Array, tuple[dict, dict]]:
        (last, features), updated = model.apply(
            variables, x, train=train, mutable=["batch_stats"]
        )
        taps = features if network == "vgg16" else {**features, "logits": last}
        return scalar(taps), (taps, updated)

    variables = from_torch(network, {k: v.astype(x.dtype) for k, v in tensors.items()})
    # "highest": GPUs would round float32 factors to 10 bits.
    with jax.enable_x64(x.dtype == np.float64), jax.default_matmul_precision("highest"):
        compiled = jax.jit(jax.grad(value, has_aux=True))
        gradient, (taps, updated) = compiled(x, variables)
        outputs = {**taps, "input gradient": gradient}
        if train:
            outputs |= running_values(updated["batch_stats"])
        return {name: np.asarray(output) for name, output in outputs.items()}
