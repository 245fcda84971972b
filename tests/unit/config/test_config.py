"""The typed configuration: strict keys, types and ranges."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest

from tests.support import tiny
from tt_jax.config import Config, ConfigError, ModelConfig, parse_weights


def changed(key: str, value: Any) -> dict[str, Any]:
    """The default configuration as a dict, one key set."""
    data = copy.deepcopy(Config().to_dict())
    *groups, last = key.split(".")
    group = data
    for name in groups:
        group = group[name]
    group[last] = value
    return data


def test_round_trips_are_exact():
    for config in (Config(), tiny.CONFIG, dataclasses.replace(tiny.CONFIG, seed=7, precision="bf16")):
        assert Config.from_dict(config.to_dict()) == config
        assert Config.from_json(config.to_json()) == config
        assert Config.from_json(config.to_json()).to_json() == config.to_json()
    assert Config.from_json(tiny.CONFIG.to_json()).model.mlp == (16,)


def test_every_change_changes_the_fingerprint():
    assert Config().fingerprint() == Config().fingerprint()
    others = {Config(seed=1), Config(utility="click"), Config(model=ModelConfig(rank=3)), tiny.CONFIG}
    assert len({c.fingerprint() for c in (Config(), *others)}) == 5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sede", 1, "config: unknown key 'sede'; did you mean 'seed'?"),
        ("model.expertz", 1, "config.model: unknown key 'expertz'; did you mean 'experts'?"),
        ("optimizer.lr", 1, "config.optimizer: unknown key 'lr'; valid names: clip_norm, "),
        ("model", 3, "config.model: expected a group of keys, got 3"),
        ("data", None, "config.data: expected a group of keys, got None"),
        ("seed", "1", "config.seed: expected int, got '1'"),
        ("seed", 1.0, "config.seed: expected int, got 1.0"),
        ("seed", True, "config.seed: expected int, got True"),
        ("data.path", None, "config.data.path: expected str, got None"),
        ("data.batch_size", [32], "config.data.batch_size: expected int, got [32]"),
        ("optimizer.learning_rate", "1e-3", "config.optimizer.learning_rate: expected float, got '1e-3'"),
        ("train.epochs", False, "config.train.epochs: expected float, got False"),
        ("model.mlp", 64, "config.model.mlp: expected a list of int, got 64"),
        ("model.mlp", [64, "a"], "config.model.mlp[1]: expected int, got 'a'"),
        ("data.scenarios", "shopping", "config.data.scenarios: expected a list of str, got 'shopping'"),
        ("data.scenarios", [1], "config.data.scenarios[0]: expected str, got 1"),
        ("precision", "fp8", "config.precision: 'fp8' is none of auto, f32, bf16"),
        ("precision", ["f32"], "config.precision: ['f32'] is none of auto, f32, bf16"),
    ],
)
def test_a_wrong_key_or_type_is_named(key, value, message):
    with pytest.raises(ConfigError) as error:
        Config.from_dict(changed(key, value))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("key", ["seed", "model.rank", "data.path", "train"])
def test_a_missing_key_is_named(key):
    data = changed("seed", 0)
    *groups, last = key.split(".")
    del (data[groups[0]] if groups else data)[last]
    with pytest.raises(ConfigError, match=rf"^config{''.join('.' + g for g in groups)}: missing key '{last}'$"):
        Config.from_dict(data)


def test_integers_become_floats_and_lists_tuples():
    config = Config.from_json(json.dumps(changed("train.epochs", 2)))
    assert type(config.train.epochs) is float
    assert Config.from_dict(changed("model.mlp", [8, 4])).model.mlp == (8, 4)


RANGES = {
    "model.experts": (0, -1),
    "model.gate_hidden": (0,),
    "model.output_dim": (0,),
    "model.rank": (0,),
    "model.full_rank_layers": (-1,),
    "model.low_rank_layers": (-1,),
    "model.mlp": ((64, 0), (-3,)),
    "model.embedding_init": (-0.1, float("nan"), float("inf")),
    "model.id_dropout": (-0.1, 1.1, float("nan")),
    "model.dropout": (-0.1, 1.1),
    "data.batch_size": (0,),
    "data.eval_batch_size": (0,),
    "data.window": (0,),
    "optimizer.learning_rate": (-1e-3, float("nan"), float("inf")),
    "optimizer.warmup": (-0.1, 1.5),
    "optimizer.final_fraction": (-0.1, 1.5),
    "optimizer.weight_decay": (-1.0,),
    "optimizer.clip_norm": (-1.0,),
    "optimizer.embedding_learning_rate": (-1.0, float("nan")),
    "optimizer.embedding_decay": (-1.0,),
    "train.epochs": (-1.0, float("inf")),
    "train.log_every": (0,),
    "train.eval_every": (-1,),
    "train.save_every": (-1,),
    "train.patience": (-1,),
    "train.keep_last": (0,),
    "seed": (-1, 2**32),
    "chunk_rows": (-2, 3, 8192),
}


@pytest.mark.parametrize("key", RANGES)
def test_a_value_out_of_range_is_named(key):
    for value in RANGES[key]:
        with pytest.raises(ConfigError, match=f"^config.{key}: expected .*, got ") as error:
            Config.from_dict(changed(key, value))
        assert str(value) in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 2**32 - 1), ("chunk_rows", 4096), ("chunk_rows", 0), ("model.mlp", ()), ("model.full_rank_layers", 0),
     ("optimizer.clip_norm", 0), ("optimizer.warmup", 1), ("train.epochs", 0.25), ("model.id_dropout", 1)],
)  # fmt: skip
def test_the_ends_of_the_ranges_are_allowed(key, value):
    Config.from_dict(changed(key, value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.train_splits", (), "expected distinct names, got ()"),
        ("data.train_splits", ("a", "a"), "expected distinct names, got ('a', 'a')"),
        ("data.scenario_weights", ("shopping",), "expected NAME=WEIGHT with a weight >= 0, got 'shopping'"),
        ("data.scenario_weights", ("=2",), "expected NAME=WEIGHT with a weight >= 0, got '=2'"),
        ("data.scenario_weights", ("a=-1",), "expected NAME=WEIGHT with a weight >= 0, got 'a=-1'"),
        ("train.task_weights", ("click=nan",), "expected NAME=WEIGHT with a weight >= 0, got 'click=nan'"),
        ("train.task_weights", ("click=1", "click=2"), "'click' has two weights"),
    ],
)
def test_wrong_splits_and_weights_are_named(key, value, message):
    with pytest.raises(ConfigError) as error:
        Config.from_dict(changed(key, value))
    assert str(error.value) == f"config.{key}: {message}"


def test_weights_are_read_by_name():
    assert parse_weights(("a=2", "b=c=0.5", "d=0"), "train.task_weights") == {"a": 2.0, "b=c": 0.5, "d": 0.0}


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[]", "expected a group of keys"), ("{}", "missing key 'model'")]
)
def test_what_is_not_a_configuration_at_all_is_told(text, message):
    with pytest.raises(ConfigError, match=message):
        Config.from_json(text)
