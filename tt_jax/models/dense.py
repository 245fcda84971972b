"""The matrix product of every layer, and with it the precision policy.

Parameters and activations are float32. With `bf16`, the inputs of a product are rounded to bfloat16 and accumulated in
float32: twice the speed on hardware that multiplies bfloat16, and no loss of range.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

MatmulPrecision = Literal["f32", "bf16"]


def resolve_precision(precision: str, platform: str, training: bool = False) -> MatmulPrecision:
    """`f32` or `bf16` for a configured `auto`, `f32` or `bf16` on a platform (`cpu`, `gpu`, `tpu`).

    `auto` is bf16 on accelerators. On a CPU it is bf16 for training where the processor multiplies bfloat16 (twice the
    speed of float32 there: docs/explanation/results.md), and float32 otherwise: a lone request is no faster in bf16.
    """
    if precision == "auto":
        return "bf16" if platform != "cpu" or (training and _cpu_multiplies_bf16()) else "f32"
    return "bf16" if precision == "bf16" else "f32"


@functools.cache
def _cpu_multiplies_bf16() -> bool:
    """Whether the processor has AVX512-BF16 or AMX; only Linux says."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def matmul(w: Array, x: Array, precision: MatmulPrecision) -> Array:
    """`w @ x` for float32 w `[o, i]` and x `[i, n]` -> float32 `[o, n]`."""
    if precision == "bf16":
        return _matmul_bf16(w, x)
    return jnp.matmul(w, x, precision=lax.Precision.HIGHEST)


@jax.custom_vjp
def _matmul_bf16(w: Array, x: Array) -> Array:
    return _forward(w, x)[0]


def _forward(w: Array, x: Array) -> tuple[Array, tuple[Array, Array]]:
    w, x = w.astype(jnp.bfloat16), x.astype(jnp.bfloat16)
    return _dot(w, x, 1, 0), (w, x)


def _backward(residual: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    # JAX's own transpose would multiply float32 by bfloat16. The rounding here is that of the forward pass.
    (w, x), g = residual, g.astype(jnp.bfloat16)
    return _dot(g, x, 1, 1), _dot(_transposed(w), g, 1, 0)


_matmul_bf16.defvjp(_forward, _backward)


def _dot(a: Array, b: Array, contract_a: int, contract_b: int) -> Array:
    contract = ((contract_a,), (contract_b,))
    return lax.dot_general(a, b, (contract, ((), ())), preferred_element_type=jnp.float32)


def _transposed(w: Array) -> Array:
    """`w.T`, written out in memory. XLA folds a plain transpose into the product, which a CPU then runs at a quarter of
    the speed; through three dimensions it does not see it."""
    rows, columns = w.shape
    group = next(k for k in (16, 8, 4, 2, 1) if rows % k == 0)
    return jnp.moveaxis(w.reshape(rows // group, group, columns), 2, 0).reshape(columns, rows)


class Dense(nnx.Module):
    """`W x + b`, x `[inputs, n]` -> `[outputs, n]`. W is drawn from N(0, 1/inputs), He-scaled for a ReLU; b is zero.

    Examples are columns, as in the papers' formulas. It is also what is fast: the three products of a training step,
    W x, its gradient with respect to x and that with respect to W, all run along contiguous memory.

    A parameter is made of zeros and says by `std` what `TwoTower.init` draws: modules only ever give the structure.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        precision: MatmulPrecision,
        bias: bool = True,
        relu: bool = False,
    ) -> None:
        std = ((2.0 if relu else 1.0) / inputs) ** 0.5
        self.kernel = nnx.Param(jnp.zeros((outputs, inputs), jnp.float32), std=std)
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32)) if bias else None
        self.precision: MatmulPrecision = precision

    def __call__(self, x: Array) -> Array:
        y = matmul(self.kernel[...], x, self.precision)
        return y if self.bias is None else y + self.bias[...][:, None]


def wide(layers: Sequence[Dense], x: Array) -> list[Array]:
    """`[layer(x) for layer in layers]` as one product: what several layers compute of the same input.

    One wide product runs faster than many, casts x once, and sums the gradient with respect to x by itself.
    """
    y = matmul(jnp.concatenate([layer.kernel[...] for layer in layers]), x, layers[0].precision)
    parts = jnp.split(y, np.cumsum([layer.kernel.shape[0] for layer in layers])[:-1].tolist())
    return [p if layer.bias is None else p + layer.bias[...][:, None] for p, layer in zip(parts, layers, strict=True)]
