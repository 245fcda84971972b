"""Changes of one index, made to another one as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.index.ad_index import now
from serving.index.change_set import AdUpdates, ChangeSet, as_ids, id_values
from serving.index.delta import Delta, DeltaError
from serving.index.journal import net_of
from serving.log_events import log_event
from serving.scorer import Scorer
from serving.scorer_updates import prepare


def load_carrying(
    load: Callable[[], Scorer], old: Scorer, deltas: Path | None, journal: Path | None, to: Path | None
) -> tuple[Scorer, Delta | None]:
    """What `load` gives, with the changes of the old scorer's index; and these as a delta, which no journal has yet.

    Args:
      old: that is served.
      deltas, journal: directories of its changes.
      to: the journal of the other one.

    Raises `DeltaError` without journals, and what `load` and `net_of` do.
    """
    if journal is None or to is None:
        raise DeltaError("carry: expected a service with a journal, which knows what has changed, got none")
    scorer, version = load(), old.ads.version
    loaded = scorer.ads.version
    if version == loaded or (version.index_id, journal) == (loaded.index_id, to):
        return scorer, None  # all of them are there
    changes = net_of(journal, deltas, old.ads)
    made = changes and carried(changes, old.fingerprint, scorer)
    changed, taken = (len(some.ids) + len(some.updates.ids) if some else 0 for some in (changes, made))
    log_event("carry", of=str(version), to=str(scorer.ads.version), changed_ads=changed, carried_ads=taken)
    if made is None:
        return scorer, None
    change = prepare(scorer, made, now())
    return change.apply(scorer), change.delta


def carried(changes: ChangeSet, fingerprint: str, scorer: Scorer) -> ChangeSet | None:
    """What of the changes of another index can be made to the ads of this scorer; None if nothing can.

    Updates of ads that it has. Ads that are put, if the same bundle made their vectors; else only their bid and
    eligibility, if it has the ad.

    Args:
      changes: of the other index, the net of all.
      fingerprint: of the bundle that made the vectors.
    """
    put, updates = id_values(changes.ids), changes.updates
    same = fingerprint == scorer.fingerprint and changes.vectors.dtype == scorer.programs.vector_dtype
    if changes.id_dtype != scorer.schema.ad_id_dtype:
        return None
    bids, valid = np.concatenate([updates.bids, changes.bids]), np.concatenate([updates.valid, changes.valid])
    removed = np.concatenate([updates.removed, np.zeros(len(put), np.bool_)])
    ids = [*id_values(updates.ids), *put]
    known = scorer.ads.ids.find(ids) >= 0
    if same:
        known[len(updates.ids) :] = False
    rows = np.flatnonzero(known)
    if len(rows) + same * len(put) == 0:
        return None
    some = [ids[row] for row in rows]
    kept = AdUpdates(as_ids(some, changes.id_dtype), bids[rows], valid[rows].astype(np.int8), removed[rows])
    if same:
        return replace(changes, updates=kept)
    vectors = np.empty((0, *scorer.programs.vector_shape), scorer.programs.vector_dtype)
    return ChangeSet(vectors, as_ids([], changes.id_dtype), changes.bids[:0], changes.valid[:0], kept)
