"""`tt-jax join`: a table of what was served, with propensities, features as they were served, and outcomes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.parity.request_log import LoggedQuery

EXAMPLE = """  tt-jax serve --bundle=B --index=I --log-requests=logged.jsonl --log-fraction=1
  tt-jax join --requests logged.jsonl --outcomes outcomes.jsonl --ads=ads.parquet --out=joined.parquet

A line of --outcomes is {"request": ID, "ad": AD, LABEL: NUMBER, ...}; ID is the header x-request-id of the answer, of
query i of several ID/i. Several lines may tell of one ad, each other labels. A row of the table is an ad of an answer;
an ad without an outcome has nulls. With --unserved also the other candidates of each request that explored, listed
them, and said nothing else of the ads it wants: `tt-jax evaluate --ips` needs them."""

OWN = ("request_id", "served_time", "served_slot", "served_score", "propensity", "complete")


class JoinError(ValueError):
    """A line that cannot be joined. The message names file, line and key."""


@dataclass
class Outcomes:
    """Labels of ads by request and ad, and the names of all labels. `told`: where each was told first."""

    of: dict[tuple[str, Any], dict[str, float]] = field(default_factory=dict)
    told: dict[tuple[str, Any], str] = field(default_factory=dict)
    labels: dict[str, None] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=Path, nargs="+", required=True, help="logs of `tt-jax serve --log-requests`")
    parser.add_argument("--outcomes", type=Path, nargs="+", required=True, help="what came of ads, as JSON lines")
    parser.add_argument("--out", type=Path, required=True, help="the table, a Parquet file")
    parser.add_argument("--ad-id", default="ad_id", help="column of the ad's id (default ad_id)")
    parser.add_argument("--ads", type=Path, help="Parquet file that the index was made of, for the ads' features")
    parser.add_argument("--unserved", action="store_true", help="also candidates that were not in the answer")


def run(args: argparse.Namespace) -> int:
    """Writes the table, and prints what of the logs is in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tt_jax.io.publish import sync

    outcomes = read_outcomes(args.outcomes)
    rows, used = joined_rows(args.requests, outcomes, args.ad_id, args.unserved)
    table = pa.Table.from_pylist(rows, schema=_types(rows, args.ad_id, outcomes))
    if args.ads:
        table = with_ads(table, pq.read_table(args.ads), args.ad_id, args.ads)
    partial = args.out.with_name(args.out.name + ".partial")
    pq.write_table(table, partial)
    sync(partial)
    partial.replace(args.out)
    served = sum("served_slot" in row for row in rows)
    print(f"{table.num_rows:,} rows of {len({row['request_id'] for row in rows}):,} requests: {served:,} served ads")
    print(
        f"{len(used):,} of them with an outcome; {len(outcomes.of) - len(used):,} outcomes without such a row", end=""
    )
    lost = next((where for key, where in outcomes.told.items() if key not in used), None)
    print(f", the first is {lost}" if lost else "")
    return 0


def read_outcomes(paths: Iterable[Path]) -> Outcomes:
    """Raises `JoinError` for a line that is none, OSError if there is no such file."""
    from tt_jax.io.strict_json import parse_json

    found = Outcomes()
    for path in paths:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            where = f"{path}, line {number}"
            row = parse_json(line, where, JoinError)
            if not isinstance(row, dict):
                raise JoinError(f'{where}: expected {{"request": ID, "ad": AD, LABEL: NUMBER}}, got {row!r}')
            key = _key(row, "request", (str,), where), _key(row, "ad", (str, int), where)
            known = found.of.setdefault(key, {})
            found.told.setdefault(key, where)
            for label, value in row.items():
                if label not in ("request", "ad"):
                    value = float(_key(row, label, (int, float), where))
                    if known.setdefault(label, value) != value:
                        was = f"{known[label]} was told before"
                        raise JoinError(f"{where}: {label!r} of ad {key[1]!r}, request {key[0]!r}: {value}, but {was}")
                    found.labels[label] = None
    return found


def _key(row: dict[str, Any], key: str, types: tuple[type, ...], where: str) -> Any:
    if key not in row:
        raise JoinError(f"{where}: {key!r}: the key is missing")
    if type(row[key]) not in types:
        raise JoinError(f"{where}: {key!r}: expected {' or '.join(t.__name__ for t in types)}, got {row[key]!r}")
    return row[key]


def joined_rows(
    paths: Iterable[Path], outcomes: Outcomes, ad_id: str, unserved: bool
) -> tuple[list[dict[str, Any]], set[tuple[str, Any]]]:
    """The rows, and which outcomes are in them. Raises `JoinError`, `RequestLogError`, OSError."""
    from serving.parity.request_log import read_log

    rows: list[dict[str, Any]] = []
    used: set[tuple[str, Any]] = set()
    seen: dict[str, str] = {}
    for path in paths:
        for line, logged in read_log(path):
            where = f"{path}, line {line}"
            if not logged.request:
                raise JoinError(f"{where}: 'request': expected an id; a log of an earlier version has none")
            if logged.request in seen:
                raise JoinError(f"{where}: 'request': {logged.request!r} was in {seen[logged.request]} already")
            seen[logged.request] = where
            taken = {*OWN, ad_id, *outcomes.labels}
            if clash := [name for name in logged.query if name in taken]:
                raise JoinError(f"{where}: {clash[0]!r}: a feature of a query has the name of a column of the table")
            whole = unserved and _is_complete(logged)
            shared = {**logged.query, "request_id": logged.request, "served_time": logged.time, "complete": whole}
            explored = logged.explore.get("share", 0) > 0
            for slot, ad in enumerate(logged.ads):
                key = logged.request, ad.id
                used |= {key} & outcomes.of.keys()
                mine = {
                    "served_slot": slot,
                    "served_score": ad.score,
                    "propensity": ad.propensity if explored else None,
                }
                rows.append({**shared, ad_id: ad.id, **mine, **outcomes.of.get(key, {})})
            if whole:
                served = {ad.id for ad in logged.ads}
                others = dict.fromkeys(ad for ad in logged.candidates or () if ad not in served)
                rows += [{**shared, ad_id: ad} for ad in others]
    return rows, used


def _is_complete(logged: LoggedQuery) -> bool:
    """Whether the candidates of a request are those that could have been in its answer, which explored."""
    said = logged.where or logged.exclude or logged.context
    return logged.candidates is not None and logged.explore.get("share", 0) > 0 and not said


def _types(rows: list[dict[str, Any]], ad_id: str, outcomes: Outcomes) -> Any:
    """The schema of the table: Arrow finds the types of features."""
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row)
    known = {
        "request_id": pa.string(), "served_time": pa.string(), "served_slot": pa.int32(), "served_score": pa.float64(),
        "propensity": pa.float64(), "complete": pa.bool_(), **dict.fromkeys(outcomes.labels, pa.float64()),
    }  # fmt: skip
    names |= dict.fromkeys((*OWN, ad_id, *outcomes.labels))
    fields = []
    for name in names:
        try:
            found = known.get(name) or pa.array([row.get(name) for row in rows]).type
        except (pa.ArrowInvalid, pa.ArrowTypeError) as e:
            raise JoinError(f"{name!r}: its values are not of one type: {e}") from None
        fields.append((name, found))
    return pa.schema(fields)


def with_ads(table: Any, ads: Any, ad_id: str, path: Path) -> Any:
    """The table with the columns of the ads; rows of ads that may not serve and were not served are left out.

    Raises `JoinError` for an ad that the file does not have, or has twice.
    """
    import pyarrow.compute as pc

    if ad_id not in ads.column_names:
        raise JoinError(f"{path}: {ad_id!r}: the column is missing")
    ids = ads.column(ad_id).combine_chunks()
    if len(ids.unique()) != len(ids):
        raise JoinError(f"{path}: {ad_id!r}: an ad is there twice")
    at = pc.index_in(table.column(ad_id).combine_chunks().cast(ids.type), ids)  # pyright: ignore[reportAttributeAccessIssue]
    if at.null_count:
        lost = table.column(ad_id)[at.is_null().index(True).as_py()]
        raise JoinError(f"{path}: {ad_id!r}: no ad {lost.as_py()!r}, which a request has")
    if clash := [name for name in ads.column_names if name != ad_id and name in table.column_names]:
        raise JoinError(f"{path}: {clash[0]!r}: the table has a column of this name already")
    for name in ads.column_names:
        if name != ad_id:
            table = table.append_column(name, ads.column(name).combine_chunks().take(at))
    if "eligible" in table.column_names:
        served = table.column("served_slot").is_valid()
        table = table.filter(pc.or_(table.column("eligible"), served))  # pyright: ignore[reportAttributeAccessIssue]
    return table
