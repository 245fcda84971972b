"""What is public: the names of `__all__` and their signatures, as `public_api.txt` has them, and who may use what."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import tt_jax as tt
from tests.support import public_api
from tests.support.paths import ROOT

LISTED = ROOT / "tests" / "repo" / "public_api.txt"
COPIED = sorted([*ROOT.glob("configs/*.py"), *ROOT.glob("notebooks/*.py")])


def test_what_is_public_changes_in_the_open():
    changed = "what is public has changed: if that is meant, `python -m tests.support.public_api` writes the list anew"
    assert public_api.text() == LISTED.read_text(), changed


@pytest.mark.parametrize("module", public_api.MODULES)
def test_every_public_name_has_a_docstring(module):
    found = importlib.import_module(module)
    named = {name: getattr(found, name) for name in found.__all__}
    assert [name for name, value in named.items() if callable(value) and not (value.__doc__ or "").strip()] == []


def test_names_are_loaded_when_they_are_used():
    code = "import sys, tt_jax, serving; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"jax", "numpy", "pyarrow", "grain"} & set(loaded.split())
    assert set(tt.__all__) <= set(dir(tt))
    with pytest.raises(AttributeError, match="module 'tt_jax' has no attribute 'trian'"):
        tt.trian  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("file", COPIED, ids=lambda path: path.name)
def test_files_to_copy_use_what_is_public(file):
    assert public_api.imported_privately(file.read_text()) == []


def test_the_check_of_imports_sees_a_private_one():
    assert public_api.imported_privately("from tt_jax import Config, nosuch\nimport tt_jax.training.loop\n") == [
        "tt_jax nosuch", "tt_jax.training.loop",
    ]  # fmt: skip
