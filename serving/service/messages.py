"""What the service reads and writes: typed messages, and how a body that does not fit is explained to the client."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from serving.batching.request import Work
from serving.eligibility.conditions import Condition, ConditionError, conditions_of
from serving.error_answer import shorten
from serving.index.ad_columns import AdId
from serving.scorer import RequestError, ScoredAd
from serving.scoring.explore import Explore, ExploreError
from tt_jax.io.strict_json import nearest

S = TypeVar("S", bound=Struct)
EXAMPLE = '{"query": {"<feature>": <value>, ...}, "k": 10}'


class RankRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/rank`: exactly one of `query` and `queries`. Feature values are checked by the encoder."""

    query: Annotated[dict[str, Any] | None, Meta(description="feature -> value; an absent feature is missing")] = None
    queries: Annotated[list[dict[str, Any]] | None, Meta(description="several queries, answered in order")] = None
    k: Annotated[int, Meta(description="ads per query, at least 1; /v1/model tells the most")] = 10
    candidates: Annotated[
        list[AdId | list[AdId]] | None,
        Meta(description="rank these ads only: the ids with `query`, one list of ids per query with `queries`"),
    ] = None
    model: Annotated[str | None, Meta(description="which model ranks, by a name of /v1/model")] = None
    context: Annotated[
        dict[str, Any] | list[dict[str, Any]] | None,
        Meta(description="what ads target, `now` in Unix seconds, request values: for all queries, or one for each"),
    ] = None
    where: Annotated[
        dict[str, Any] | list[dict[str, Any]] | None,
        Meta(description="attribute -> any, all, none, min, max, or a flag: for all queries, or one for each"),
    ] = None
    exclude: Annotated[
        list[AdId | list[AdId]] | None,
        Meta(description="ids of ads that are not wanted: for all queries, or one list of ids for each"),
    ] = None
    explore: Annotated[
        dict[str, Any] | None,
        Meta(description="gives a `share` of the slots to other ads, drawn from `seed`, `by` uniform or softmax"),
    ] = None


class Ads(Struct):
    """The ads of one query, best first."""

    ads: list[ScoredAd]


class RankAnswer(Struct):
    """Answer to a `query`: its ads, best first, and the fingerprints of the bundle and the index that ranked them."""

    ads: list[ScoredAd]
    bundle: str
    index: str


class BatchAnswer(Struct):
    """Answer to `queries`: one result per query, in order."""

    results: list[Ads]
    bundle: str
    index: str


class FeatureInfo(Struct, omit_defaults=True):
    """A feature of a query. `max_length`: values kept of a list. `dim`: length of a vector. `default`: if missing."""

    name: str
    kind: str
    dtype: str
    max_length: int | None = None
    dim: int | None = None
    default: str | int | float | None = None


class AttributeInfo(Struct):
    """An attribute of ads: `where` a request tells what it wants of it, in `context`, in `where`, or as `now`.

    `values` of a set: the first that ads of this index have had.
    """

    name: str
    kind: str
    where: str
    operators: tuple[str, ...] = ()
    dtype: str | None = None
    values: list[Any] = []


class RequestLimits(Struct):
    """Most of each in one request; `body` in bytes."""

    k: int
    queries: int
    candidates: int
    body: int


class ModelAnswer(Struct):
    """Answer of `GET /v1/model`.

    `models`: names that a request may give: of models, and of the pairs of those that have several. `model`: the pair
    that this is of. `name`: of its schema. `ads` are in the index, `eligible_ads` of them may be returned.
    """

    name: str
    tasks: tuple[str, ...]
    utility: str
    features: list[FeatureInfo]
    limits: RequestLimits
    bundle: str
    index: str
    ads: int
    eligible_ads: int
    versions: dict[str, str]
    model: str
    models: list[str]
    attributes: list[AttributeInfo] = []
    request_values: dict[str, float] = {}


_DECODER = msgspec.json.Decoder(RankRequest)

# The second is what Envoy, and with it Istio, tells a service by itself: how long the caller still waits.
DEADLINE_HEADERS = (b"x-deadline-ms", b"x-envoy-expected-rq-timeout-ms")


def read_deadline(headers: Iterable[tuple[bytes, bytes]], arrived: float) -> float:
    """When a request that came at the time `arrived` (s) must be answered, by its headers; inf if they do not say.

    Raises `RequestError` that names the header and its value.
    """
    deadline = math.inf
    for name, value in headers:
        if name in DEADLINE_HEADERS:
            if not (value.isdigit() and len(value) <= 9):
                got = shorten(value.decode("latin-1"))
                raise RequestError(f"header {name.decode()}: expected a whole number of milliseconds, got {got!r}")
            deadline = min(deadline, arrived + int(value) / 1e3)
    return deadline


def read_request(body: bytes) -> RankRequest:
    """Decodes a body. Raises `RequestError` as `read_body` does."""
    return read_body(body, _DECODER, EXAMPLE)


def read_body(body: bytes, decoder: msgspec.json.Decoder[S], example: str) -> S:
    """Decodes a body to a message, of which `example` is one.

    Raises `RequestError` that names the key and its value, or the place of the malformed JSON.
    """
    if not body.strip():
        raise RequestError(f"empty body; expected JSON such as {example}")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as e:
        raise RequestError(_explain_type(str(e), body, decoder.type.__struct_fields__)) from None
    except RecursionError:
        raise RequestError("invalid JSON: nested too deeply") from None
    except UnicodeDecodeError as e:
        raise RequestError(f"invalid JSON: a string is not UTF-8: {e.reason}") from None
    except msgspec.DecodeError as e:
        raise RequestError(_explain_syntax(str(e), body)) from None


def to_work(request: RankRequest, max_queries: int) -> Work:
    """The request as queries with a list of candidates and conditions each.

    Raises `RequestError` where parts do not match.
    """
    if (request.query is None) == (request.queries is None):
        which = "neither" if request.query is None else "both"
        raise RequestError(f"expected exactly one of 'query' and 'queries', got {which}; such as {EXAMPLE}")
    given = request.candidates
    if request.query is not None:
        for i, item in enumerate(given or ()):
            if isinstance(item, list):
                raise RequestError(f"candidates[{i}]: with 'query', expected an ad id, got {show(item)}")
        for key in ("context", "where"):
            if isinstance(part := getattr(request, key), list):
                raise RequestError(f"{key}: with 'query', expected an object, got {show(part)}")
        for i, item in enumerate(request.exclude or ()):
            if isinstance(item, list):
                raise RequestError(f"exclude[{i}]: with 'query', expected an ad id, got {show(item)}")
        lists: Any = None if given is None else [given]
        return Work([request.query], request.k, lists, request.model or "", _conditions(request, 1), _explore(request))
    queries = request.queries or []
    if not 1 <= len(queries) <= max_queries:
        raise RequestError(f"queries: expected 1 to {max_queries} queries, got {len(queries)}")
    for i, item in enumerate(given or ()):
        if not isinstance(item, list):
            raise RequestError(f"candidates[{i}]: with 'queries', expected a list of ad ids, got {show(item)}")
    if given is not None and len(given) != len(queries):
        raise RequestError(f"candidates: expected one list for each of {len(queries)} queries, got {len(given)}")
    conditions = _conditions(request, len(queries))
    lists = given
    return Work(queries, request.k, lists, request.model or "", conditions, _explore(request))


def _explore(request: RankRequest) -> Explore | None:
    try:
        return None if request.explore is None else Explore.of(request.explore)
    except ExploreError as e:
        raise RequestError(str(e)) from None


def _conditions(request: RankRequest, queries: int) -> list[Condition] | None:
    exclude = request.exclude or ()
    if len({isinstance(item, list) for item in exclude}) > 1:
        raise RequestError("exclude: expected ids of ads, or a list of ids for each query, got both")
    try:
        return conditions_of(queries, request.context or (), request.where or (), exclude)
    except ConditionError as e:
        raise RequestError(str(e)) from None


def show(value: Any) -> str:
    """A value as JSON, shortened."""
    return shorten(msgspec.json.encode(value).decode())


def _explain_type(message: str, body: bytes, keys: Iterable[str]) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.k`", with the name of the key first and the value itself."""
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message, re.DOTALL):
        name = unknown[1]
        return f"unknown key {show(name)}{nearest(name, keys)}"
    what, _, path = message.partition(" - at ")
    path = path.strip("`").removeprefix("$").removeprefix(".")
    if wrong := re.fullmatch(r"Expected `(.*)`, got `(.*)`", what):
        return f"{path or 'body'}: expected {wrong[1]}, got {_show_at(path, body) or wrong[2]}"
    return _explain_number(what, path, body)


class _Unread(Struct):
    query: dict[str, msgspec.Raw] = {}
    queries: list[dict[str, msgspec.Raw]] = []


def _explain_number(what: str, path: str, body: bytes) -> str:
    """A number out of range. msgspec's path ends at the query, so the feature is found by reading each on its own."""
    name, got = path or "body", ""
    try:
        unread = msgspec.json.decode(body, type=_Unread)
    except (ValueError, RecursionError):  # the number is elsewhere, or the rest of the body is malformed
        unread = _Unread()
    for query in (unread.query, *unread.queries):
        for feature, raw in query.items():
            try:
                msgspec.json.decode(raw)
            except ValueError:
                name, got = f"feature {feature!r}", f", got {shorten(bytes(raw).decode('utf-8', 'replace'))}"
    return f"{name}: {what[:1].lower()}{what[1:]}{got}; expected a number that fits a float64"


def _show_at(path: str, body: bytes) -> str | None:
    """The value at a path such as `candidates[3]`; None where the rest of the body is malformed or repeats a key."""
    try:
        value = msgspec.json.decode(body)
        for key, index in re.findall(r"(\w+)|\[(\d+)\]", path):
            value = value[key] if key else value[int(index)]
        return show(value)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _explain_syntax(message: str, body: bytes) -> str:
    """msgspec's "JSON is malformed: invalid character (byte 14)", with the text around that byte."""
    reason = message.removeprefix("JSON is malformed: ")
    if not (at := re.search(r"\(byte (\d+)\)", reason)):
        return f"invalid JSON: {reason}"
    position = int(at[1])
    near = body[max(0, position - 40) : position + 20].decode("utf-8", "replace")
    hint = ""
    if body[position : position + 1] in (b"N", b"I"):
        hint = "; NaN and Infinity are not JSON, null is a missing value"
    return f"invalid JSON: {reason}, near {near!r}{hint}"
