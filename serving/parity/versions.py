"""A bundle and an index at each version that known changes lead to, for replays."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from serving.index.ad_index import AdIndex
from serving.index.change_set import IndexVersion
from serving.index.compaction import Compacted
from serving.index.delta import Delta, DeltaError
from serving.index.journal import Records, peek
from serving.scorer import Scorer
from serving.scorer_updates import prepare_delta, restore
from tt_jax.bundle.reader import Bundle

_TRIES = 3  # a service may compact the journal that is read


class PairVersions:
    """Scorers of one pair, one version at a time.

    Attributes:
      fingerprint: of the bundle.
      index_id: of the index as it was built.
    """

    def __init__(self, bundle: Bundle, index: AdIndex, deltas: Iterable[Delta] = (), records: Records | None = None):
        """`deltas`, `records`: of this index. Raises `IndexMismatchError`."""
        self.fingerprint, self.index_id = bundle.fingerprint, index.index_id
        self._bundle, self._index = bundle, index
        self._scorer, self._at = Scorer(bundle, index, warm=False), 0
        records = records or Records(None, [])
        self._steps = _steps(index.index_id, [*deltas, *records.deltas], records.compacted)
        versions = [IndexVersion.of(index.index_id), *(version for version, _ in self._steps)]
        self._places = {str(version): i for i, version in enumerate(versions)}

    def scorer(self, version: str) -> Scorer | None:
        """At a version, as answers name it; None if it is not known. Valid until the next call."""
        at = self._places.get(version)
        if at is None:
            return None
        if at < self._at:
            self._scorer, self._at = self._fresh(), 0
        while self._at < at:
            _, step = self._steps[self._at]
            if isinstance(step, Compacted):
                self._scorer = restore(self._fresh(), step)
            else:
                self._scorer = prepare_delta(self._scorer, step, warm=False).apply(self._scorer)
            self._at += 1
        return self._scorer

    def _fresh(self) -> Scorer:
        return Scorer(self._bundle, self._index, warm=False, like=self._scorer)


def read_records(journal: Path, index_id: str) -> Records:
    """Of an index, while a service may write and compact them. Raises `DeltaError` and OSError."""
    for left in reversed(range(_TRIES)):
        try:
            return peek(journal, index_id)
        except (DeltaError, OSError):
            if not left:
                raise
    raise AssertionError("not reached")


def _steps(
    index_id: str, deltas: list[Delta], compacted: Compacted | None
) -> list[tuple[IndexVersion, Delta | Compacted]]:
    """The changes that follow one another from the index as it was built; a compacted journal begins there anew."""
    steps, version = list[tuple[IndexVersion, Delta | Compacted]](), IndexVersion.of(index_id)
    changes = [(delta.before.sequence, delta) for delta in deltas]
    changes += [] if compacted is None else [(compacted.version.sequence - 0.5, compacted)]
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        if isinstance(change, Compacted):
            version = change.version
            steps.append((version, change))
        elif change.before == version:
            version = change.after
            steps.append((version, change))
    return steps
