"""The extras of `pyproject.toml`, and what `tt_jax.io.extras` says of them."""

from __future__ import annotations

import pytest

from tests.support.wheel import NAME, import_packages, project
from tt_jax.io.extras import EXTRAS, missing_package

FOR_DEVELOPERS = {"docs", "test"}


def test_an_extra_has_the_packages_that_it_is_said_to_bring():
    extras = project()["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - FOR_DEVELOPERS - {"all", "cuda12", "cuda13"}
    for extra, told in EXTRAS.items():
        own = [text for text in extras[extra] if not text.startswith(NAME)]
        assert set(told) <= import_packages(own), extra
        assert len(told) == len(own), extra


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModuleNotFoundError("no", name="grain"), "needs grain; pip install 'tt-jax[train]'"),
        (ModuleNotFoundError("no", name="orbax.checkpoint"), "needs orbax; pip install 'tt-jax[train]'"),
        (ModuleNotFoundError("no", name="matplotlib"), "needs matplotlib; pip install 'tt-jax[report]'"),
        (ModuleNotFoundError("no", name="users_own"), ""),
        (ValueError("no"), ""),
    ],
)
def test_a_failed_import_names_the_extra(error, told):
    assert missing_package(error) == told


def test_a_file_system_that_is_missing_names_the_extra():
    error = ImportError("Install s3fs to access S3")
    error.__cause__ = ModuleNotFoundError("no", name="s3fs")
    assert missing_package(error) == "needs s3fs; pip install 'tt-jax[s3]'"
