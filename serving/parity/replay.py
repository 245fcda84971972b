"""Logged requests, replayed: does the same model still give the scores that were served?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from serving.parity.profile import Profile
from serving.parity.request_log import LoggedQuery, RequestLogError, read_log
from serving.parity.versions import PairVersions
from serving.scorer import RequestError, Scorer
from tt_jax.features.columns import EncodeError
from tt_jax.features.encoder import Encoded, Encoder

_AT_ONCE = 256
Logged = tuple[Path, int, LoggedQuery]  # file, line


@dataclass
class Differences:
    """Of numbers that were served to those replayed, absolute: how many, the largest, the sum."""

    count: int = 0
    largest: float = 0.0
    total: float = 0.0

    def add(self, difference: float) -> None:
        """Adds one; NaN is the largest of all."""
        self.count, self.total = self.count + 1, self.total + difference
        self.largest = self.largest if difference <= self.largest else difference

    @property
    def mean(self) -> float | None:
        """None without numbers."""
        return self.total / self.count if self.count else None


@dataclass
class NotScored:
    """Queries that one index of one bundle answered at versions that are not known; the `versions`."""

    queries: int = 0
    versions: set[str] = field(default_factory=set)


@dataclass
class Replayed:
    """What the replay of a log found.

    Attributes:
      queries: of the log.
      scored: those whose scores are compared.
      wrong: those of them of which a score or a probability differs by more than is allowed.
      not_scored: (bundle, index_id) -> the others, by who answered them.
      unknown_features: feature that the schema does not have -> queries of other bundles that have it.
      not_encoded: reason -> queries of other bundles that the encoder refuses, whose features are not compared.
      scores: differences, each as a share of the largest |score| of its answer, since a utility has any unit.
      probabilities: differences.
      worst: what differs most: `file`, `line`, `ad`, the `number` ("score", or the head of a probability), how much it
        is `off`, and the numbers `served` and `replayed`.
    """

    queries: int = 0
    scored: int = 0
    wrong: int = 0
    not_scored: dict[tuple[str, str], NotScored] = field(default_factory=dict)
    unknown_features: dict[str, int] = field(default_factory=dict)
    not_encoded: dict[str, int] = field(default_factory=dict)
    scores: Differences = field(default_factory=Differences)
    probabilities: Differences = field(default_factory=Differences)
    worst: dict[str, Any] | None = None


def replay(
    pairs: Sequence[PairVersions], paths: Iterable[Path], serving: Profile, allowed: float, model: str | None = None
) -> Replayed:
    """Scores the ads of the logged answers again, and adds the queries to the profile.

    Args:
      pairs: at least one; scores are compared where one of them answered. The first one's encoder encodes all queries.
      paths: of the logs.
      serving: a profile of the first pair's schema.
      allowed: the largest difference of a score or a probability that is fine.
      model: only the queries that this one of several answered; None = all.

    Raises `RequestLogError`, naming file and line, for a line that is no query, or one of a known pair that this cannot
    have answered; also if there is no query.
    """
    encoder, result = Encoder(serving.schema), Replayed()
    logged = (
        (path, line, query) for path in paths for line, query in read_log(path) if model is None or query.model == model
    )
    while batch := list(islice(logged, _AT_ONCE)):
        own = [record for record in batch if record[2].bundle == pairs[0].fingerprint]
        others = [record for record in batch if record[2].bundle != pairs[0].fingerprint]
        if own:
            _add(serving, _encoded(encoder, own))
        _add_others(serving, encoder, [query.query for _, _, query in others], result)
        result.queries += len(batch)
        for record in batch:
            _compare(pairs, record, result, allowed)
    if not result.queries:
        of_model = "" if model is None else f" of the model {model!r}"
        raise RequestLogError(f"{', '.join(map(str, paths))}: no logged query{of_model}")
    return result


def _encoded(encoder: Encoder, records: list[Logged]) -> Encoded:
    try:
        return encoder.encode_queries([query.query for _, _, query in records])
    except EncodeError as e:
        _refuse(records[e.row or 0], f"feature {e.column!r}: {e.reason}")


def _add(serving: Profile, encoded: Encoded) -> None:
    serving.add(encoded.arrays["query_ids"], encoded.arrays["query_floats"], encoded.missing)


def _add_others(serving: Profile, encoder: Encoder, queries: list[dict[str, Any]], result: Replayed) -> None:
    """Queries of other bundles, whose schemas may be others."""
    names = {f.name for f in serving.schema.tower_features("query")}
    for name in (name for query in queries for name in query if name not in names):
        result.unknown_features[name] = result.unknown_features.get(name, 0) + 1
    known = [{name: value for name, value in query.items() if name in names} for query in queries]
    try:
        if known:
            _add(serving, encoder.encode_queries(known))
    except EncodeError as e:
        if len(known) == 1:
            reason = f"feature {e.column!r}: {e.reason}"
            result.not_encoded[reason] = result.not_encoded.get(reason, 0) + 1
        else:
            for query in known:
                _add_others(serving, encoder, [query], result)


def _compare(pairs: Sequence[PairVersions], record: Logged, result: Replayed, allowed: float) -> None:
    path, line, logged = record
    known = (pair.scorer(logged.index) for pair in pairs if pair.fingerprint == logged.bundle)
    scorer = next((scorer for scorer in known if scorer is not None), None)
    if scorer is None:
        by = result.not_scored.setdefault((logged.bundle, logged.index.partition("+")[0]), NotScored())
        by.queries += 1
        by.versions.add(logged.index)
        return
    result.scored += 1
    fine, scale = True, max((abs(ad.score) for ad in logged.ads), default=0.0) or 1.0
    for ad, again in zip(logged.ads, _scores(scorer, record), strict=True):
        if ad.probabilities.keys() != again.probabilities.keys():
            _refuse(record, f"ad {ad.id!r}: expected probabilities of {', '.join(scorer.schema.heads)}")
        numbers = [(head, p, again.probabilities[head], 1.0) for head, p in ad.probabilities.items()]
        for name, served, replayed, unit in [("score", ad.score, again.score, scale), *numbers]:
            off = abs(served - replayed) / unit
            (result.scores if name == "score" else result.probabilities).add(off)
            fine = fine and off <= allowed
            if result.worst is None or not off <= result.worst["off"]:
                result.worst = {
                    "file": str(path), "line": line, "ad": ad.id, "number": name,
                    "off": off, "served": served, "replayed": replayed,
                }  # fmt: skip
    result.wrong += not fine


def _scores(scorer: Scorer, record: Logged) -> list[Any]:
    try:
        (again,) = scorer.score([record[2].query], [[ad.id for ad in record[2].ads]], record[2].context)
    except RequestError as e:
        _refuse(record, str(e))
    return again


def _refuse(record: Logged, reason: str) -> NoReturn:
    path, line, _ = record
    raise RequestLogError(f"{path}, line {line}: {reason}")
