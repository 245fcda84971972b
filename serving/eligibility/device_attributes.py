"""The attributes of ads on the device, and which ads may serve by them. Pure functions for use inside one jit.

Letters in names: B queries, N ads, C candidates of a query, V rows of bitmaps, W words of 32 ads, M ads that change,
U words that change.

Every value of a small set is a bitmap of the ads that have it: a query reads the few that it names, not all words of
every ad. What a query asks of numbers and intervals is compared ad by ad, and packed into bits once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from serving.eligibility.condition_encoder import BitmapRows
from serving.eligibility.conditions import AND, AND_NOT, OPEN, Rules
from tt_jax.schema import AdAttribute

WORD = 32  # ads of a word: ad i is bit i % 32 of word i // 32


class AttributeChange(NamedTuple):
    """Columns of changed ads, see `DeviceAttributes.updated`; a pytree."""

    columns_M: dict[str, Any]
    words_U: Any
    columns_32U: dict[str, Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeviceAttributes:
    """Of N places for ads, N a multiple of `WORD`.

    Attributes:
      bits_VW: uint32, the rows of `BitmapRows`.
      ids: name of a large set -> int32 `[N]`.
      numbers: name -> float32 `[N]`.
      starts, ends: name of an interval -> uint32 `[N]`.
    """

    bits_VW: Array
    ids: dict[str, Array]
    numbers: dict[str, Array]
    starts: dict[str, Array]
    ends: dict[str, Array]

    @staticmethod
    def pack(attributes: Sequence[AdAttribute], columns: Mapping[str, Array]) -> DeviceAttributes:
        """Of the arrays of `AdAttributes`, N places of each."""
        rows = BitmapRows(attributes)
        return DeviceAttributes(
            bits_VW=bitmaps(attributes, columns),
            ids={name: columns[name] for name in rows.ids},
            numbers={name: columns[name] for name in rows.numbers},
            starts={name: columns[name][:, 0] for name in rows.intervals},
            ends={name: columns[name][:, 1] for name in rows.intervals},
        )

    def updated(
        self,
        schema: Sequence[AdAttribute],
        marked_M: Array,
        columns_M: Mapping[str, Array],
        words_U: Array,
        columns_32U: Mapping[str, Array],
    ) -> DeviceAttributes:
        """With the columns of changed ads: N in `marked_M` and W in `words_U` change nothing.

        Args:
          columns_M: of the large sets, numbers and intervals of the ads at `marked_M`.
          columns_32U: of the small sets and flags of all ads of the words `words_U`.
        """
        put = lambda old, new: {k: x.at[marked_M].set(new(k), mode="drop") for k, x in old.items()}  # noqa: E731
        bits_VU = bitmaps(schema, columns_32U)
        return DeviceAttributes(
            bits_VW=self.bits_VW.at[:, words_U].set(bits_VU, mode="drop"),
            ids=put(self.ids, lambda k: columns_M[k]),
            numbers=put(self.numbers, lambda k: columns_M[k]),
            starts=put(self.starts, lambda k: columns_M[k][:, 0]),
            ends=put(self.ends, lambda k: columns_M[k][:, 1]),
        )


def bitmaps(attributes: Sequence[AdAttribute], columns: Mapping[str, Array]) -> Array:
    """uint32 `[V, W]` of the small sets and flags of 32 W ads: arrays as of `AdAttributes`."""
    n = next((len(x) for x in columns.values()), 0)
    parts = [jnp.zeros((1, n // WORD), jnp.uint32)]
    for a in attributes:
        if a.kind == "flag":
            parts.append(_packed(columns[a.name])[None])
        elif a.is_bits:
            words_Nw = columns[a.name]
            if a.match == "targeting":
                parts.append(_packed(jnp.all(words_Nw == 0, axis=1))[None])
            parts.append(_transposed(words_Nw)[: a.max_values])
    return jnp.concatenate(parts)


def _transposed(words_Nw: Array) -> Array:
    """Rows `[32 w, W]` of the values of a set, of the words of each ad."""

    def of_value(v: Array) -> Array:
        return _packed((words_Nw[:, v // 32] >> (v % 32).astype(jnp.uint32)) & 1 != 0)

    return lax.map(of_value, jnp.arange(32 * words_Nw.shape[1]))


def _packed(ok_N: Array) -> Array:
    """Booleans as words `[W]`."""
    bits = jnp.left_shift(jnp.uint32(1), jnp.arange(WORD, dtype=jnp.uint32))
    return jnp.sum(jnp.where(ok_N.reshape(-1, WORD), bits, jnp.uint32(0)), axis=1, dtype=jnp.uint32)


def unpacked(words: Array) -> Array:
    """Words `[..., W]` as booleans `[..., 32 W]`."""
    bits = (words[..., None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1
    return bits.reshape(*words.shape[:-1], -1) != 0


def unpacked_columns(words_WB: Array) -> Array:
    """As `unpacked`, of words that stand in columns: `[32 W, B]`."""
    bits = (words_WB[:, None, :] >> jnp.arange(WORD, dtype=jnp.uint32)[None, :, None]) & 1
    return bits.reshape(-1, words_WB.shape[1]) != 0


def serving_words(attributes: DeviceAttributes, rules: Rules) -> Array:
    """uint32 `[B, W]`: which of all ads may serve each query."""

    def of_query(rule: Rules) -> Array:
        row = lambda r: lax.dynamic_index_in_dim(attributes.bits_VW, r, 0, keepdims=False)  # noqa: E731
        return _run(attributes, rule, row, lambda x: x, _packed)

    return lax.map(of_query, rules)


def serving_listed(attributes: DeviceAttributes, rules: Rules, positions_BC: Array) -> Array:
    """bool `[B, C]`: which of the ads at these positions may serve each query; of no meaning outside 0..N-1."""

    def of_query(of_one: tuple[Rules, Array]) -> Array:
        rule, positions_C = of_one
        shift_C = (positions_C % WORD).astype(jnp.uint32)
        row = lambda r: attributes.bits_VW[r, positions_C // WORD] >> shift_C  # noqa: E731
        at = lambda x_N: x_N[positions_C]  # noqa: E731
        return _run(attributes, rule, row, at, lambda ok: ok.astype(jnp.uint32)) & 1 != 0

    return lax.map(of_query, (rules, positions_BC))


def _run(
    attributes: DeviceAttributes,
    rule: Rules,
    row: Callable[[Array], Array],
    at: Callable[[Array], Array],
    packed: Callable[[Array], Array],
) -> Array:
    """The program of one query on words, of which any bits may be those of ads.

    Args:
      row: the words of a row of bitmaps.
      at: of an array of all ads, what is asked for.
      packed: booleans of those as words.
    """
    everything = ~jnp.zeros_like(row(jnp.int32(0)))

    def compared(kept: Array) -> Array:
        ok: Any = True
        for i, number in enumerate(map(at, attributes.numbers.values())):
            ok = ok & (number >= rule.lows[i]) & (number <= rule.highs[i])
        for name in attributes.starts:
            ok = ok & (at(attributes.starts[name]) <= rule.now) & (at(attributes.ends[name]) > rule.now)
        return kept if ok is True else kept & packed(ok)

    large = [lambda i, x=x: packed(at(x) == rule.values[i]) for x in attributes.ids.values()]
    sources = [lambda i: row(rule.rows[i]), *large]

    def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        kept, hand = state
        source = jnp.maximum(rule.rows[i] - (attributes.bits_VW.shape[0] - 1), 0)
        hand = hand | lax.switch(source, sources, i)
        end = rule.ends[i]
        kept = jnp.where(end == AND, kept & hand, jnp.where(end == AND_NOT, kept & ~hand, kept))
        return kept, jnp.where(end == OPEN, hand, jnp.uint32(0))

    kept = lax.cond(rule.compares, compared, lambda kept: kept, everything)
    return lax.fori_loop(0, rule.lengths, step, (kept, jnp.zeros_like(everything)))[0]
