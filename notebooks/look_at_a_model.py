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
# # A model on AdWorld in 40 lines, looked at
#
# A small synthetic ads world, one model, and four looks at it: the learning curve, the calibration, the gates of the
# mixture of experts, and the ads that it ranks first. `jupytext --to ipynb look_at_a_model.py` makes a notebook of this
# file; `python look_at_a_model.py` runs it as it is. It needs the extras `train` and `report`.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import tt_jax as tt
from input_pipeline.recipes import adworld

# %% [markdown]
# ## Data
#
# `prepare` encodes a log and stores it as blocks. AdWorld makes its log on the way: five days, of which the last is the
# split `test` and the last but one `eval`. For a log of your own, `tt-jax init` writes a recipe like `adworld`.

# %%
folder = Path(tempfile.mkdtemp(prefix="adworld-"))
world = adworld.AdWorldConfig(requests_per_day=500)
tt.prepare(adworld.schema(world), adworld.read(world, ("impressions",)), folder / "set", ads=adworld.ads(world))
prepared = tt.PreparedSet.open(folder / "set")

# %% [markdown]
# ## Training
#
# A run is a `Config`, and what it learns lies in a directory. The same call again goes on with a run that was stopped.

# %%
model = tt.ModelConfig(experts=3, full_rank_layers=0, low_rank_layers=1, rank=8, mlp=(32,), output_dim=16)
data = tt.DataConfig(path=str(prepared.root), batch_size=256)
optimizer = tt.OptimizerConfig(learning_rate=6e-3, embedding_learning_rate=0.1)
config = tt.Config(model, data, optimizer, tt.TrainConfig(epochs=1.5, log_every=5), utility="bid * click")
tt.train(config, folder / "run")
trained = tt.load_trained(folder / "run")
report = tt.evaluate(trained, split="test")
print(report["overall"]["click"])

# %% [markdown]
# ## The learning curve
#
# `metrics.jsonl` of a run has a line for each `log_every` steps: the mean loss of these steps, by task.

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
steps = [line for line in lines if "train/click/loss" in line]
for task in ("click", "conversion"):
    left.plot([line["step"] for line in steps], [line[f"train/{task}/loss"] for line in steps], label=task)
left.set(title="learning curve", xlabel="step", ylabel="training loss, nats")
left.legend()

# %% [markdown]
# ## Calibration
#
# Rows of the test day in ten parts of equal size, by predicted click probability: the mean prediction and the share of
# clicks of each. On the diagonal both are equal.

# %%
_, rows = tt.predictions(trained, split="test")
probability, click = 1 / (1 + np.exp(-rows.logits[:, 0])), rows.labels[:, 0]
parts = np.array_split(np.argsort(probability), 10)
middle.plot([probability[part].mean() for part in parts], [click[part].mean() for part in parts], marker="o")
middle.axline((0, 0), slope=1, color="gray", linestyle=":")
middle.set(title="calibration of click", xlabel="mean predicted probability", ylabel="share of clicks")

# %% [markdown]
# ## Gates
#
# What share of each expert the query tower gives each task, on average over the test day. Tasks with like shares learn
# from like representations.

# %%
gates = report["gates"]["query"]
loads = {task: figures["load"] for task, figures in gates["overall"]["tasks"].items()}
right.imshow(list(loads.values()), cmap="Blues", vmin=0, vmax=1)
right.set(title="gates of the query tower", xlabel="expert", xticks=range(3), yticks=range(3), yticklabels=loads)
figure.savefig(folder / "look.png")

# %% [markdown]
# ## Top ads
#
# A bundle is what a service loads; an index is the ad tower over a corpus. A `Scorer` of both ranks every eligible ad.

# %%
tt.export(trained, folder / "bundle")
tt.build_index(folder / "bundle", prepared.root / "ads.parquet", folder / "index")
scorer = tt.Scorer.load(folder / "bundle", folder / "index", max_k=5, warm=False)
request = prepared.samples(("shopping",))[0]["query"]
for ad in scorer.top_k([request], k=5)[0]:
    print(f"ad {ad.id}  utility {ad.score:.4f}  click {ad.probabilities['click']:.4f}")
