# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A kind of model and a loss of your own
#
# What a tower computes and what it learns by are chosen by name, `model.kind` and `train.loss`. Here both names are
# defined in this file. It first calls the training step on batches by hand, then lets `train` do it. It needs the extra
# `train`; `jupytext --to ipynb own_kind_and_loss.py` makes a notebook of it.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from flax import nnx

import tt_jax as tt

# %% [markdown]
# ## A log from a table
#
# 8,000 rows: a user of a country is shown an ad of a topic and clicks, or not. Each country likes one topic more. The
# last quarter is the split `eval`.

# %%
N, COUNTRIES, TOPICS = 8000, ("de", "fr", "jp"), ("art", "cars", "food")
rng = np.random.default_rng(0)
country, topic = rng.integers(0, 3, N), rng.integers(0, 3, N)
click = rng.random(N) < np.where(country == topic, 0.6, 0.1)
table = pa.table(
    {
        "country": np.array(COUNTRIES)[country],
        "topic": np.array(TOPICS)[topic],
        "ad_id": topic * 100 + rng.integers(0, 20, N),
        "surface": ["feed"] * N,
        "click": click.astype(int),
    }
)
schema = tt.Schema(
    name="likes",
    features=(
        tt.Feature("country", "categorical", "query", dim=4, vocabulary=COUNTRIES),
        tt.Feature("topic", "categorical", "ad", dim=4, vocabulary=TOPICS),
    ),
    tasks=(tt.Task("click", "click"),),
    scenario="surface",
    scenarios=("feed",),
    ad_id="ad_id",
)
folder = Path(tempfile.mkdtemp(prefix="own-kind-"))
chunks = [tt.Chunk("train", "log", 0, table.slice(0, 6000)), tt.Chunk("eval", "log", 6000, table.slice(6000))]
tt.prepare(schema, chunks, folder / "set", block_rows=1000)
prepared = tt.PreparedSet.open(folder / "set")

# %% [markdown]
# ## A kind of model
#
# A kind makes a tower's output `[T, D, B]` of its input `[d, B]`: T tasks, D = `model.output_dim`, B examples in
# columns, d the width of the features. Embeddings, dot products, training, export and serving are the same for every
# kind. `Dense` is a matrix product in the precision of the run.

# %%


@tt.MODEL_KINDS.register("one_matrix")
class OneMatrix(tt.TowerBody):
    """A matrix for each task, and nothing else."""

    def __init__(self, width, tasks, config, *, precision):
        self.heads = nnx.List([tt.Dense(width, config.output_dim, precision=precision) for _ in range(tasks)])

    def __call__(self, x0_dB, dropout_key=None):
        return jnp.stack([head(x0_dB) for head in self.heads])


# %% [markdown]
# ## A loss
#
# A loss takes logits and labels, float32 `[B, T]` each, and gives one value for each, 0 where the label is NaN. Replace
# NaN before the arithmetic: masking the result alone leaves NaN in the gradient.

# %%


@tt.LOSSES.register("focal")
def focal(logits_BT, labels_BT):
    """Cross-entropy, less of it where the model is right already."""
    labels = jnp.where(jnp.isnan(labels_BT), 0.0, labels_BT)
    p = jax.nn.sigmoid(logits_BT)
    return tt.cross_entropy(logits_BT, labels_BT) * (labels * (1 - p) + (1 - labels) * p) ** 2


# %% [markdown]
# ## The step, by hand
#
# A model is pure functions of weights and arrays, and a step is one of state and batch. The learning rates follow a
# schedule of `total_steps`.

# %%
config = tt.Config(
    model=tt.ModelConfig(kind="one_matrix", output_dim=8),
    data=tt.DataConfig(path=str(folder / "set"), batch_size=200),
    optimizer=tt.OptimizerConfig(learning_rate=0.03, embedding_learning_rate=0.1),
    train=tt.TrainConfig(epochs=4, loss="focal"),
)
model = tt.make_model(config, schema, training=True)
step = jax.jit(tt.make_step(model, config, total_steps=90), donate_argnums=0)
state = tt.init_state(model, config, total_steps=90)
with tt.train_batches(prepared, ("train",), (), 200, seed=0, epochs=3, arrays=tt.step_arrays(config)) as batches:
    for batch in batches:
        before = model.predict(state.params, state.tables, batch)
        state, done = step(state, batch)
        if done % 30 == 0:
            print(f"step {done}: focal loss {focal(before, batch['labels']).mean():.4f}")

# %% [markdown]
# What it has learned: the probability of a click for each country and topic. The truth is 0.6 on the diagonal and 0.1
# elsewhere. The focal loss favors doubt, so its probabilities lie between: where it is used, calibrate.

# %%
pairs = {"country": np.repeat(COUNTRIES, 3).tolist(), "topic": TOPICS * 3}
encoded = tt.Encoder(schema).encode(pairs, outcomes=False).arrays
learned = jax.nn.sigmoid(model.predict(state.params, state.tables, encoded)).reshape(3, 3)
print(np.asarray(learned).round(2))
assert (learned.argmax(axis=1) == jnp.arange(3)).all()

# %% [markdown]
# ## The same by `train`
#
# The names are part of the configuration. Whoever loads the run or its bundle later needs this file imported first.

# %%
tt.train(config, folder / "run")
report = tt.evaluate(tt.load_trained(folder / "run"))
print({name: round(report["overall"]["click"][name], 4) for name in ("auc", "logloss", "calibration")})
