"""Configuration file of the runs that the tests start as processes: many quick steps, frequent saves."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from configs import config_dict
from tests import tiny
from tt_jax.config import TrainConfig


def get_config(arg: str = "") -> ConfigDict:
    """`steps`: saves between the steps; `eval`: evaluates all the time; `two`: few steps, for many processes."""
    train = TrainConfig(epochs=40, log_every=25, eval_every=100, save_every=20, early_stop="click.logloss")
    if arg == "eval":
        train = dataclasses.replace(train, eval_every=1, save_every=0)
    model = tiny.CONFIG.model
    if arg == "two":  # each process compiles: a model that does so quickly
        model = dataclasses.replace(model, experts=1, low_rank_layers=0, mlp=())
        train = dataclasses.replace(train, epochs=2, log_every=5, eval_every=30, save_every=10)
    data = dataclasses.replace(tiny.CONFIG.data, batch_size=100, eval_batch_size=16)
    return config_dict(dataclasses.replace(tiny.CONFIG, model=model, data=data, train=train))
