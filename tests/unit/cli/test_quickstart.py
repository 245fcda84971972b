"""The runs of the quickstart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from configs import adworld
from tt_jax.cli.quickstart import run_config


def test_its_runs_are_those_of_the_configuration_that_a_user_copies() -> None:
    """The package brings no `configs`, so that the quickstart has its own."""
    copied = adworld.config("shopping")
    copied = dataclasses.replace(copied, seed=3, data=dataclasses.replace(copied.data, path="set"))
    assert run_config("shopping", Path("set"), 3) == copied
