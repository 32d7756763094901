"""Layers that are exact everywhere and fast on CPU too.

All maps are NHWC: [B, H, W, C] -> [B, H', W', O]. XLA:CPU has no fast kernel for some operations of these
networks, so each of these has a second form with the same parameters and the same values, chosen when the
program is lowered (`jax.lax.platform_dependent`); GPUs keep the native form:

* 3x3 convolutions on maps of fewer than 9 pixels (30-40x): one matmul.
* 3x3 convolutions from or to an image's few channels (their gradients 1.5-3x): one matmul.
* stride-2 transposed convolutions (7-30x): four ordinary 2x2 convolutions.

Two have one form everywhere: 1x1 convolutions are matmuls (their gradient: 1-6x), max pooling is
a maximum of slices (its gradient: 9-40x), and 2x2 pooling has a custom gradient. The factors are how much
faster a CPU is than with the native form; nothing was timed on a GPU.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike

Initializer = jax.nn.initializers.Initializer

_Form = Callable[[jax.Array, jax.Array], jax.Array]  # of (x, kernel)

_LAYOUT = ("NHWC", "HWIO", "NHWC")
BATCH_NORM_EPSILON = 1e-5
_FEW = 4  # channels of an image at most; 3 were measured


def conv3x3_native(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves [B, H, W, C] with [3, 3, C, O], padding 1 on every side: [B, H/s, W/s, O], rounded up."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT
    )


def conv3x3_tiny(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `conv3x3_native` with stride 1 as one matmul, [B, H, W, C] -> [B, H, W, O]; for H * W < 9.

    XLA swaps the operands of a convolution whose kernel has more taps than its input
    has pixels, and XLA:CPU then falls back to naive loops.
    """
    b, h, w, c = x.shape
    o = kernel.shape[-1]
    pixels = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1)
    pixels = pixels.reshape(-1, 2)  # [P, 2]
    tap = pixels[:, None] - pixels[None] + 1  # [P_in, P_out, 2]
    inside = ((tap >= 0) & (tap < 3)).all(-1)
    index = np.where(inside, tap[..., 0] * 3 + tap[..., 1], 0)
    mask = jnp.asarray(inside, kernel.dtype)[..., None, None]
    dense = kernel.reshape(9, c, o)[index] * mask  # [P_in, P_out, C, O]
    dense = dense.transpose(0, 2, 1, 3).reshape(h * w * c, h * w * o)
    return (x.reshape(b, h * w * c) @ dense).reshape(b, h, w, o)


def _matmul(
    x: jax.Array, matrix: jax.Array, dtype: DTypeLike | None = None
) -> jax.Array:
    """Multiplies every pixel of [B, H, W, C] by a matrix [C, O]: [B, H, W, O] of `dtype`, by default x's."""
    rows = x.reshape(-1, x.shape[-1])  # as a matrix: x @ matrix takes longer on CPU
    y = jnp.matmul(rows, matrix, preferred_element_type=dtype)
    return y.reshape(*x.shape[:-1], matrix.shape[-1])


def _shifts(x: jax.Array) -> list[jax.Array]:
    """Returns the nine shifted maps [B, H, W, C] that the taps of a 3x3 kernel multiply, row by row."""
    h, w = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [x[:, i : i + h, j : j + w] for i, j in np.ndindex(3, 3)]


def conv3x3_from_few(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `conv3x3_native` with stride 1, [B, H, W, C] -> [B, H, W, O], as one matmul; for few C.

    The patches are nine times as large as x.
    """
    patches = jnp.concatenate(_shifts(x), -1)  # [B, H, W, 9 C]
    return _matmul(patches, kernel.reshape(-1, kernel.shape[-1]))


def conv3x3_to_few(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `conv3x3_native` with stride 1, [B, H, W, C] -> [B, H, W, O], by a matmul and shifts; for few O."""
    c, o = kernel.shape[2:]
    kernel = kernel.transpose(2, 0, 1, 3).reshape(c, 9 * o)
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # of the sum
    taps = _matmul(x, kernel, dtype)  # [B, H, W, 9 O]
    shifted = (y[..., o * t : o * (t + 1)] for t, y in enumerate(_shifts(taps)))
    return functools.reduce(jnp.add, shifted).astype(x.dtype)


def conv_transpose_4x4_native(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves [B, H, W, C], transposed, with [4, 4, C, O], stride 2, SAME padding: [B, 2H, 2W, O]."""
    return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=_LAYOUT)


def conv_transpose_4x4_phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `conv_transpose_4x4_native` as one 2x2 convolution per output phase.

    Output pixel (2i + p, 2j + q) depends only on the kernel's taps [p::2, q::2], so nothing
    is multiplied by the zeros of a dilated input. [B, H, W, C] -> [B, 2H, 2W, O].
    """
    b, h, w, _ = x.shape
    rows = []
    for p in (0, 1):
        columns = []
        for q in (0, 1):
            padding = ((1 - p, p), (1 - q, q))
            phase = jax.lax.conv_general_dilated(
                x, kernel[p::2, q::2], (1, 1), padding, dimension_numbers=_LAYOUT
            )
            columns.append(phase)
        rows.append(jnp.stack(columns, 3))  # [B, H, W, q, O]
    return jnp.stack(rows, 2).reshape(b, 2 * h, 2 * w, -1)  # from [B, H, p, W, q, O]


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Takes maxima of 2x2 pixels, [B, H, W, C] -> [B, H/2, W/2, C]; an odd last row or column is dropped.

    The first of equal maxima, row by row, receives the gradient, as in `nn.max_pool` and PyTorch.
    There is no forward-mode derivative (`jax.jvp`).
    """
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return _max_pool_even(x[:, :h, :w])


@jax.custom_vjp
def _max_pool_even(x: jax.Array) -> jax.Array:
    return functools.reduce(jnp.maximum, _quarters(x))


def _quarters(x: jax.Array) -> list[jax.Array]:
    """Returns the four maps [B, H / 2, W / 2, C] of the places in a 2x2 window, row by row."""
    return [x[:, i::2, j::2] for i, j in np.ndindex(2, 2)]


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = _max_pool_even(x)
    place = jnp.full(y.shape, 3, jnp.int8)  # of the maximum in its window
    for i, quarter in reversed(list(enumerate(_quarters(x)[:3]))):
        place = jnp.where(quarter == y, jnp.int8(i), place)
    return y, place


def _max_pool_backward(place: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    b, h, w, c = g.shape
    windows = np.arange(4, dtype=np.int8).reshape(1, 1, 2, 1, 2, 1)
    chosen = place[:, :, None, :, None] == windows  # [B, H / 2, 2, W / 2, 2, C]
    spread = jnp.where(chosen, g[:, :, None, :, None], 0)
    return (spread.reshape(b, 2 * h, 2 * w, c),)


_max_pool_even.defvjp(_max_pool_forward, _max_pool_backward)


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """Takes maxima of 3x3 pixels, stride 2, padding 1: [B, H, W, C] -> [B, H/2, W/2, C], rounded up.

    The padding is -inf and never wins. Equal maxima share the gradient, where
    `nn.max_pool` and PyTorch give it to the first; after a ReLU that is the same: the
    values that are often equal are zeros, and ReLU passes no gradient on where it is zero.
    """
    h, w = x.shape[1:3]
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = jnp.pad(x, padding, constant_values=-jnp.inf)
    rows = [x[:, i : i + h : 2] for i in range(3)]
    x = functools.reduce(jnp.maximum, rows)  # [B, ceil(H / 2), W + 2, C]
    columns = [x[:, :, j : j + w : 2] for j in range(3)]
    return functools.reduce(jnp.maximum, columns)


def batch_norm(
    train: bool,
    axis_name: str | None = None,
    dtype: DTypeLike = jnp.float32,
    name: str | None = None,
    momentum: float = 0.9,
    epsilon: float = BATCH_NORM_EPSILON,
) -> nn.BatchNorm:
    """Creates a batch norm over all devices of the mapped axis `axis_name`, if named.

    The running variance averages the batches' biased variances, PyTorch's the unbiased
    ones, which are n / (n - 1) times as large if a channel has n values in the batch.

    Args:
      train: Normalise by the batch (and update `batch_stats`), else by running values.
      axis_name: Axis of `jax.pmap` or `jax.vmap`; unused when not training.
      dtype: Type of the output; statistics and parameters stay float32.
      name: Name of the sub-module.
      momentum: Share of the running value that one step keeps.
      epsilon: Added to the variance.

    Returns:
      A module [..., C] -> [..., C].
    """
    return nn.BatchNorm(
        use_running_average=not train,
        axis_name=axis_name if train else None,
        momentum=momentum,
        epsilon=epsilon,
        dtype=dtype,
        name=name,
    )


def _operands(
    layer: "Conv3x3 | ConvTranspose4x4", x: jax.Array, side: int
) -> list[jax.Array | None]:
    """Returns x, the layer's kernel [side, side, C, O] and its bias [O], in its dtype."""
    shape = (side, side, x.shape[-1], layer.features)
    kernel = layer.param("kernel", layer.kernel_init, shape, jnp.float32)
    bias = None
    if layer.use_bias:
        zeros = nn.initializers.zeros_init()
        bias = layer.param("bias", zeros, (layer.features,), jnp.float32)
    return promote_dtype(x, kernel, bias, dtype=layer.dtype)


def _form_on_cpu(x: jax.Array, features: int, stride: int) -> _Form | None:
    """Returns the form that a 3x3 convolution of x has on CPU; None: the native one there too."""
    if stride != 1:
        return None
    if x.shape[1] * x.shape[2] < 9:
        return conv3x3_tiny
    if x.shape[-1] <= _FEW:
        return conv3x3_from_few
    return conv3x3_to_few if features <= _FEW else None


class Conv1x1(nn.Module):
    """1x1 convolution without bias: [B, H, W, C] -> [B, H, W, O]; its kernel is [1, 1, C, O]."""

    features: int
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1, 1, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        return _matmul(x, kernel[0, 0])


class Conv3x3(nn.Module):
    """3x3 convolution, padding 1 on every side: [B, H, W, C] -> [B, H/s, W/s, O].

    Sides round up when the stride s does not divide them, as in PyTorch.
    """

    features: int
    stride: int = 1
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel, bias = _operands(self, x, 3)
        if form := _form_on_cpu(x, self.features, self.stride):
            x = jax.lax.platform_dependent(x, kernel, cpu=form, default=conv3x3_native)
        else:
            x = conv3x3_native(x, kernel, self.stride)
        return x if bias is None else x + bias[None, None, None]


class ConvTranspose4x4(nn.Module):
    """4x4 transposed convolution of stride 2: [B, H, W, C] -> [B, 2H, 2W, O]."""

    features: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel, bias = _operands(self, x, 4)
        x = jax.lax.platform_dependent(
            x, kernel, cpu=conv_transpose_4x4_phases, default=conv_transpose_4x4_native
        )
        return x if bias is None else x + bias[None, None, None]
