"""What a configuration chooses by name: the kinds of model and the losses.

A name of ours is a row here, `module:attribute`, which is imported once it is asked for: a configuration is checked
without JAX. A name of yours is registered where it is defined, see docs/how-to/add_a_model_kind.md:

    @MODEL_KINDS.register("bilinear")
    class Bilinear(TowerBody): ...
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Registry(Generic[T]):
    """Things by name. `what` they are is said in errors; `ours`: name -> `module:attribute`."""

    def __init__(self, what: str, ours: Mapping[str, str]) -> None:
        self._what, self._ours = what, dict(ours)
        self._registered: dict[str, Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All of them: ours, then those registered."""
        return (*self._ours, *self._registered)

    def register(self, name: str) -> Callable[[U], U]:
        """A decorator that gives a class or function a name.

        A name may be registered again, as by a cell of a notebook; one of ours may not: ValueError.
        """
        if name in self._ours:
            raise ValueError(f"{self._what} {name!r} is one of tt-jax; take another name")

        def add(thing: U) -> U:
            self._registered[name] = thing
            return thing

        return add

    def __getitem__(self, name: str) -> T:
        """What has the name. Raises ValueError if nothing has."""
        if name in self._ours:
            module, _, attribute = self._ours[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        if name not in self._registered:
            raise ValueError(f"unknown {self._what} {name!r}; known are {', '.join(self.names)}")
        return self._registered[name]


# Subclasses of `tt_jax.models.tower_body.TowerBody`; or of `HeavyRanker`, which is no two-tower.
MODEL_KINDS: Registry[type[Any]] = Registry(
    "kind of model",
    {
        "mmoe_dcn": "tt_jax.models.mmoe:MMoE",
        "mmoe_mlp": "tt_jax.models.mmoe:MlpMMoE",
        "dcn": "tt_jax.models.baselines:SharedStack",
        "mlp": "tt_jax.models.baselines:SharedMlp",
        "mtmd": "tt_jax.models.mtmd:Mtmd",
        "heavy": "tt_jax.models.heavy_ranker:HeavyRanker",
    },
)
# Logits and labels, float32 `[B, T]` each, to losses `[B, T]`, 0 where the label is NaN.
LOSSES: Registry[Callable[..., Any]] = Registry("loss", {"cross_entropy": "tt_jax.losses:cross_entropy"})
