"""The runs of the quickstart."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from configs import adworld
from serving.routing.plan import Plan
from serving.routing.router import Routes
from serving.scorer_updates import Sources
from tt_jax.cli.main import parser_of
from tt_jax.cli.quickstart import run_config, serve_command


def test_its_runs_are_those_of_the_configuration_that_a_user_copies() -> None:
    """The package brings no `configs`, so that the quickstart has its own."""
    copied = adworld.config("shopping")
    copied = dataclasses.replace(copied, seed=3, data=dataclasses.replace(copied.data, path="set"))
    assert run_config("shopping", Path("set"), 3) == copied


def test_it_prints_how_to_serve_both_models() -> None:
    _, verb, *flags = shlex.split(serve_command(Path("runs/q"), ("standard", "shopping")).replace("\\\n", ""))
    args = parser_of(verb).parse_args(flags)
    plan = Plan.of_flags(args.model, args.shadow, args.route)
    assert plan.routes == Routes({name: {name: 1.0} for name in ("standard", "shopping")}, by="scenario")
    assert plan.pairs["shopping"] == Sources(Path("runs/q/shopping/bundle"), Path("runs/q/shopping/index"))
