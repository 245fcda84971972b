"""`tt-jax score`: ranks ads for one request and prints JSON."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

EXAMPLE = """  tt-jax score --bundle=bundles/kuairand --index=indexes/kuairand --request=request.json --k=10

The request is the service's: {"query": {feature: value, ...}, "candidates": [ids]?, "context": {}?, "where": {}?,
"exclude": [ids]?}."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True, help="directory that `tt-jax export` wrote")
    parser.add_argument("--index", type=Path, required=True, help="directory that `tt-jax index` wrote")
    parser.add_argument("--request", type=Path, required=True, help="JSON file")
    parser.add_argument("--k", type=int, default=10, help="ads to return (default 10)")


def run(args: argparse.Namespace) -> int:
    """Prints the ranked ads."""
    from serving import RequestError, Scorer

    try:
        request = json.loads(args.request.read_text(encoding="utf-8"), parse_constant=_refuse)
    except ValueError as e:
        raise ValueError(f"{args.request}: not valid JSON: {e}") from None
    if not isinstance(request, dict) or not isinstance(request.get("query"), dict):
        raise ValueError(f'{args.request}: expected {{"query": {{feature: value, ...}}}}')
    known = ("query", "candidates", "context", "where", "exclude")
    if unknown := request.keys() - set(known):
        raise ValueError(f"{args.request}: unknown key {sorted(unknown)[0]!r}; expected {', '.join(known)}")
    said = {key: request[key] for key in known[2:] if key in request}
    for key, kind in (("context", dict), ("where", dict), ("exclude", list)):
        if not isinstance(said.get(key, kind()), kind):
            raise ValueError(f"{args.request}: {key}: expected a JSON {'list' if kind is list else 'object'}")
    candidates = request.get("candidates")
    scorer = Scorer.load(args.bundle, args.index, max_k=max(1000, args.k), warm=False)
    try:
        ranked = scorer.top_k([request["query"]], args.k, None if candidates is None else [candidates], **said)[0]
    except RequestError as e:
        raise RequestError(f"{args.request}: {e}") from None
    shown = [{key: value for key, value in asdict(ad).items() if key != "propensity"} for ad in ranked]
    print(json.dumps({"ads": shown}, indent=1))
    return 0


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
