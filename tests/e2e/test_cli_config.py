"""`--config=FILE --config.KEY=VALUE` on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from configs import adworld, kuairand
from tests.support import tiny
from tests.support.paths import ROOT
from tt_jax.cli.configuration import load_config
from tt_jax.config import Config, ConfigError, ModelConfig

GOOD = """
from __future__ import annotations
import dataclasses
from tt_jax.config.files import config_dict
from tests.support import tiny

@dataclasses.dataclass
class Local:
    seed: int

def get_config(arg=""):
    if arg == "boom":
        raise ValueError(f"no such variant {arg!r}")
    return config_dict(dataclasses.replace(tiny.CONFIG, seed=Local(len(arg)).seed))
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a configuration file and returns its path."""

    def writer(text: str, name: str = "run.py") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return writer


def test_a_file_with_and_without_an_argument(write):
    path = write(GOOD)
    assert load_config(path, []) == tiny.CONFIG
    assert load_config(f"{path}:abc", []).seed == 3
    assert load_config(f"{path}:", []).seed == 0


@pytest.mark.parametrize(("file", "module"), [("adworld", adworld), ("kuairand", kuairand)])
def test_the_configurations_that_ship(file, module):
    path = Path(module.__file__)
    assert load_config(str(path), []) == module.config()
    assert load_config(f"{path}:shopping", []).data.scenarios == ("shopping",)


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("seed=7", "seed", 7),
        ("model.experts=3", "model.experts", 3),
        ("model.mlp=(64, 32)", "model.mlp", (64, 32)),
        ("model.mlp=64,32", "model.mlp", (64, 32)),
        ("model.mlp=[64]", "model.mlp", (64,)),
        ("model.mlp=64", "model.mlp", (64,)),
        ("model.mlp=()", "model.mlp", ()),
        ("data.scenarios=shopping", "data.scenarios", ("shopping",)),
        ("data.scenarios=shopping,standard", "data.scenarios", ("shopping", "standard")),
        ("data.scenarios=('shopping',)", "data.scenarios", ("shopping",)),
        ("data.scenarios=1", "data.scenarios", ("1",)),
        ("data.scenarios=", "data.scenarios", ()),
        ("data.path=a=b", "data.path", "a=b"),
        ("train.epochs=2", "train.epochs", 2.0),
        ("optimizer.learning_rate=3e-4", "optimizer.learning_rate", 3e-4),
        ("precision=bf16", "precision", "bf16"),
        ("utility=2 * click + bid", "utility", "2 * click + bid"),
        ("utility=", "utility", ""),
        ("chunk_rows=-1", "chunk_rows", -1),
    ],
)
def test_an_override_sets_one_field(write, override, key, expected):
    found: Any = load_config(write(GOOD), [f"--config.{override}"])
    for name in key.split("."):
        found = getattr(found, name)
    assert found == expected
    assert type(found) is type(expected)


def test_only_the_named_fields_change_and_the_last_override_wins(write):
    config = load_config(write(GOOD), ["--config.seed=1", "--config.model.rank=2", "--config.seed=3"])
    data = tiny.CONFIG.to_dict()
    data["seed"], data["model"]["rank"] = 3, 2
    assert config == Config.from_dict(data)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.model.expertz=3", "unknown configuration key 'model.expertz'; did you mean 'model.experts'?"),
        ("--config.modle.experts=3", "unknown configuration key 'modle.experts'; did you mean 'model.experts'?"),
        ("--config.model=3", "unknown configuration key 'model'"),
        ("--config.=3", "unknown configuration key ''"),
        ("--config.seed", "unknown argument '--config.seed'; expected --config.KEY=VALUE"),
        ("--sede=3", "unknown argument '--sede=3'; expected --config.KEY=VALUE"),
        ("--config.seed=abc", "config.seed: expected int, got 'abc'"),
        ("--config.seed=1.5", "config.seed: expected int, got 1.5"),
        ("--config.seed=", "config.seed: expected int, got ''"),
        ("--config.train.epochs=__import__('os')", "config.train.epochs: expected float, got \"__import__('os')\""),
        ("--config.model.mlp=(64,'a')", "config.model.mlp[1]: expected int, got 'a'"),
        ("--config.model.mlp=64;32", "config.model.mlp: expected tuple[int, ...], got '64;32'"),
        ("--config.model.experts=0", "config.model.experts: expected a number > 0, got 0"),
        ("--config.precision=fp8", "config.precision: 'fp8' is none of auto, f32, bf16"),
    ],
)
def test_a_wrong_override_is_one_line_with_its_key_and_value(write, override, message):
    with pytest.raises(ConfigError) as error:
        load_config(write(GOOD), [override])
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


BAD_FILES = {
    "raises": ("def get_config(arg=''):\n    return 1 / 0\n", "ZeroDivisionError: division by zero"),
    "raises on import": ("import nosuchmodule\n", "ModuleNotFoundError: No module named 'nosuchmodule'"),
    "is not Python": ("def get_config(:\n", "SyntaxError: invalid syntax (run.py, line 1)"),
    "has no get_config": ("config = 1\n", "the file has no get_config"),
    "returns nothing": ("def get_config(arg=''):\n    pass\n", "get_config returned NoneType, expected a ConfigDict"),
    "returns a dict": ("def get_config(arg=''):\n    return {}\n", "get_config returned dict, expected a ConfigDict"),
    "has an unknown key": (
        "from tests.support.run_configs import get_config as good\n"
        "def get_config():\n    c = good()\n    c.unlock()\n    c.model.expertz = 3\n    return c\n",
        "config.model: unknown key 'expertz'; did you mean 'experts'?",
    ),
    "has a wrong type": (
        "from tests.support.run_configs import get_config as good\n"
        "def get_config():\n    c = good().unlock() or good().copy_and_resolve_references()\n"
        "    return type(c)({**c.to_dict(), 'seed': 'a'})\n",
        "config.seed: expected int, got 'a'",
    ),
    "misspells a field": (
        "from tests.support.run_configs import get_config as good\n"
        "def get_config():\n    c = good()\n    c.sede = 3\n    return c\n",
        "Did you mean \"seed\"",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_with_what_is_wrong(write, case):
    text, message = BAD_FILES[case]
    path = write(text)
    with pytest.raises(ConfigError) as error:
        load_config(path, [])
    assert str(error.value).startswith(f"--config={path}: ")
    assert message in str(error.value)


def test_an_argument_that_the_file_refuses(write):
    path = write(GOOD)
    with pytest.raises(ConfigError, match="boom: ValueError: no such variant 'boom'"):
        load_config(f"{path}:boom", [])


def test_a_file_that_is_not_there_or_no_file(write, tmp_path):
    for file in ("nosuch.py", "nosuch.py:arg", str(tmp_path), ""):
        with pytest.raises(ConfigError, match="no file"):
            load_config(file, [])
    with pytest.raises(ConfigError, match=r"expected a Python file, \*\.py"):
        load_config(write("seed: 3\n", "run.yaml"), [])


def test_a_file_imports_what_lies_beside_it_and_in_the_repository_the_old_place_of_config_dict(
    write, tmp_path, monkeypatch
):
    here = {str(ROOT), ""}
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in here])
    for name in ("configs", "my_sizes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(ROOT)
    write("RANK = 3\n", "my_sizes.py")
    old = "from configs import config_dict\nfrom my_sizes import RANK\nfrom tt_jax.config import Config, ModelConfig\n"
    path = write(old + "def get_config(_=''):\n    return config_dict(Config(model=ModelConfig(rank=RANK)))\n")
    assert load_config(path, []) == Config(model=ModelConfig(rank=3))
