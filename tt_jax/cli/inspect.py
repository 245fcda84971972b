"""`tt-jax inspect`: what is in a log, before anything is trained on it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tt_jax.cli.recipe import load_recipe
from tt_jax.cli.runner import add_runner_arguments, add_skip_unknown, runner_of
from tt_jax.cli.table import text_table

EXAMPLE = """  tt-jax inspect --data=data/kuairand_pure --recipe=kuairand --out=inspected
  tt-jax inspect --data='logs/*.parquet' --labels=is_click,long_view --scenario=tab --time=time_ms --out=inspected
  tt-jax inspect --data=s3://logs/2026 --runner=ray --address=auto --out=inspected

With a recipe, --data is its source, and features, labels and splits are its own. Without, --data is what can be read: a
file, a glob, a directory; each column counts by its type. It is one pass in bounded memory: beyond bounds that the
report names, distinct values and duplicates are estimated, frequent values have an error bound, quantiles, drift and
leaks are of a uniform sample of rows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="file, glob or directory of a raw log; of a recipe its source")
    parser.add_argument(
        "--recipe", help="adworld, census, kuairand, or a Python file of your own: the log as it would be prepared"
    )
    parser.add_argument("--out", type=Path, help="directory for inspect.json and inspect.html")
    parser.add_argument(
        "--labels", default="", help="labels of a raw log, columns or comparisons, as `clicked,rating>=4`"
    )
    parser.add_argument("--scenario", default="", help="scenario column of a raw log")
    parser.add_argument(
        "--time",
        default="",
        help="time column of a raw log, in any spelling; drift is then told of one split too",
    )
    parser.add_argument(
        "--delimiter", default="", help="between the cells of a raw log's CSV: `;`, `|`, tab, ...; default: found"
    )
    parser.add_argument(
        "--missing", default="", metavar="A,B", help="cells of a raw log that stand for a missing value, as `NA,-`"
    )
    parser.add_argument(
        "--no-quotes", action="store_true", help="quotes in a raw log's CSV are text, and not around its cells"
    )
    add_skip_unknown(parser)
    add_runner_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the columns and what deserves a look; writes JSON and HTML."""
    from input_pipeline.inspect.report import report_of
    from input_pipeline.inspect.survey import Log, merged, surveys
    from input_pipeline.readers import STRICT, SkipUnknown
    from tt_jax.io.progress import Progress
    from tt_jax.io.publish import write_json

    if args.out:
        import tt_jax.report.inspection  # noqa: F401  a package that it needs is missed before the work, not after it
    roles = _roles(args)
    errors = SkipUnknown() if args.skip_unknown else STRICT
    log = Log(args.data, args.recipe, errors, _text(args), partial(load_recipe, verb="inspect"))
    with runner_of(args) as runner, Progress("inspect", "rows") as progress:
        if args.runner == "ray":
            whole = merged(progress.track(surveys(log, roles, runner), lambda survey: survey.rows), roles)
        else:
            whole = merged(surveys(log, roles, runner, partial(progress.track, size=_rows)), roles)
    report = report_of(whole, {"data": args.data, "recipe": args.recipe})
    if not report["rows"]:
        raise ValueError(f"{args.data}: no rows")
    print(table(report))
    for finding in report["findings"]:
        print(finding)
    if args.out:
        from tt_jax.report.inspection import inspection_page

        write_json(args.out / "inspect.json", report)
        (args.out / "inspect.html").write_text(inspection_page(report), encoding="utf-8")
    return 0


def _roles(args: argparse.Namespace) -> Any:
    """The roles of the columns."""
    from input_pipeline.inspect.label_counts import Roles

    if args.recipe is None:
        labels = {name: name for name in args.labels.split(",") if name}
        return Roles(labels, {}, args.scenario or None, args.time or None)
    for flag in ("labels", "scenario", "time", "delimiter", "missing", "no_quotes"):
        if getattr(args, flag):
            raise ValueError(f"--{flag.replace('_', '-')}: the recipe {args.recipe} has its own")
    return Roles.of(load_recipe(args.recipe, "inspect").schema(args.data))


def _text(args: argparse.Namespace) -> Any:
    """How a raw log writes values as text: by the flags; its delimiter as `init` finds it."""
    from input_pipeline.infer_schema.guess_text_format import delimiter_of_files
    from input_pipeline.readers import TextFormat
    from input_pipeline.sources.notices import report

    delimiter = {"tab": "\t", "\\t": "\t", "space": " "}.get(args.delimiter) or args.delimiter
    if not delimiter and args.recipe is None and (delimiter := delimiter_of_files(args.data)):
        report(f"{args.data}: cells are divided by {delimiter!r}")
    try:
        missing = tuple(text for text in args.missing.split(",") if text)
        return TextFormat(delimiter, missing, quotes=not args.no_quotes)
    except ValueError as e:
        raise ValueError(f"--{e}") from None


def _rows(chunk: Any) -> int:
    return chunk.table.num_rows


def table(report: Mapping[str, Any]) -> str:
    """A line a split, and a line a column."""
    splits, columns = [], []
    for split, counts in report["splits"].items():
        rates = " ".join(f"{t} {c['rate']:.4f}" for t, c in counts["labels"].items() if c["rate"] is not None)
        splits.append([split, f"{counts['rows']:,} rows", rates])
    for name, column in report["columns"].items():
        distinct = column.get("distinct")
        count = "" if distinct is None else f"{'' if distinct['exact'] else '~'}{distinct['count']:,}"
        top = f"{column['top'][0]['value']} ({column['top'][0]['share']:.1%})" if column.get("top") else ""
        columns.append([name, column["kind"], f"{column['missing']:.2%}", count, top])
    head = ["column", "kind", "missing", "distinct", "most frequent"]
    return "\n".join([*text_table([], splits, "lrl"), *text_table(head, columns, "llrrl")])
