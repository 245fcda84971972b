"""Logged requests, replayed: does the same model still give the scores that were served?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from serving.request_log import LoggedQuery, RequestLogError, read_log
from serving.scorer import RequestError, Scorer
from tt_jax.columns import EncodeError
from tt_jax.features import Encoder
from tt_jax.profile import Profile

_AT_ONCE = 256
Logged = tuple[Path, int, LoggedQuery]  # file, line


@dataclass
class Differences:
    """Of numbers that were served to those replayed, absolute: how many, the largest, the sum."""

    count: int = 0
    largest: float = 0.0
    total: float = 0.0

    def add(self, difference: float) -> bool:
        """Whether it is the largest so far."""
        self.count, self.total = self.count + 1, self.total + difference
        largest = not difference <= self.largest
        self.largest = difference if largest else self.largest
        return largest

    @property
    def mean(self) -> float | None:
        """None without numbers."""
        return self.total / self.count if self.count else None


@dataclass
class Replayed:
    """What the replay of a log found.

    Attributes:
      queries: of the log.
      of_other_indexes: index -> queries that it answered, whose scores are therefore not compared.
      scores: differences, each as a share of the largest |score| of its answer, since a utility has any unit.
      probabilities: differences.
      worst: the ad whose score differs most: `file`, `line`, `ad`, and the scores `served` and `replayed`.
    """

    queries: int = 0
    of_other_indexes: dict[str, int] = field(default_factory=dict)
    scores: Differences = field(default_factory=Differences)
    probabilities: Differences = field(default_factory=Differences)
    worst: dict[str, Any] | None = None


def replay(scorer: Scorer, paths: Iterable[Path], serving: Profile) -> Replayed:
    """Scores the ads of every logged answer again, and adds every query to the profile.

    Raises `RequestLogError`, naming file and line, for a query of another bundle, one that the encoder refuses, or a
    line that is no query; also if there is no query, or none that the scorer's index answered.
    """
    encoder, found = Encoder(scorer.schema), Replayed()
    logged = ((path, line, query) for path in paths for line, query in read_log(path))
    while batch := list(islice(logged, _AT_ONCE)):
        for record in batch:
            if record[2].bundle != scorer.fingerprint:
                _refuse(record, f"answered by the bundle {record[2].bundle}, but this one is {scorer.fingerprint}")
        try:
            encoded = encoder.encode_queries([query.query for _, _, query in batch])
        except EncodeError as e:
            _refuse(batch[e.row or 0], f"feature {e.column!r}: {e.reason}")
        serving.add(encoded.arrays["query_ids"], encoded.arrays["query_floats"], encoded.missing)
        found.queries += len(batch)
        for record in batch:
            _compare(scorer, record, found)
    if not found.queries:
        raise RequestLogError(f"{', '.join(map(str, paths))}: no logged query")
    if sum(found.of_other_indexes.values()) == found.queries:
        others = ", ".join(found.of_other_indexes)
        raise RequestLogError(f"no query was answered by the index {scorer.index_id}, but by {others}")
    return found


def _compare(scorer: Scorer, record: Logged, found: Replayed) -> None:
    path, line, logged = record
    if logged.index != scorer.index_id:
        found.of_other_indexes[logged.index] = found.of_other_indexes.get(logged.index, 0) + 1
        return
    try:
        (again,) = scorer.score([logged.query], [[ad.id for ad in logged.ads]])
    except RequestError as e:
        _refuse(record, str(e))
    scale = max((abs(ad.score) for ad in logged.ads), default=0.0) or 1.0
    for served, replayed in zip(logged.ads, again, strict=True):
        if served.probabilities.keys() != replayed.probabilities.keys():
            _refuse(record, f"ad {served.id!r}: expected probabilities of {', '.join(scorer.schema.heads)}")
        for head, p in served.probabilities.items():
            found.probabilities.add(abs(p - replayed.probabilities[head]))
        if found.scores.add(abs(served.score - replayed.score) / scale):
            found.worst = {
                "file": str(path), "line": line, "ad": served.id, "served": served.score, "replayed": replayed.score,
            }  # fmt: skip


def _refuse(record: Logged, reason: str) -> NoReturn:
    path, line, _ = record
    raise RequestLogError(f"{path}, line {line}: {reason}")
