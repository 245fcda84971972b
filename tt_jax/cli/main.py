"""`tt-jax VERB ...`: finds the verb's module and runs it. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from tt_jax.cli.signals import end_at_once
from tt_jax.io.extras import missing_package
from tt_jax.io.strict_json import nearest

VERBS = {
    "quickstart": "the whole path on a small synthetic world, in minutes",
    "init": "a first schema of your own logs, as a file to edit",
    "inspect": "what is in a log: labels, columns, drift, leaks, duplicates",
    "prepare": "raw logs to a training set",
    "train": "train a model, or go on with a run",
    "evaluate": "metrics of a trained model on a split",
    "join": "served ads with their propensities and outcomes, as a table to train on",
    "calibrate": "fit a model's probabilities to the labels of a split",
    "regret": "AdWorld: what a model loses against the true probabilities",
    "compare": "configurations, modes and seeds side by side, as a report",
    "label": "a teacher's probabilities as soft labels of a training set",
    "abtest": "AdWorld: two models rank the same requests, users click, advertisers pay",
    "export": "a trained model to a bundle that services load",
    "index": "the ad tower over a corpus of ads",
    "score": "rank ads for one request, as JSON",
    "serve": "an HTTP service that ranks ads",
    "parity": "served requests against the training data, and their scores replayed",
    "skew": "what ad vectors of earlier checkpoints cost: how stale an index may be",
}
USAGE_ERROR = 2
_ENDS = {signal.SIGTERM: 128 + signal.SIGTERM}
_SERVE_ENDS = {signal.SIGTERM: 0, signal.SIGINT: 0}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a verb and exits: 0 done, 2 bad input, told in one line on stderr. TT_JAX_TRACEBACK=1 shows where.

    SIGTERM ends it at once, with 143, unless the verb handles it; `serve` ends with 0, as after a drain.
    """
    if argv is None:
        end_at_once(_SERVE_ENDS if sys.argv[1:2] == ["serve"] else _ENDS)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        sys.exit(0 if arguments else _fail("expected a verb"))
    if arguments == ["--version"]:
        print(version("tt-jax"))
        sys.exit(0)
    verb = arguments[0]
    if verb not in VERBS:
        sys.exit(_fail(f"unknown verb {verb!r}{nearest(verb, VERBS)}"))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    module, parser = importlib.import_module(f"tt_jax.cli.{verb}"), parser_of(verb)
    try:
        _import_plugins(os.environ.get("TT_JAX_PLUGINS", ""))
        # A run is configured by `--config.a.b=value`, which only the verb that takes a configuration understands.
        known, rest = parser.parse_known_args(arguments[1:])
        if rest and not getattr(module, "TAKES_CONFIG", False):
            parser.error(f"unknown argument {rest[0]!r}")
        code = module.run(known, rest) if rest or getattr(module, "TAKES_CONFIG", False) else module.run(known)
    except (ValueError, OSError) as e:  # every error of ours about input is a ValueError
        if os.environ.get("TT_JAX_TRACEBACK"):
            raise
        code = _fail(str(e) or type(e).__name__)
    except ModuleNotFoundError as e:
        if not (told := missing_package(e)) or os.environ.get("TT_JAX_TRACEBACK"):
            raise
        code = _fail(f"{verb} {told}")
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def parser_of(verb: str) -> argparse.ArgumentParser:
    """The arguments of a verb of `VERBS`, and its help."""
    module = importlib.import_module(f"tt_jax.cli.{verb}")
    parser = _Parser(
        prog=f"tt-jax {verb}",
        description=VERBS[verb],
        epilog=f"example:\n{module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def _import_plugins(names: str) -> None:
    """Imports a user's modules and `*.py` files, separated by commas, which register model kinds and losses."""
    from tt_jax.cli.python_file import load_python

    for i, name in enumerate(filter(None, names.split(","))):
        if name.endswith(".py"):
            load_python(name, f"tt_jax_plugin_{i}", "TT_JAX_PLUGINS", ValueError)
            continue
        try:
            importlib.import_module(name)
        except ImportError as e:
            raise ValueError(f"TT_JAX_PLUGINS: {name}: {e}") from None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as every other error; argparse would print the usage too."""
        sys.exit(_fail(f"{message}; see `{self.prog} --help`"))


def _fail(message: str) -> int:
    print("tt-jax: error: " + " ".join(message.split()), file=sys.stderr)
    return USAGE_ERROR


def _help() -> str:
    verbs = "\n".join(f"  {verb:<12}{text}" for verb, text in VERBS.items())
    return (
        "usage: tt-jax VERB [arguments]\n\n"
        "Lightweight ads ranking: ad logs in, a trained two-tower out, top-k ads served."
        f"\n\n{verbs}\n\n`tt-jax VERB --help` shows the arguments of a verb and an example, `--version` the version."
        "\nTT_JAX_PLUGINS=FILE.py,MODULE imports model kinds and losses of your own before the verb runs."
    )
