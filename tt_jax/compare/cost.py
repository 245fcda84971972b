"""What a model costs: parameters, and floating-point operations of its matrix products.

A product with a matrix `[o, i]` takes 2 o i operations per example, and every matrix of every kind of model (the
parameters named `kernel`) is used once per example. Biases, activations, cross layers' elementwise products, softmaxes
and the sums over experts are not counted: they grow with the widths, the products with their square.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tt_jax.models.two_tower import TwoTower, is_two_tower


@dataclass(frozen=True)
class Cost:
    """Numbers of parameters and of floating-point operations.

    Attributes:
      dense_parameters: all but the embedding tables.
      table_parameters: of the embedding tables.
      forward_flops: per example, both sides and their dot products; a training step takes three times as many.
      query_flops: per request, what serving computes once: the query tower; None for a heavy ranker.
      ad_flops: per ad, when it is indexed: the ad tower; None for a heavy ranker.
      score_flops: per request and ad, what serving computes for each ad: the dot products; all of a heavy ranker.
    """

    dense_parameters: int
    table_parameters: int
    forward_flops: int
    query_flops: int | None
    ad_flops: int | None
    score_flops: int


def cost_of(model: TwoTower) -> Cost:
    """The cost of a model, from the shapes of its parameters."""
    params, tables = model.shapes()
    products = {name: 2 * prod(p.shape) for name, p in params.items() if name.endswith("kernel")}
    dense, embedded = (sum(prod(p.shape) for p in group.values()) for group in (params, tables))
    if not is_two_tower(model.config):
        total = sum(products.values())
        return Cost(dense, embedded, total, None, None, total)
    query, ad = (sum(n for name, n in products.items() if name.startswith(f"{t}/")) for t in ("query", "ad"))
    score = 2 * prod(params["bias"].shape) * model.config.output_dim
    return Cost(dense, embedded, query + ad + score, query, ad, score)
