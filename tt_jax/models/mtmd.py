"""MTMD, the multi-task multi-domain tower that MMoE-DCN is compared with (Yang et al., AdKDD 2025, arXiv 2510.09857).

From the paper: two towers; experts that are task-specific, task-shared (within a domain) and domain-shared, which a
gate mixes; a domain adaptation module that moves knowledge between the experts of different domains. A domain there is
an ad product on a surface; here it is a scenario of the schema.

Ours, where the paper's text that we had (its abstract and summaries) gives no formula:
- All experts are MLPs of one size. For S domains and T tasks there are S x T task-specific experts, S task-shared ones
  (of a domain, for all its tasks) and one domain-shared one: S (T + 1) + 1.
- Adaptation: domain s also reads `A_s sum_r w_sr h_r`, where h_r are the task-shared experts of the other domains, w_s
  a learned softmax over them, the same for every example, and A_s a matrix. No gradient flows back into h_r: a domain
  borrows from its neighbours, and does not train them. With one domain there is none to borrow from.
- Gate: per task and domain a softmax over these four sources, by an MLP of x0 as in `MMoE`, one hidden layer per task.
- The domain of an example: a vocabulary feature of the tower that is named as the schema's scenario column tells it,
  and only the experts of that domain count. A missing or unknown value means all domains in equal parts. A tower
  without such a feature (an ad is embedded before any request) guesses: a softmax over domains, linear in x0.

Shapes, examples in columns: B examples, d width of x0, S domains, T tasks, K sources, D output width.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from tt_jax.config import ModelConfig
from tt_jax.models.dense import Dense, MatmulPrecision, wide
from tt_jax.models.embedding import Tables, TowerInput
from tt_jax.models.mmoe import Expert
from tt_jax.models.scenario import scenario_column
from tt_jax.models.tower_body import TowerBody, without_cross_layers
from tt_jax.schema import Schema, Tower


def gate_sources(domains: int) -> tuple[str, ...]:
    """What the gate of a task mixes in each domain, in order."""
    return ("task_specific", "task_shared", "domain_shared", *(("borrowed",) if domains > 1 else ()))


class DomainInput(TowerInput):
    """x0 `[d, B]` as of `TowerInput`, and below it the share of each domain, `[S, B]`, where the tower can tell."""

    def __init__(self, schema: Schema, tower: Tower) -> None:
        super().__init__(schema, tower)
        place = scenario_column(schema, tower)
        # Models with a scenario feature in another's table have learned to guess: their weights would not fit.
        self.knows_domain = place is not None and not schema.feature(schema.scenario).shares
        self.domains = schema.scenarios
        if place is not None and self.knows_domain:
            slot, domain_of_id = place
            self.domain_of_id = tuple(domain_of_id.tolist())  # an array would be a part of the model's state
            group = next(g for g in Tables(schema).groups[tower] if slot in g.columns)
            self.table, self.column = group.table, group.columns.index(slot)
            self.first_row = int(group.offsets[self.column])

    def __call__(self, gathered: Mapping[str, Array], rows: Mapping[str, Array], floats_BF: Array) -> Array:
        x0_dB = super().__call__(dict(gathered), dict(rows), floats_BF)
        if not self.knows_domain:
            return x0_dB
        ids_B = rows[self.table][:, self.column] - jnp.int32(self.first_row)
        count = len(self.domains)
        # The last row is of an id that names no domain: all of them in equal parts.
        shares = np.concatenate([np.eye(count, dtype=np.float32), np.full((1, count), 1 / count, np.float32)])
        shares_BS = jnp.asarray(shares[np.array(self.domain_of_id)]).at[ids_B].get(mode="fill", fill_value=0.0)
        return jnp.concatenate([x0_dB, shares_BS.T])


class Mtmd(TowerBody):
    """`mtmd`. What `DomainInput` gives, `[d + S, B]` or `[d, B]` -> `[T, D, B]`."""

    Input = DomainInput

    def __init__(self, inputs: DomainInput, tasks: int, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        width, count, d = inputs.width, len(inputs.domains), config.output_dim
        mlp = without_cross_layers(config)

        def experts(n: int) -> nnx.List:
            return nnx.List([Expert(width, mlp, precision=precision) for _ in range(n)])

        self.knows_domain, self.domains, self.adapts = inputs.knows_domain, count, count > 1
        self.task_specific = nnx.List([experts(tasks) for _ in range(count)])
        self.task_shared = experts(count)
        self.domain_shared = Expert(width, mlp, precision=precision)
        if self.adapts:
            self.affinity = nnx.Param(jnp.zeros((count, count), jnp.float32))
            self.adapt = nnx.List([Dense(d, d, precision=precision) for _ in range(count)])
        if not self.knows_domain:
            self.domain_gate = Dense(width, count, precision=precision)
        sources = len(gate_sources(count))
        self.gate_hidden = nnx.List(
            [Dense(width, config.gate_hidden, precision=precision, relu=True) for _ in range(tasks)]
        )
        self.gate_out = nnx.List(
            [Dense(config.gate_hidden, count * sources, precision=precision) for _ in range(tasks)]
        )
        self.heads = nnx.List([Dense(d, d, precision=precision) for _ in range(tasks)])

    def __call__(self, x0_dB: Array, dropout_key: Array | None = None) -> Array:
        x0_dB, share_SB = self._split(x0_dB)
        experts = [*(e for of_domain in self.task_specific for e in of_domain), *self.task_shared, self.domain_shared]
        products = wide([*(e.first for e in experts), *self.gate_hidden], x0_dB)
        outputs = []
        for i, expert in enumerate(experts):
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, i)
            outputs.append(expert(x0_dB, products[i], key))
        tasks = len(self.heads)
        specific, (*shared, common) = outputs[: self.domains * tasks], outputs[self.domains * tasks :]
        borrowed = self._borrowed(shared)
        mixed = []
        for t, hidden_hB in enumerate(products[len(experts) :]):
            gates_SKB = self._gates(t, hidden_hB)
            total_DB = jnp.zeros_like(common)
            for s in range(self.domains):
                sources = [specific[s * tasks + t], shared[s], common, *borrowed[s : s + 1]]
                for k, source_DB in enumerate(sources):
                    total_DB += share_SB[s] * gates_SKB[s, k] * source_DB
            mixed.append(self.heads[t](total_DB))
        return jnp.stack(mixed)

    @classmethod
    def of(cls, inputs: TowerInput, tasks: int, config: ModelConfig, *, precision: MatmulPrecision) -> Mtmd:
        assert isinstance(inputs, DomainInput)
        return cls(inputs, tasks, config, precision=precision)

    @staticmethod
    def gate_parts(schema: Schema, config: ModelConfig) -> tuple[str, ...]:
        """The `gate_sources`."""
        return gate_sources(len(schema.scenarios))

    def gates(self, x0_dB: Array) -> Array:
        """Share of each of the `gate_sources` in each task, over all domains: `[T, K, B]`; sums to 1 over K."""
        x0_dB, share_SB = self._split(x0_dB)
        hidden = wide(self.gate_hidden, x0_dB)
        return jnp.stack([jnp.sum(share_SB[:, None] * self._gates(t, h), axis=0) for t, h in enumerate(hidden)])

    def _split(self, x0_dB: Array) -> tuple[Array, Array]:
        """x0 proper, and the share of each domain `[S, B]`."""
        if not self.knows_domain:
            return x0_dB, jax.nn.softmax(self.domain_gate(x0_dB), axis=0)
        width = x0_dB.shape[0] - self.domains
        return x0_dB[:width], x0_dB[width:]

    def _borrowed(self, shared: list[Array]) -> list[Array]:
        """What each domain reads of the task-shared experts of the others, `[D, B]` each."""
        if not self.adapts:
            return []
        others = jnp.where(jnp.eye(self.domains, dtype=bool), -jnp.inf, self.affinity[...])
        weight_SS = jax.nn.softmax(others, axis=1)
        borrowed = []
        for s, adapt in enumerate(self.adapt):
            mixed_DB = jnp.zeros_like(shared[0])
            for r, source_DB in enumerate(shared):
                if r != s:
                    mixed_DB += weight_SS[s, r] * lax.stop_gradient(source_DB)
            borrowed.append(adapt(mixed_DB))
        return borrowed

    def _gates(self, task: int, hidden_hB: Array) -> Array:
        """Share of each source in each domain, `[S, K, B]`; sums to 1 over K."""
        logits = self.gate_out[task](jax.nn.relu(hidden_hB))
        return jax.nn.softmax(logits.reshape(self.domains, -1, logits.shape[-1]), axis=1)
