"""Which pair of a bundle and an index ranks a request: by the model that it names, by its scenario, by a split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from serving.batching.request import Work
from serving.error_answer import shorten
from serving.scorer import RequestError, Scorer


@dataclass(frozen=True)
class Routes:
    """How requests find a pair.

    Attributes:
      models: model -> pair -> its weight, at first.
      shadows: model -> the pair that shadows it, and the share of its requests.
      by: "scenario" sends a request that names no model to the one that covers its scenario; "" = it must name one if
        there are several.
      split_by: the feature of a query that decides between the pairs of a model; "" = the schema's user id if that is
        a feature of a query, else the id of the request.
    """

    models: Mapping[str, Mapping[str, float]]
    shadows: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    by: str = ""
    split_by: str = ""

    @staticmethod
    def of(scorers: Mapping[str, Scorer]) -> Routes:
        """A model for each pair."""
        return Routes({name: {name: 1.0} for name in scorers})


class Router:
    """The routes of one service. `scorers`: what serves, by pair, also after swaps. Raises ValueError for routes that
    these models cannot have."""

    def __init__(self, routes: Routes, scorers: Mapping[str, Scorer]) -> None:
        self.routes, self._scorers = routes, scorers
        self._weights = {model: dict(pairs) for model, pairs in routes.models.items()}
        self.model_of = {pair: model for model, pairs in routes.models.items() for pair in pairs}
        self.model_of |= {pair: model for model, (pair, _) in routes.shadows.items()}
        self._covered: tuple[tuple[str, ...], str, dict[str, str]] = (), "", {}
        for pair, scorer in scorers.items():
            self.check(pair, scorer)

    @property
    def models(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._weights)

    def require(self, name: str | None, names: Sequence[str]) -> str:
        """One of the names, which need not be told if there is one. Raises `RequestError` that has them all."""
        if name is None and len(names) == 1:
            return names[0]
        if name is None or name not in names:
            got = "none" if name is None else shorten(repr(name))
            raise RequestError(f"model: expected one of {', '.join(map(repr, names))}, got {got}")
        return name

    def routed(self, work: Work, request_id: str) -> Work:
        """A request with the pair that ranks it. Raises `RequestError`."""
        model = work.model or (self._by_scenario(work.queries) if self.routes.by else None)
        if model in self._scorers and model not in self._weights:
            return work  # it names a pair itself
        pairs = self._weights[self.require(model, self.models)]
        chosen = next(iter(pairs)) if len(pairs) == 1 else self._split(model or self.models[0], work, request_id)
        return replace(work, model=chosen)

    def weights(self, model: str) -> dict[str, float]:
        """Of the pairs of a model."""
        return dict(self._weights[model])

    def set_weights(self, model: str, weights: Mapping[str, float]) -> None:
        """Changes the split of a model from the next request on. Raises `RequestError`."""
        pairs = self._weights[model]
        if weights.keys() != pairs.keys():
            raise RequestError(f"weights: expected those of {', '.join(pairs)}, got {shorten(repr(dict(weights)))}")
        if not (all(0 <= weight < float("inf") for weight in weights.values()) and sum(weights.values()) > 0):
            raise RequestError(f"weights: expected numbers >= 0, one above 0, got {shorten(repr(dict(weights)))}")
        self._weights[model] = dict(weights)

    def check(self, pair: str, scorer: Scorer) -> None:
        """Raises ValueError unless this scorer may serve as that pair, as far as routes go."""
        model, features = self.model_of[pair], {f.name for f in scorer.schema.tower_features("query")}
        several, by = len(self._weights[model]) > 1, self.routes.split_by
        if several and by and by not in features:
            raise ValueError(f"split_by: expected a feature of a query of {scorer.schema.name}, got {by!r}")
        if self.routes.by:
            if scorer.schema.scenario not in features:
                raise ValueError(
                    f"route: expected the scenario, {scorer.schema.scenario!r}, as a feature of a query of "
                    f"{scorer.schema.name}, whose features are {', '.join(sorted(features))}"
                )
            _coverage(self.routes, {**self._scorers, pair: scorer})

    def _by_scenario(self, queries: Sequence[Mapping[str, Any]]) -> str:
        fingerprints = tuple(scorer.fingerprint for scorer in self._scorers.values())
        if fingerprints != self._covered[0]:
            self._covered = fingerprints, *_coverage(self.routes, self._scorers)
        _, feature, models = self._covered
        found = ""
        for i, query in enumerate(queries):
            value = query.get(feature) if isinstance(query, Mapping) else None
            model = models.get(str(value)) if isinstance(value, str | int) else None
            if model is None:
                got = "none" if value is None else shorten(repr(value))
                expected = f"one of {', '.join(map(repr, models))}, which models cover, or a 'model' in the request"
                raise RequestError(f"query {i}: feature {feature!r}: expected {expected}, got {got}")
            if found and model != found:
                raise RequestError(
                    f"query {i}: feature {feature!r}: expected queries of one model, got {value!r} of {model!r} after "
                    f"those of {found!r}"
                )
            found = model
        return found

    def _split(self, model: str, work: Work, request_id: str) -> str:
        pairs, query = self._weights[model], work.queries[0]
        by = self.routes.split_by or self._scorers[next(iter(pairs))].schema.user_id
        value = query.get(by) if isinstance(query, Mapping) else None
        key = msgspec.json.encode(request_id if value is None else value)
        point = position(model, key) * sum(pairs.values())
        for pair, weight in pairs.items():
            point -= weight
            if point < 0:
                return pair
        return max(pairs, key=lambda pair: pairs[pair])  # what rounding left


def position(salt: str, key: bytes) -> float:
    """A point of [0, 1) that is always the same for a key, and independent for another salt."""
    digest = hashlib.blake2b(salt.encode() + b"\0" + key, digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


def _coverage(routes: Routes, scorers: Mapping[str, Scorer]) -> tuple[str, dict[str, str]]:
    """The feature that has the scenario, and scenario -> model. Raises ValueError where these are not clear."""
    feature, found = "", dict[str, str]()
    for model, pairs in routes.models.items():
        schemas = {pair: scorers[pair].schema.scenario for pair in pairs}
        for pair, scenario in schemas.items():
            if feature and scenario != feature:
                raise ValueError(f"route: expected one feature for the scenario, got {scenario!r} of {pair} too")
            feature = scenario
        covered = {pair: scorers[pair].covers(model) for pair in pairs}
        scenarios, *others = covered.values()
        if any(set(other) != set(scenarios) for other in others):
            raise ValueError(f"route: expected pairs of {model} that cover the same scenarios, got {covered}")
        for scenario in scenarios:
            if scenario in found:
                raise ValueError(f"route: two models for the scenario {scenario!r}: {found[scenario]} and {model}")
            found[scenario] = model
    return feature, found
