"""`tt-jax parity`: are served requests what the model was trained on, and scored as it scores?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tt_jax.cli.table import text_table

if TYPE_CHECKING:
    from input_pipeline.blocks.prepared_set import PreparedSet
    from serving.parity.profile import Profile

EXAMPLE = """  tt-jax serve --bundle=B --index=I --log-requests=logged.jsonl --log-fraction=0.01
  tt-jax parity --bundle=B --index=I --requests logged.jsonl --data=prepared/kuairand --out=parity --ignore=day

Logged requests are scored again and compared with what was served. Each query feature is compared with the training
rows: how often it is missing, or looks to the model as if it were (default), a number out of training's range, an id
that training never had, and the distance between a number's distributions. A threshold is the largest difference of
two such rates that is fine. In a log of n queries a rate is off by chance by about 1 / sqrt(n).

Features are compared of all queries, scores of those that a given pair answered: --also gives other pairs of a log
that spans a swap, --deltas and --journal what ads that changed have become. The rest is counted and told.

Exit code: 0 pass, also if no score could be checked, which the verdict says; 1 past a threshold; 2 bad input."""
# Largest differences that are fine, by figure of `serving.parity.profile`, and what each says.
THRESHOLDS = {
    "missing": (0.1, "share of queries without a value"),
    "default": (0.1, "share of queries that are encoded as if it were missing"),
    "out_of_range": (0.05, "share of numbers outside of the central 99.9%% of training"),
    "unseen": (0.1, "share of ids that training never had; on the held-out split in place of training"),
    "distance": (0.25, "Kolmogorov-Smirnov distance of a number's distributions"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True, help="that answered the requests; its encoder is used")
    parser.add_argument("--index", type=Path, required=True, help="that answered them")
    parser.add_argument(
        "--also", type=Path, nargs=2, action="append", default=[], metavar=("BUNDLE", "INDEX"),
        help="another pair that answered some of them; may be given again",
    )  # fmt: skip
    parser.add_argument("--deltas", type=Path, help="directory of the deltas of --index that the service had")
    parser.add_argument("--journal", type=Path, help="directory of the service's journal; it may be running")
    parser.add_argument("--requests", type=Path, nargs="+", required=True, help="logs of `tt-jax serve --log-requests`")
    parser.add_argument("--model", help="of a log of several models: only what this one answered (default all)")
    parser.add_argument("--data", type=Path, required=True, help="prepared set that the bundle was trained on")
    parser.add_argument("--out", type=Path, help="directory for parity.json and parity.html")
    parser.add_argument("--train-splits", help="as `a,b`; the default are those of the bundle's configuration")
    parser.add_argument("--held-out", help="split of data not trained on; the default is the bundle's eval split")
    parser.add_argument("--ignore", default="", help="features that are to differ, as `day,hour`: shown, but fine")
    parser.add_argument(
        "--max-score-difference", type=float,
        help="of a score, relative to its answer's largest, and of a probability (default: as the golden rows')",
    )  # fmt: skip
    for figure, (default, what) in THRESHOLDS.items():
        flag = f"--max-{figure.replace('_', '-')}"
        parser.add_argument(flag, type=float, default=default, help=f"{what} (default {default})")


def run(args: argparse.Namespace) -> int:
    """Prints the features and what is past a threshold; writes JSON and HTML."""
    from tt_jax.io.publish import write_json

    report = compare(load(args), args.requests, args.model)
    print(report["verdict"])
    for i, finding in enumerate(report["findings"], 1):
        print(f"  {i}. {finding}")
    print(table(report))
    if args.out:
        from tt_jax.report.parity import parity_page

        write_json(args.out / "parity.json", report)
        (args.out / "parity.html").write_text(parity_page(report), encoding="utf-8")
    return 1 if report["findings"] else 0


@dataclass(frozen=True)
class Expected:
    """What logged requests are held against: `PairVersions`, and `Profile`s of training and of held-out rows of the set
    `data` (its fingerprint); the largest difference that is fine, by figure and of a `score`; features to ignore."""

    pairs: list[Any]
    training: Any
    held_out: Any
    splits: tuple[str, ...]
    data: str
    thresholds: dict[str, float]
    ignored: list[str]


def load(args: argparse.Namespace) -> Expected:
    """Reads bundle, index and training data. Raises `ValueError` where they do not fit together."""
    from input_pipeline.blocks.prepared_set import PreparedSet
    from tt_jax.bundle.reader import GOLDEN_TOLERANCE, Bundle
    from tt_jax.io.strict_json import nearest

    bundle, prepared = Bundle.load(args.bundle), PreparedSet.open(args.data)
    if prepared.schema.features != bundle.schema.features:
        raise ValueError(f"{args.data}: prepared with other features than those of {args.bundle}")
    names = [f.name for f in bundle.schema.tower_features("query")]
    ignored = [name for name in args.ignore.split(",") if name]
    for name in ignored:
        if name not in names:
            raise ValueError(f"--ignore: unknown query feature {name!r}{nearest(name, names)}")
    data = bundle.config.data
    splits = tuple(args.train_splits.split(",")) if args.train_splits else data.train_splits
    training = _profile_queries(prepared, splits, data.scenarios)
    held_out = _profile_queries(prepared, (args.held_out or data.eval_split,), data.scenarios, training)
    allowed = args.max_score_difference
    thresholds = {"score": GOLDEN_TOLERANCE[bundle.model.precision] if allowed is None else allowed}
    thresholds |= {figure: getattr(args, f"max_{figure}") for figure in THRESHOLDS}
    pairs = [_pair(bundle, args.index, args.deltas, args.journal)]
    pairs += [_pair(Bundle.load(other), index, None, args.journal) for other, index in args.also]
    return Expected(pairs, training, held_out, splits, prepared.fingerprint, thresholds, ignored)


def _pair(bundle: Any, index: Path, deltas: Path | None, journal: Path | None) -> Any:
    from serving.index.ad_index import AdIndex
    from serving.index.delta import Delta
    from serving.parity.versions import PairVersions, read_records

    bundle.replay_golden()
    loaded = AdIndex.load(index)
    records = None if journal is None else read_records(journal, loaded.index_id)
    return PairVersions(bundle, loaded, [] if deltas is None else Delta.load_all(deltas), records)


def compare(expected: Expected, requests: Sequence[Path], model: str | None = None) -> dict[str, Any]:
    """What `parity.json` holds. Raises `RequestLogError` for what is no log."""
    from serving.parity.profile import Profile, compare_profiles
    from serving.parity.replay import replay
    from tt_jax.report.parity_verdict import findings, verdict

    first, *also = expected.pairs
    serving = Profile(expected.training.schema, expected.training)
    replayed = replay(expected.pairs, requests, serving, expected.thresholds["score"], model)
    scores = {
        name: {"compared": d.count, "largest": d.largest, "mean": d.mean}
        for name, d in (("score", replayed.scores), ("probability", replayed.probabilities))
    }
    report = {
        "bundle": first.fingerprint,
        "index": first.index_id,
        "also": [[pair.fingerprint, pair.index_id] for pair in also],
        "data": expected.data,
        "requests": [str(path) for path in requests],
        "queries": replayed.queries,
        "scored": replayed.scored,
        "wrong_scores": replayed.wrong,
        "not_scored": [
            {"bundle": bundle, "index": index, "queries": some.queries, "versions": len(some.versions)}
            for (bundle, index), some in replayed.not_scored.items()
        ],
        "unknown_features": replayed.unknown_features,
        "not_encoded": replayed.not_encoded,
        "training": {
            "splits": expected.splits, "rows": expected.training.rows, "held_out": expected.held_out.rows,
        },
        "thresholds": expected.thresholds,
        "ignored": expected.ignored,
        "scores": {**scores, "worst": replayed.worst},
        "features": compare_profiles(expected.training, expected.held_out, serving),
    }  # fmt: skip
    found = {"findings": findings(report)}
    return {"verdict": verdict(report | found), **found, **report}


def table(report: Mapping[str, Any]) -> str:
    """A line a feature: serving - training of each figure; then the scores, and what was not compared."""
    from tt_jax.report.parity_verdict import counted

    rows = []
    for feature, figures in report["features"].items():
        cells = [f"{figures[name]['difference']:+.4f}" if name in figures else "-" for name in THRESHOLDS]
        rows.append([f"  {feature}", *cells, "(ignored)" if feature in report["ignored"] else ""])
    rows.append(["  (allowed)", *(f"{report['thresholds'][name]:g}" for name in THRESHOLDS)])
    lines = text_table(["serving - training", *THRESHOLDS], rows, "l" + "r" * len(THRESHOLDS) + "l")
    for name in ("score", "probability"):
        d = report["scores"][name]
        shown = "none compared"
        if d["compared"]:
            allowed = f"{report['thresholds']['score']:g} is allowed"
            shown = (
                f"{d['compared']:,} compared, largest difference {d['largest']:.3g}, mean {d['mean']:.3g}; {allowed}"
            )
        lines.append(f"{name}: {shown}")
    return "\n".join([*lines, *counted(report)])


def _profile_queries(
    prepared: PreparedSet, splits: Sequence[str], scenarios: Sequence[str], known: Profile | None = None
) -> Profile:
    """The queries of a prepared set, counted as served ones are: every row of some scenarios of some splits.

    What is missing is counted in the manifest.

    Raises `PreparedError` where there is nothing to read.
    """
    from serving.parity.profile import Profile

    profile = Profile(prepared.schema, known)
    blocks = prepared.blocks(splits, scenarios, ("query_ids", "query_floats"))
    for i in range(len(blocks)):
        block = blocks[i]
        profile.add(block["query_ids"], block["query_floats"])
    for split in splits:
        for scenario in scenarios or prepared.schema.scenarios:
            counts = prepared.manifest.splits[split][scenario]
            for name in profile.missing:
                coverage = counts.coverage[name]
                profile.missing[name] += 0 if coverage is None else round(counts.rows * (1 - coverage))
    return profile
