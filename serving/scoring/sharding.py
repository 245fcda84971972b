"""The ads split over devices: each holds a range of positions, its part of every array, and scans those alone.

Inside `jax.shard_map` the functions of `serving.scoring.scan` run on every device as on one. N is then the places of a
device, and its `DeviceCorpus` is whole. What crosses devices is the best k of each, or the scores of a list. Model,
calibration and queries are whole on every device. One device is a mesh of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from serving.eligibility.ad_attributes import AdAttributes
from serving.eligibility.conditions import ConditionArrays
from serving.eligibility.device_attributes import WORD, AttributeChange, DeviceAttributes
from serving.scoring import scan as local
from serving.scoring.device_corpus import BLOCK, DeviceCorpus
from serving.scoring.top_k import TopK, one_of
from tt_jax.calibration.maps import Curves
from tt_jax.schema import AdAttribute
from tt_jax.utility import Utility

ADS = "ads"  # the axis of the mesh
WHOLE, LEADING, LAST = PartitionSpec(), PartitionSpec(ADS), PartitionSpec(None, ADS)


def ads_mesh(devices: int = 1) -> Mesh:
    """The first devices of this process. Raises ValueError if it has fewer."""
    found = jax.local_devices()
    if not 1 <= devices <= len(found):
        there = f"{len(found)} {found[0].platform} device{'s' if len(found) > 1 else ''}"
        raise ValueError(f"devices: expected 1..{len(found)}, as JAX finds {there} here, got {devices}")
    return in_a_row(Mesh(np.array(found[:devices]), (ADS,)))


def in_a_row(mesh: Mesh) -> Mesh:
    """The devices of a mesh as one of a single axis. Raises ValueError if one of them is of another process."""
    if mesh.is_multi_process:
        raise ValueError("mesh: expected devices of this process")
    return Mesh(mesh.devices.reshape(-1), (ADS,), axis_types=(AxisType.Auto,))


def corpus_specs(corpus: DeviceCorpus) -> DeviceCorpus:
    """How its arrays are split: along their leading axis, the ads, but for those named here."""
    specs = jax.tree.map(lambda _: LEADING, corpus)
    columns = jax.tree.map(lambda _: LAST, corpus.columns)
    attributes = corpus.attributes and attribute_specs(corpus.attributes)
    return replace(specs, columns=columns, starts=(WHOLE,) * len(corpus.starts), attributes=attributes)


def attribute_specs(attributes: DeviceAttributes) -> DeviceAttributes:
    """How the attributes of ads are split."""
    return replace(jax.tree.map(lambda _: LEADING, attributes), bits_VW=LAST)


def scratch_spec(corpus: DeviceCorpus, queries: int) -> PartitionSpec:
    """How the buffer of `DeviceCorpus.scratch_shape` is split."""
    return LEADING if corpus.reads_rows(queries) else LAST


def on_mesh(mesh: Mesh, specs: Any) -> Any:
    """Specs as shardings."""
    return jax.tree.map(partial(NamedSharding, mesh), specs, is_leaf=lambda x: isinstance(x, PartitionSpec))


def shaped(corpus: DeviceCorpus, mesh: Mesh) -> DeviceCorpus:
    """The shapes of a corpus, with how it is split."""
    shardings = on_mesh(mesh, corpus_specs(corpus))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), corpus, shardings)


def split(call: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """A function of a device's arrays as one of all devices' arrays."""
    # check_vma cannot tell that what was gathered from all devices is the same on all.
    return jax.shard_map(call, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def places_on(mesh: Mesh, ads: int) -> int:
    """Places for at least that many ads: of every device a whole number of blocks."""
    return -(-ads // (BLOCK * mesh.size)) * BLOCK * mesh.size


def spread(array: np.ndarray, mesh: Mesh, places: int) -> Array:
    """An array `[N, ...]` of the host on the devices, filled up with zeros to that many places. No copy of all."""

    def part(index: Any) -> np.ndarray:
        size = len(range(places)[index[0]])
        rows = array[index[0]]
        return np.pad(rows, ((0, size - len(rows)), *((0, 0),) * (array.ndim - 1))) if len(rows) < size else rows

    return jax.make_array_from_callback((places, *array.shape[1:]), NamedSharding(mesh, LEADING), part)


def packed_attributes(attributes: AdAttributes, mesh: Mesh, places: int) -> DeviceAttributes | None:
    """The attributes of ads on the devices, with that many places; None of a schema without."""
    if not attributes.schema:
        return None
    columns = {name: spread(column, mesh, places) for name, column in attributes.columns.items()}
    pack = partial(DeviceAttributes.pack, attributes.schema)
    specs = attribute_specs(jax.eval_shape(pack, columns))
    return jax.jit(split(pack, mesh, LEADING, specs), out_shardings=on_mesh(mesh, specs))(columns)


def packer(mesh: Mesh, scanned: tuple[int, ...], places: int, parts: Sequence[Any], donate: bool = False) -> Any:
    """`DeviceCorpus.pack` of arrays like these `parts`, on the devices, with that many `places_on` them; jitted.

    With other numbers of places than now, ads move between devices.
    """
    pack = partial(DeviceCorpus.pack, scanned=scanned)
    part_specs = [x and attribute_specs(x) if i == 3 else LEADING for i, x in enumerate(parts)]

    def padded(parts: Sequence[Any]) -> list[Any]:
        more = places - len(parts[0])
        *arrays, attributes = (jax.tree.map(lambda x: _longer(x, 0, more), part) for part in parts)
        if attributes:
            bits_VW = _longer(parts[3].bits_VW, 1, more // WORD)
            attributes = replace(attributes, bits_VW=bits_VW)
        return [*arrays, attributes]

    def packed(*parts: Any) -> DeviceCorpus:
        return split(pack, mesh, tuple(part_specs), specs)(*padded(parts))

    whole = jax.eval_shape(lambda *parts: padded(parts), *parts)
    local_parts = jax.tree.map(partial(_local, mesh), whole, part_specs)
    specs = corpus_specs(jax.eval_shape(pack, *local_parts))
    donated = tuple(range(len(parts))) if donate else ()
    return jax.jit(packed, donate_argnums=donated, out_shardings=on_mesh(mesh, specs))


def _longer(x: Array, axis: int, more: int) -> Array:
    return jnp.pad(x, [(0, more) if i == axis else (0, 0) for i in range(x.ndim)])


def _local(mesh: Mesh, x: Any, spec: PartitionSpec) -> Any:
    """The shape of a device's part."""
    return jax.ShapeDtypeStruct(NamedSharding(mesh, spec).shard_shape(x.shape), x.dtype)


def score_and_top_k(
    queries_TBD: Array,
    corpus: DeviceCorpus,
    biases_T: Array,
    utility: Utility,
    ks: tuple[int, ...],
    scratch: Array,
    curves: Curves | None,
    which: Array,
    conditions: ConditionArrays | None = None,
) -> tuple[TopK, Array]:
    """As the function of `serving.scoring.scan`, inside `split`, over the ads of all devices.

    The devices stand in order of their positions, so that equal utilities do too.
    """
    devices, n = lax.axis_size(ADS), corpus.valid_N.shape[0]
    conditions = conditions and own_conditions(conditions, corpus)
    top, scratch = local.score_and_top_k(queries_TBD, corpus, biases_T, utility, ks, scratch, curves, which, conditions)
    if devices == 1:
        return top, scratch
    top = replace(top, positions_Bk=top.positions_Bk + lax.axis_index(ADS) * n)

    def best(k: int) -> TopK:
        def everywhere(x: Array) -> Array:
            return lax.all_gather(x[..., :k], ADS, axis=x.ndim - 1, tiled=True)

        found = jax.tree.map(everywhere, top)
        return local.best_listed(found.utility_Bk, found.probabilities_TBk, found.positions_Bk, k)

    ks = tuple(min(k, devices * n) for k in ks)
    return one_of(which, [partial(best, k) for k in ks], max(ks)), scratch


def score_candidates(
    queries_TBD: Array,
    corpus: DeviceCorpus,
    biases_T: Array,
    utility: Utility,
    k: int,
    candidates_BC: Array,
    curves: Curves | None,
    conditions: ConditionArrays | None = None,
) -> TopK:
    """As the function of `serving.scoring.scan`, inside `split`, of the ads of all devices."""
    if lax.axis_size(ADS) == 1:
        return local.score_candidates(queries_TBD, corpus, biases_T, utility, k, candidates_BC, curves, conditions)
    own_BC = own(candidates_BC, corpus)
    scores = local.score_listed(queries_TBD, corpus, biases_T, utility, own_BC, curves, conditions)
    utility_BC, probabilities_TBC = scores
    probabilities_TBC = jnp.where(own_BC < corpus.valid_N.shape[0], probabilities_TBC, 0)
    top = local.best_listed(lax.pmax(utility_BC, ADS), probabilities_TBC, candidates_BC, k)
    return replace(top, probabilities_TBk=lax.psum(top.probabilities_TBk, ADS))


def score_positions(
    queries_TBD: Array,
    corpus: DeviceCorpus,
    biases_T: Array,
    utility: Utility,
    positions_BC: Array,
    curves: Curves | None,
    conditions: ConditionArrays | None = None,
) -> tuple[Array, Array]:
    """As the function of `serving.scoring.scan`, inside `split`, of the ads of all devices."""
    if lax.axis_size(ADS) == 1:
        return local.score_positions(queries_TBD, corpus, biases_T, utility, positions_BC, curves, conditions)
    own_BC = own(positions_BC, corpus)
    scores = local.score_positions(queries_TBD, corpus, biases_T, utility, own_BC, curves, conditions)
    return lax.psum(tuple(jnp.where(own_BC < corpus.valid_N.shape[0], x, 0) for x in scores), ADS)


def updated(
    schema: tuple[AdAttribute, ...],
    corpus: DeviceCorpus,
    put_P: Array,
    vectors_PTD: Array,
    marked_M: Array,
    bids_M: Array,
    valid_M: Array,
    changed: AttributeChange | None,
) -> DeviceCorpus:
    """`DeviceCorpus.updated` inside `split`, with positions and words over all devices."""
    marked_M, attributes = own(marked_M, corpus), corpus.attributes
    if attributes and changed:
        words_U = own(changed.words_U * WORD, corpus) // WORD
        attributes = attributes.updated(schema, marked_M, changed.columns_M, words_U, changed.columns_32U)
    return corpus.updated(own(put_P, corpus), vectors_PTD, marked_M, bids_M, valid_M, attributes)


def own_conditions(conditions: ConditionArrays, corpus: DeviceCorpus) -> ConditionArrays:
    """Conditions with positions over all devices as this device's."""
    of_query, places = conditions.excluded[:, 0], own(conditions.excluded[:, 1], corpus)
    return conditions._replace(excluded=jnp.stack([of_query, places], axis=1))


def own(positions: Array, corpus: DeviceCorpus) -> Array:
    """Positions over all devices as this device's; N where an ad is another's, or none."""
    n = corpus.valid_N.shape[0]
    places = positions - lax.axis_index(ADS) * n
    return jnp.where((places >= 0) & (places < n), places, n)
