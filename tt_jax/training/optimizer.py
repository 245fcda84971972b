"""The dense optimizer: AdamW on a warm-up and cosine schedule, by optax."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from tt_jax.config import OptimizerConfig
from tt_jax.models.two_tower import Params


def schedule(config: OptimizerConfig, total_steps: int, start: int = 0) -> optax.Schedule:
    """Multiplier of both peak learning rates at a step: linear to 1 over the warm-up, a cosine to `final_fraction`.

    A warm-up of w steps begins with 1/w, so that its first step learns, and reaches 1 after w. `start`: steps done
    before the `total_steps` of the schedule.
    """
    if not config.warmup and config.final_fraction == 1:
        return lambda step: jnp.ones((), jnp.float32)  # the same program for every set that a run goes on with
    steps = max(1, total_steps)
    warmup = min(int(config.warmup * steps), steps - 1)  # optax wants a step of the cosine
    found = optax.warmup_cosine_decay_schedule(
        init_value=1 / max(1, warmup),
        peak_value=1.0,
        warmup_steps=warmup,
        decay_steps=steps,
        end_value=config.final_fraction,
    )
    return lambda step: found(jnp.asarray(step - start, jnp.float32))  # optax mixes an int32 step with floats


def dense_optimizer(config: OptimizerConfig, total_steps: int, start: int = 0) -> optax.GradientTransformation:
    """Clipping, then AdamW; weight decay on matrices only."""
    multiplier = schedule(config, total_steps, start)
    adamw = optax.adamw(
        lambda step: config.learning_rate * multiplier(step),
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw


def update_dense(
    optimizer: optax.GradientTransformation, gradients: Params, state: optax.OptState, params: Params
) -> tuple[Params, optax.OptState]:
    """New parameters and optimizer state."""
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32 step count
        updates, state = optimizer.update(gradients, state, params)
    changes: Any = updates  # a dict as `gradients` is, which optax's type does not say
    return {name: params[name] + change for name, change in changes.items()}, state
