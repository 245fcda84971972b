"""Cross layers of DCN-V2 (Wang et al., WWW 2021, arXiv 2008.13535, equations 1 and 2)."""

from __future__ import annotations

from flax import nnx
from jax import Array

from tt_jax.models.dense import Dense, MatmulPrecision


class CrossLayer(nnx.Module):
    """Full rank: `x0 * (W x + b) + x` with W `[width, width]`; x0 and x are `[width, n]`."""

    def __init__(self, width: int, *, precision: MatmulPrecision) -> None:
        self.inner = Dense(width, width, precision=precision)

    @property
    def first(self) -> Dense:
        """The product that is taken of x."""
        return self.inner

    def __call__(self, x0: Array, x: Array, product: Array | None = None) -> Array:
        """`product`: `first(x)`, where it has been computed already."""
        return x0 * (self.inner(x) if product is None else product) + x


class LowRankCrossLayer(nnx.Module):
    """Low rank: `x0 * (U (V x) + b) + x` with V `[width, rank]` and U `[rank, width]`; x0 and x are `[width, n]`."""

    def __init__(self, width: int, rank: int, *, precision: MatmulPrecision) -> None:
        self.down = Dense(width, rank, precision=precision, bias=False)
        self.up = Dense(rank, width, precision=precision)

    @property
    def first(self) -> Dense:
        """The product that is taken of x."""
        return self.down

    def __call__(self, x0: Array, x: Array, product: Array | None = None) -> Array:
        """`product`: `first(x)`, where it has been computed already."""
        return x0 * self.up(self.down(x) if product is None else product) + x
