"""The ads of an index on the device, laid out for scans over all of them. Pure functions.

Letters in names: T tasks, N ads, D embedding width, C ads of one part, P ads that are put, M ads that are marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from serving.eligibility.device_attributes import DeviceAttributes
from serving.index.quantized import numbers_and_scales

BLOCK = 64  # scores per block maximum; for k = 1000 of 10^6 on a CPU, 32 is as fast and 128 a tenth slower
INT8_PART = 4096  # ads of int8 scored at a time: of these few, the float32 numbers fit a nearer cache
PART = 65_536  # ads scored at a time, a multiple of BLOCK; with 131,072 B = 32 takes 1.1x as long


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeviceCorpus:
    """The ads, laid out for scoring. Build it with `pack`.

    Attributes:
      rows_NTD: float32 or bfloat16 embeddings, or int8 of `serving.index.quantized`, one ad contiguous:
        what candidate lists and the winners are read from,
        and one float32 task by several queries.
      columns: for each task of the utility, the same numbers as parts `[D, C]`: what other scans over all ads read. A
        product with a few queries is 1.4x as fast in this layout as in rows (B = 8, CPU). None of int8.
      bids_N: float32.
      valid_N: bool; False for padding and ads that are not eligible.
      attributes: of the ads; None where the schema has none.
      starts: int32, the first position of each part. Numbers that the compiler does not know: the parts then have the
        same code, which it makes once, and not 16 times for 10^6 ads.
    """

    rows_NTD: Array
    columns: dict[int, tuple[Array, ...]]
    bids_N: Array
    valid_N: Array
    starts: tuple[Array, ...]
    attributes: DeviceAttributes | None = None

    @staticmethod
    def pack(
        rows_NTD: Array,
        bids_N: Array,
        valid_N: Array,
        attributes: DeviceAttributes | None = None,
        *,
        scanned: tuple[int, ...],
        places: int = 0,
    ) -> DeviceCorpus:
        """Pads the ads to at least that many places, a whole number of blocks, which `attributes` must have.

        Copies the tasks `scanned` (those the utility uses) to columns.
        """
        spare = -(-max(places, rows_NTD.shape[0]) // BLOCK) * BLOCK - rows_NTD.shape[0]
        rows_NTD = jnp.asarray(rows_NTD)
        if spare:  # else it would be a copy of all
            rows_NTD = jnp.pad(rows_NTD, ((0, spare), (0, 0), (0, 0)))
        return DeviceCorpus(
            rows_NTD=rows_NTD,
            columns={} if rows_NTD.dtype == jnp.int8 else _columns(rows_NTD, scanned, PART),
            bids_N=jnp.pad(jnp.asarray(bids_N, jnp.float32), (0, spare)),
            valid_N=jnp.pad(jnp.asarray(valid_N, bool), (0, spare)),
            starts=tuple(jnp.int32(start) for start in range(0, rows_NTD.shape[0], PART)),
            attributes=attributes,
        )

    def part_size(self, part: int) -> int:
        """Number of ads of a part."""
        return min(PART, self.valid_N.shape[0] - part * PART)

    def scratch(self, batch: int) -> Array:
        """A score buffer for `score_and_top_k` with that many queries."""
        return jnp.zeros(self.scratch_shape(batch), jnp.float32)

    def scratch_shape(self, batch: int) -> tuple[int, int]:
        """`[N, B]` if these queries read one float32 task in rows, else `[B, N]`."""
        n = self.valid_N.shape[0]
        return (n, batch) if self.reads_rows(batch) else (batch, n)

    def reads_rows(self, batch: int) -> bool:
        """Whether that many queries read one float32 task in rows."""
        return batch > 1 and self.rows_NTD.shape[1] == 1 and self.rows_NTD.dtype == jnp.float32

    def rows_at(self, positions_BC: Array) -> tuple[Array, Array | None]:
        """Numbers `[B, C, T * D]` of ads, and of int8, made float32, the scales `[B, C, T]`. Outside 0..N-1, of any."""
        n, tasks, width = self.rows_NTD.shape
        rows_BCF = self.rows_NTD.reshape(n, tasks * width).at[positions_BC].get(mode="clip")
        if self.rows_NTD.dtype != jnp.int8:
            return rows_BCF, None
        numbers, scales_BCT = numbers_and_scales(rows_BCF.reshape(*positions_BC.shape, tasks, width))
        return numbers.reshape(*positions_BC.shape, -1), scales_BCT

    def updated(
        self,
        put_P: Array,
        vectors_PTD: Array,
        marked_M: Array,
        bids_M: Array,
        valid_M: Array,
        attributes: DeviceAttributes | None = None,
    ) -> DeviceCorpus:
        """With other vectors at positions `put_P`, other bids and eligibility at `marked_M`, these attributes. Donate
        `self` to the jit.

        Positions are int32; N and more is padding, which changes nothing.
        """
        columns = {
            task: tuple(
                _put_columns(part_DC, put_P - start, vectors_PTD[:, task])
                for part_DC, start in zip(parts, self.starts, strict=True)
            )
            for task, parts in self.columns.items()
        }
        return DeviceCorpus(
            rows_NTD=self.rows_NTD.at[put_P].set(vectors_PTD, mode="drop"),
            columns=columns,
            bids_N=self.bids_N.at[marked_M].set(bids_M, mode="drop"),
            valid_N=self.valid_N.at[marked_M].set(valid_M, mode="drop"),
            starts=self.starts,
            attributes=attributes,
        )


@partial(jax.jit, static_argnums=(1, 2))  # one program; slice by slice, each would be compiled
def _columns(rows_NTD: Array, scanned: tuple[int, ...], part: int) -> dict[int, tuple[Array, ...]]:
    starts = range(0, rows_NTD.shape[0], part)
    return {t: tuple(rows_NTD[i : i + part, t].T for i in starts) for t in scanned}


def _put_columns(part_DC: Array, places_P: Array, vectors_PD: Array) -> Array:
    """With these vectors at the places that are inside of the part; a negative index would count from its end."""
    size = part_DC.shape[1]
    places_P = jnp.where((places_P >= 0) & (places_P < size), places_P, size)
    return part_DC.at[:, places_P].set(vectors_PD.T, mode="drop")
