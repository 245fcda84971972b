"""Configuration file of the runs that the tests start as processes: many quick steps, frequent saves."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from tests.support import tiny
from tt_jax.config import OptimizerConfig, TrainConfig
from tt_jax.config.files import config_dict


def get_config(arg: str = "") -> ConfigDict:
    """`steps`: saves between the steps; `eval`: evaluates all the time; `two`: few steps, for many processes;
    `compare`: few steps, for many runs."""
    train = TrainConfig(epochs=40, log_every=25, eval_every=100, save_every=20, early_stop="click.logloss")
    config = tiny.CONFIG
    if arg == "eval":
        train = dataclasses.replace(train, eval_every=1, save_every=0)
    model = config.model
    if arg == "two":  # each process compiles: a model that does so quickly
        model = dataclasses.replace(model, experts=1, low_rank_layers=0, mlp=())
        train = dataclasses.replace(train, epochs=2, log_every=5, eval_every=30, save_every=10)
    data = dataclasses.replace(config.data, batch_size=100, eval_batch_size=16)
    if arg == "compare":
        model = dataclasses.replace(model, low_rank_layers=0, mlp=(), output_dim=12, embedding_init=0.05)
        train = dataclasses.replace(train, epochs=2, log_every=10, eval_every=28, save_every=0)
        data = dataclasses.replace(data, batch_size=32, eval_batch_size=512)
        config = dataclasses.replace(config, optimizer=OptimizerConfig(learning_rate=0.03, embedding_learning_rate=0.3))
    return config_dict(dataclasses.replace(config, model=model, data=data, train=train))
