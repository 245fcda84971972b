"""Changes of the ads of a scorer: what can be done ahead, while it goes on serving, and the change itself.

scorer = prepare(scorer, changes, now()).apply(scorer)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from serving.index.ad_columns import embed_ads
from serving.index.ad_table import AdTable, CorpusUpdate
from serving.index.change_set import ChangeError, ChangeSet
from serving.index.compaction import Compacted
from serving.index.delta import Delta
from serving.index.journal import Records, read_journal
from serving.memory import require_room
from serving.scorer import Scorer
from serving.scoring.jitted import EMBEDDED
from serving.scoring.programs import Programs
from tt_jax.features.encoder import Encoder

HEADROOM = 1 / 16  # free places for new ads in a service whose ads change, as a share of the ads


@dataclass(frozen=True, eq=False)
class PreparedChange:
    """Changes of the ads of a scorer, from `before` to `after`, ready to be made. Made by `prepare`.

    `delta`: the same, to be kept.
    """

    before: AdTable
    after: AdTable
    update: CorpusUpdate
    programs: Programs
    delta: Delta

    def apply(self, scorer: Scorer) -> Scorer:
        """A scorer with the changed ads, within milliseconds. Consumes the one given, which nobody may use meanwhile.

        What that one has ranked, or started to rank, remains valid. Raises ValueError, and consumes nothing, if it is
        not the one that this was prepared for.
        """
        if self.before is not scorer.ads:
            raise ValueError("the change was prepared for other ads than these")
        return scorer.with_ads(self.after, self.programs.updated(self.update))


def prepare(scorer: Scorer, changes: ChangeSet, created: str, warm: bool = True) -> PreparedChange:
    """All of a set of changes that can be done ahead: checks them, makes and compiles what they need.

    Args:
      scorer: is not changed, but more memory may be in use.
      changes: with vectors of its bundle's ad tower.
      created: UTC, ISO 8601.
      warm: if the ads need more places, compile every program for those now.

    Raises `ChangeError`.
    """
    _check_vectors(scorer.programs, changes)
    after, update = scorer.ads.changed(changes, created)
    delta = Delta(changes, scorer.fingerprint, scorer.ads.version, after.created)
    return PreparedChange(scorer.ads, after, update, _ready(scorer.programs, after, update, warm), delta)


def _check_vectors(programs: Programs, changes: ChangeSet) -> None:
    got = changes.vectors
    if (got.dtype, got.shape[1:]) != (programs.vector_dtype, programs.vector_shape):
        expected = f"{programs.vector_dtype} {programs.vector_shape}"
        raise ChangeError(f"vectors: expected {expected} of an ad, got {got.dtype} {got.shape[1:]}")


def _ready(programs: Programs, after: AdTable, update: CorpusUpdate, warm: bool) -> Programs:
    """With room for the ads after an update, compiled if `warm`, and with what the update needs."""
    places = len(after.bids)
    if places > programs.places:
        programs = programs.grown(max(places, programs.next_places))
        if warm:
            programs.warm_up()
    programs.prepare_update(update)
    return programs


def restore(scorer: Scorer, compacted: Compacted) -> Scorer:
    """The scorer of an index as it was built, after all changes of a compacted journal. Consumes the one given.

    Raises `ChangeError` where they do not fit it.
    """
    _check_vectors(scorer.programs, compacted.changes)
    after, update = scorer.ads.restored(compacted.changes, compacted.places, compacted.version, compacted.created)
    return scorer.with_ads(after, _ready(scorer.programs, after, update, warm=False).updated(update))


def prepare_delta(scorer: Scorer, delta: Delta, warm: bool = True) -> PreparedChange:
    """As `prepare`. Raises `DeltaError` for a delta of another bundle or version, and `ChangeError` with its path."""
    delta.require_after(scorer.fingerprint, scorer.ads.version)
    try:
        return prepare(scorer, delta.changes, delta.created, warm)
    except ChangeError as e:
        raise ChangeError(f"{delta.path}: {e}") from None


def embed(scorer: Scorer, features: Mapping[str, Any], n: int) -> np.ndarray:
    """Vectors `[n, T, D]` of n raw ads, in the dtype of the index, by the encoder and the ad tower of the bundle.

    `features`: the columns of the ad tower. Raises `EncodeError` naming column, row and value.
    """
    programs = scorer.programs
    out = np.empty((n, *programs.vector_shape), programs.vector_dtype)
    batch = next((size for size in EMBEDDED if size >= n), EMBEDDED[-1])
    embed_ads(Encoder(scorer.schema), features, batch, programs.embed, out)
    return out


def load(
    bundle: str | Path,
    index: str | Path,
    deltas: str | Path | None = None,
    journal: str | Path | None = None,
    *,
    max_k: int = 1000,
    max_candidates: int = 16_384,
    live: bool = False,
    like: Scorer | None = None,
    warm: bool = True,
    mesh: Mesh | None = None,
) -> Scorer:
    """`Scorer.load`, then the deltas and the journal applied, then everything compiled.

    Args:
      bundle, index, deltas: directories; the deltas must all be of this index, without a gap.
      journal: of `serving.index.journal`, whose records of this index are applied after the deltas; made if it is not
      there.
      max_k, max_candidates: largest `k`, longest list of candidates.
      live: whether ads are going to change: makes room for new ones, and compiles what most changes need.
      like: a scorer whose compiled programs are used where they fit.
      warm: compile now; else each program is compiled when it is first needed.
      mesh: as of `Scorer.load`.

    Raises what `Scorer.load` does, `DeltaError`, `ChangeError` and `NoRoomError`.
    """
    require_room(bundle, index)
    changes = [] if deltas is None else Delta.load_all(deltas)
    headroom = HEADROOM if live else 0.0
    limits: Any = {"max_k": max_k, "max_candidates": max_candidates}
    scorer = Scorer.load(bundle, index, **limits, warm=False, headroom=headroom, like=like, mesh=mesh)
    records = Records(None, []) if journal is None else read_journal(Path(journal), scorer.ads.version.index_id)
    if (compacted := records.compacted) is not None:
        scorer = restore(scorer, compacted)
        changes = [delta for delta in changes if not compacted.passes(delta.after)]
    passed = {scorer.ads.version}
    for delta in changes:
        scorer = prepare_delta(scorer, delta, warm=False).apply(scorer)
        passed.add(scorer.ads.version)
    for delta in records.deltas:
        if delta.after not in passed:
            scorer = prepare_delta(scorer, delta, warm=False).apply(scorer)
    if warm:
        scorer.warm_up(changes=live)
    return scorer


@dataclass(frozen=True)
class Sources:
    """Directories of a bundle, an index and, if there are some, the deltas of that index and the journal."""

    bundle: Path
    index: Path
    deltas: Path | None = None
    journal: Path | None = None
