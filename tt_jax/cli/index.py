"""`tt-jax index`: embeds a corpus of ads, or changes of one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tt_jax.cli.runner import add_runner_arguments, runner_of

EXAMPLE = """  tt-jax index --bundle=bundles/kuairand --ads=prepared/kuairand/ads.parquet --out=indexes/kuairand
  tt-jax index --bundle=bundles/kuairand --delta-of=indexes/kuairand --ads=new.parquet --out=deltas/0001
  tt-jax index --bundle=bundles/kuairand --delta-of=deltas/0001 --changes=changes.parquet --out=deltas/0002
  tt-jax index --bundle=/shared/bundle --ads=/shared/ads.parquet --runner=ray --address=auto --out=/shared/index

The columns of --changes are the ad's id and any of bid, eligible and remove; null leaves it as it was."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True, help="directory that `tt-jax export` wrote")
    parser.add_argument("--ads", type=Path, help="Parquet: the ad features, the ad's id, bid, eligible")
    parser.add_argument("--out", type=Path, required=True, help="directory to create")
    parser.add_argument(
        "--dtype", choices=("f32", "bf16", "int8"), help="of the stored vectors (default f32; of a delta, its index's)"
    )
    parser.add_argument(
        "--delta-of", type=Path, metavar="INDEX", help="write changes of this index, or after this delta"
    )
    parser.add_argument("--changes", type=Path, help="Parquet: what changes of ads that are there; needs --delta-of")
    add_runner_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the index or the delta; prints its size."""
    if args.delta_of is not None:
        if args.dtype is not None:
            raise ValueError("--dtype: a delta has that of its index; leave it out")
        if args.runner != "stream":
            raise ValueError(f"--runner={args.runner}: a delta is made in this process; leave it out")
        put, marked = build_delta(args.bundle, args.delta_of, args.ads, args.changes, args.out)
        print(f"{put:,} ads embedded and {marked:,} changed to {args.out}", file=sys.stderr)
        return 0
    if args.changes is not None:
        raise ValueError("--changes: expected --delta-of, the index that they change")
    if args.ads is None:
        raise ValueError("expected --ads")
    from input_pipeline.blocks.manifest import ADS, MANIFEST
    from input_pipeline.blocks.prepared_set import PreparedSet
    from serving.index.build import build_index

    if args.ads.name == ADS and (args.ads.parent / MANIFEST).is_file():
        PreparedSet.open(args.ads.parent)  # raises where the corpus is not as `prepare` wrote it
    with runner_of(args) as runner:
        ads = build_index(args.bundle, args.ads, args.out, args.dtype or "f32", map_work=runner.map)
    print(f"{ads:,} ads embedded to {args.out}", file=sys.stderr)
    return 0


def build_delta(bundle: Path, base: Path, ads: Path | None, changes: Path | None, out: Path) -> tuple[int, int]:
    """Saves the delta of ads to put and of changes to others; returns the numbers of both."""
    from serving.index.delta import Base, make_delta
    from tt_jax.bundle.reader import Bundle
    from tt_jax.io.publish import require_absent
    from tt_jax.schema import SchemaError

    if ads is None and changes is None:
        raise ValueError("expected --ads, --changes or both")
    require_absent(out)
    tables = [None if path is None else _read(path) for path in (ads, changes)]
    try:
        delta = make_delta(Bundle.load(bundle), Base.read(base), *tables)
    except SchemaError as e:
        raise SchemaError(f"{' or '.join(str(p) for p in (ads, changes) if p is not None)}: {e}") from None
    delta.save(out)
    return len(delta.changes.vectors), len(delta.changes.updates.ids)


def _read(path: Path) -> Any:
    """The Arrow table of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read()
    except pa.ArrowInvalid as e:
        raise ValueError(f"{path}: not a readable Parquet file: {e}") from None
