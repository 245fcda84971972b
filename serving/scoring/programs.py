"""Compiled programs: one call takes encoded queries through the query tower to ranked ads, in a few fixed shapes.

A request is padded to the smallest shape that holds it. Programs are compiled ahead of time, so that nothing is traced
or compiled while requests are answered; weights, tables and ads are arguments, not constants of the programs.
"""

from __future__ import annotations

import copy
import math
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from serving.eligibility.device_attributes import WORD
from serving.index.ad_index import AdIndex
from serving.index.ad_table import CorpusUpdate
from serving.scoring.jitted import (
    QUERIES,
    Shape,
    State,
    at_least,
    attribute_change,
    change_shapes,
    lower,
    pad_lists,
    update_shape,
)
from serving.scoring.results import Encoded, Running
from serving.scoring.sharding import (
    WHOLE,
    ads_mesh,
    in_a_row,
    on_mesh,
    packed_attributes,
    packer,
    places_on,
    scratch_spec,
    shaped,
    spread,
)
from serving.scoring.top_k import TopK
from tt_jax.bundle.reader import Bundle
from tt_jax.models.two_tower import TwoTower
from tt_jax.utility import Utility

RESULTS = (128, 1024)  # and max_k
CANDIDATES = (1024, 16_384)  # and max_candidates
GROWTH = 1.25  # of the places when all are taken: every scan reads them all, so twice as many would cost twice the time


class Programs:
    """The programs of one bundle and one index, and the buffers that they use. Safe in threads, but see `updated`."""

    _pack: Any  # makes the corpus of this size from a smaller one; see `_of_size`

    def __init__(
        self,
        bundle: Bundle,
        index: AdIndex,
        max_k: int,
        max_candidates: int,
        places: int = 0,
        like: Programs | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        """`places`: for ads, at least. `like`: its compiled programs and its buffers are shared where they fit.
        `mesh`: of the devices that the ads are split over; None = that of `like`, or the first device."""
        utility = Utility.parse(bundle.manifest.utility, bundle.schema.heads, bundle.schema.utility_names)
        self._model, self._utility, self._max_k = bundle.model, utility, max_k
        self._candidates = _sizes(CANDIDATES, max_candidates)
        places = max(places, len(index.vectors))
        if like is not None and places <= like.places <= GROWTH * places:
            places = like.places  # a little more room than asked for, and nothing to compile
        used = tuple(t for t, name in enumerate(utility.tasks) if name in utility.names)
        if mesh is None:
            mesh = like._mesh if like else ads_mesh()
        self._mesh = in_a_row(mesh)
        places = places_on(self._mesh, places)
        parts: list[Any] = [spread(x, self._mesh, places) for x in (index.vectors, index.bids, index.valid)]
        parts.append(packed_attributes(index.attributes, self._mesh, places))
        corpus = packer(self._mesh, used, places, parts, donate=True)(*parts)
        curves = bundle.calibration.curves(bundle.schema) if bundle.calibration else None
        params, tables, curves = jax.device_put((bundle.params, bundle.tables, curves), on_mesh(self._mesh, WHOLE))
        self._state = State(params, tables, corpus, curves)
        self._prepare(like)
        self._spare = self._ads - len(index.vectors)

    def _prepare(self, like: Programs | None) -> None:
        """Empty collections of programs and buffers for the corpus at hand, or those of `like` if they fit it."""
        self._ads = len(self._state.corpus.valid_N)  # with the padding
        self._results = _sizes(RESULTS, min(self._max_k, self._ads))
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), self._state)
        self._fit = (self._model, self._utility, self._results, self._candidates, self._mesh, shapes)
        if like is not None and like._fit == self._fit:
            self._compiled, self._compiling = like._compiled, like._compiling
            self._scratch, self._scratch_locks = like._scratch, like._scratch_locks
            self._larger, self._growing, self._launching = like._larger, like._growing, like._launching
            return
        self._compiled: dict[Shape, Any] = {}
        self._compiling = threading.Lock()
        self._scratch: dict[int, Array] = {}  # by number of queries; a run consumes it and gives it back
        self._scratch_locks = {b: threading.Lock() for b in QUERIES}
        self._larger: dict[int, Programs] = {}  # by number of places, compiled ahead, without ads
        self._growing = threading.Lock()
        self._launching = threading.Lock()

    @property
    def model(self) -> TwoTower:
        """The model, without weights."""
        return self._model

    @property
    def memory(self) -> int:
        """Bytes of weights, tables and ads."""
        return sum(array.nbytes for array in jax.tree.leaves(self._state))

    @property
    def places(self) -> int:
        """For ads, empty ones included."""
        return self._ads

    @property
    def vector_shape(self) -> tuple[int, ...]:
        """`(T, D)`."""
        return self._state.corpus.rows_NTD.shape[1:]

    @property
    def vector_dtype(self) -> np.dtype:
        """Of the ads."""
        return self._state.corpus.rows_NTD.dtype

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of what ranks, each for all numbers of results, or lengths of lists. Long lists go one query at a time: on a
        CPU, 8 of 16,384 ads at once took 1.6x as long."""
        return (
            *(Shape("all", b, self._results[-1]) for b in QUERIES),
            *(Shape("candidates", b, self._longest(b)) for b in QUERIES),
        )

    def warm_up(self, changes: bool = False) -> None:
        """Compiles every program that ranks and is not compiled yet, and makes the buffers.

        `changes`: also those that changes of a few ads need.
        """
        self._compile((*self.shapes, *(change_shapes(self._model.schema) if changes else ())))
        for b, lock in self._scratch_locks.items():
            with lock:
                if b not in self._scratch:
                    self._scratch[b] = self._fresh_scratch(b)

    def _compile(self, shapes: Iterable[Shape]) -> None:
        with self._compiling, ThreadPoolExecutor(os.cpu_count()) as pool:
            # XLA compiles in parallel; tracing, which is Python, would not gain from it.
            missing = [shape for shape in shapes if shape not in self._compiled]
            compiled = [(shape, pool.submit(self._lower(shape).compile)) for shape in missing]
            self._compiled.update({shape: program.result() for shape, program in compiled})

    def best(self, encoded: Encoded, k: int) -> Running:
        """The best of all ads, at least min(k, N) of them, for at most `QUERIES[-1]` queries."""
        shape = Shape("all", at_least(QUERIES, len(encoded)), self._results[-1])
        which = np.int32(self._results.index(at_least(self._results, k)))
        return Running(self._run_on_scratch(shape, *encoded.padded(shape.queries), which), len(encoded))

    def all_utilities(self, encoded: Encoded) -> np.ndarray:
        """Utilities of all places, float32 `[n, N]`, -inf of what may not be returned. Waits; queries as of `best`."""
        shape = Shape("all", at_least(QUERIES, len(encoded)), self._results[-1])
        kept: list[np.ndarray] = []
        self._run_on_scratch(shape, *encoded.padded(shape.queries), np.int32(0), kept=kept)
        by_rows = self._state.corpus.reads_rows(shape.queries)
        return (kept[0].T if by_rows else kept[0])[: len(encoded)]

    def best_candidates(self, encoded: Encoded, positions: list[np.ndarray]) -> Running:
        """The best min(max_k, C) of a list of positions for each query; at most `queries_at_once(C)` queries."""
        size = at_least(self._candidates, max(map(len, positions)))
        queries, which = at_least(self._batches(size), len(encoded)), np.int32(self._candidates.index(size))
        shape = Shape("candidates", queries, self._longest(queries))
        lists = pad_lists(positions, shape)
        return Running(self._launch(shape, *encoded.padded(queries), which, lists), len(encoded))

    def scores(self, encoded: Encoded, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Utility `[C]` and probabilities `[T, C]` of the ads at these positions, for one query."""
        shape = Shape("score", 1, at_least(self._candidates, len(positions)))
        scores = self._launch(shape, *encoded.padded(1), pad_lists([positions], shape))
        utility, probabilities = jax.device_get(scores)
        return utility[0, : len(positions)], probabilities[:, 0, : len(positions)]

    def utilities(self, encoded: Encoded, positions: np.ndarray) -> np.ndarray:
        """Utilities `[B, C]` of as many ads for each query, `positions` int32 `[B, C]`; compiled for that shape."""
        shape = Shape("score", *positions.shape)
        return np.asarray(self._launch(shape, *encoded.padded(shape.queries), positions)[0])

    def gates(self, ids: np.ndarray, floats: np.ndarray) -> np.ndarray | None:
        """Gates `[T, E]` of the query tower for one query; None for kinds without. Compiled when first wanted."""
        gates_TEB = self._get(Shape("gates", 1, 0))(self._state.params, self._state.tables, ids, floats)
        return None if gates_TEB is None else np.asarray(gates_TEB[..., 0])

    def embed(self, ids: np.ndarray, floats: np.ndarray) -> Array:
        """Vectors `[n, T, D]` of n encoded ads; compiled for that n. Take one of `EMBEDDED`."""
        return self._get(Shape("embed", len(ids), 0))(self._state.params, self._state.tables, ids, floats)

    def prepare_update(self, update: CorpusUpdate) -> None:
        """Compiles what `updated` needs for it."""
        self._get(shape_of(update))

    def updated(self, update: CorpusUpdate) -> Programs:
        """These programs with changed ads. Consumes this object's ads: only the other one can be used from then on."""
        shape = shape_of(update)
        spare, more = (0, shape.queries - len(update.put)), (0, shape.size - len(update.marked))
        program = self._get(shape)
        other = copy.copy(self)
        corpus = program(
            self._state.corpus,
            np.pad(update.put, spare, constant_values=self._ads),
            np.pad(update.vectors, (spare, (0, 0), (0, 0))),
            np.pad(update.marked, more, constant_values=self._ads),
            np.pad(update.bids, more),
            np.pad(update.valid, more),
            attribute_change(update.attributes, update.marked, shape, self._ads),
        )
        other._state = self._state._replace(corpus=corpus)
        return other

    @property
    def next_places(self) -> int:
        """For how many ads there is to be room when all places are taken."""
        return math.ceil(GROWTH * self._ads)

    def nearly_full(self, ads: int) -> bool:
        """Whether that many ads leave a quarter, or less, of the places that were free when this size was made."""
        return self._ads - ads <= self._spare / 4

    def compile_ahead(self) -> None:
        """Compiles for `next_places` all that this size has, once. Needs no memory; ads may change meanwhile."""
        with self._growing:
            if self.next_places not in self._larger:
                larger = self._of_size(self.next_places)
                changes = [shape for shape in list(self._compiled) if shape.kind in ("embed", "update")]
                larger._compile([*larger.shapes, *changes])
                self._larger[self.next_places] = larger

    def grown(self, places: int) -> Programs:
        """The same ads with that many places, not compiled unless it was ahead. Both objects can be used."""
        with self._growing:  # if it is being compiled, that is awaited
            other = copy.copy(self._larger.get(places) or self._of_size(places))
        corpus = self._state.corpus
        packed = other._pack(corpus.rows_NTD, corpus.bids_N, corpus.valid_N, corpus.attributes)
        other._state = self._state._replace(corpus=packed)
        return other

    def _of_size(self, places: int) -> Programs:
        """With shapes in place of all arrays, and `_pack`, which gives the corpus of that size."""
        other = copy.copy(self)
        state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self._state)
        corpus = state.corpus
        parts = (corpus.rows_NTD, corpus.bids_N, corpus.valid_N, corpus.attributes)
        pack = packer(self._mesh, tuple(corpus.columns), places_on(self._mesh, places), parts)
        other._pack = pack.lower(*parts).compile()
        other._state = state._replace(corpus=shaped(jax.eval_shape(pack, *parts), self._mesh))
        other._prepare(None)
        other._spare = other._ads - self._ads
        return other

    def batch_key(self, k: int, candidates: int | None) -> Shape:
        """What a query must have in common with others to share a call: by how many at most, of how many results or of
        lists of what length."""
        if candidates is None:
            return Shape("all", QUERIES[-1], at_least(self._results, k))
        size = at_least(self._candidates, candidates)
        return Shape("candidates", self._batches(size)[-1], size)

    def queries_at_once(self, candidates: int) -> int:
        """How many queries with lists of that length `best_candidates` takes."""
        return self._batches(at_least(self._candidates, candidates))[-1]

    def _batches(self, size: int) -> tuple[int, ...]:
        return QUERIES if size == self._candidates[0] else (1,)

    def _longest(self, queries: int) -> int:
        """Length of the lists that a program takes for that many queries."""
        return self._candidates[-1 if queries == 1 else 0]

    def _get(self, shape: Shape) -> Any:
        if shape not in self._compiled:
            with self._compiling:
                if shape not in self._compiled:
                    self._compiled[shape] = self._lower(shape).compile()
        return self._compiled[shape]

    def _lower(self, shape: Shape) -> Any:
        return lower(shape, self._model, self._utility, self._results, self._candidates, self._state, self._mesh)

    def _run_on_scratch(self, shape: Shape, *arguments: Any, kept: list[np.ndarray] | None = None) -> TopK:
        """`kept`: gets a copy of all scores, for which this waits."""
        self._get(shape)  # before the lock
        with self._scratch_locks[shape.queries]:
            # Taken out while in use: a run that fails has consumed it.
            scratch = self._scratch.pop(shape.queries, None)
            scratch = self._fresh_scratch(shape.queries) if scratch is None else scratch
            top, self._scratch[shape.queries] = self._launch(shape, *arguments, scratch)
            if kept is not None:
                kept.append(np.array(self._scratch[shape.queries]))
        return top

    def _launch(self, shape: Shape, *arguments: Any) -> Any:
        """Starts a program on the state. Every device gets those that wait for each other in the same order."""
        program = self._get(shape)
        if self._mesh.size == 1:
            return program(self._state, *arguments)
        with self._launching:
            return program(self._state, *arguments)

    def _fresh_scratch(self, queries: int) -> Array:
        corpus = self._state.corpus
        shape, sharding = corpus.scratch_shape(queries), on_mesh(self._mesh, scratch_spec(corpus, queries))
        return jax.device_put(np.zeros(shape, np.float32), sharding)


def shape_of(update: CorpusUpdate) -> Shape:
    """Of the program that makes an update."""
    words = len(np.unique(update.marked // WORD)) if update.bits else 0
    return update_shape(len(update.put), len(update.marked), words)


def _sizes(usual: tuple[int, ...], largest: int) -> tuple[int, ...]:
    return (*(size for size in usual if size < largest), largest)
