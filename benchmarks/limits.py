"""When a two-tower fails, measured on AdWorld.

    python -m benchmarks.limits --workdir=W --out=benchmarks/results/limits.jsonl

Four sweeps (interaction, stale_index, missing_feature, cold_ads), one JSON line a figure, for
docs/explanation/two_tower_limits.md.

Shopping ads only. Models learn the heavy ranker's probabilities on candidates of three days and are judged on the
candidates of the last day, all of them logged, against the true probabilities: `kl`, the mean KL divergence of the
click probability in nats; `recall`, the share of the heavy ranker's best 4 of about 30 that are among the model's best
8, by bid x probability. Each is the mean over `--seeds` models, and `spread` has the standard deviations. Runs that are
in W already are not repeated. `--only NAME ...` makes some of the sweeps.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from scipy.special import expit

from configs.adworld import config as adworld_config
from input_pipeline.adworld.simulate import AdWorldConfig, candidates, corpus, schema
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk
from input_pipeline.recipes import adworld as recipe
from tt_jax.cli.regret import predictor
from tt_jax.compare.staleness import make_mixed_predict, pair
from tt_jax.config import Config
from tt_jax.evaluation.adworld.regret import regret
from tt_jax.features.encoder import Encoder
from tt_jax.metrics import probability
from tt_jax.metrics.funnel import funnel_metrics
from tt_jax.training.loop import train
from tt_jax.training.trained import Trained, load_saved, load_trained

SCENARIO = "shopping"
WORLD = AdWorldConfig(
    users=3000, advertisers=150, ads=1500, new_ads_per_day=300, segments=48, requests_per_day=3000, logged_candidates=32
)
BEST, PASSED = 4, 8
DROPPED = ("user_id", "user_embedding", "user_segment", "recent_clicks", "surface")
DROP_RATE = 0.15  # of each of them, in training, for the mitigation
MEASURED = ("kl", "calibration", "recall", "inexpressible", "missed", "seconds")
SAVE_EVERY = 20  # steps, for the stale index
KEEP = 20  # checkpoints


@dataclass(frozen=True)
class Rows:
    """Candidates of the last day: their columns, and `[R]` the true and the heavy ranker's click probabilities, bids,
    requests and the ads' ages in days."""

    table: pa.Table
    truth: np.ndarray
    heavy: np.ndarray
    bid: np.ndarray
    request: np.ndarray
    age: np.ndarray


@functools.cache
def last_day(world: AdWorldConfig) -> Rows:
    """Of the scenario."""
    found = [b for b in candidates(world) if b.day == world.days - 1 and b.scenario == SCENARIO]
    table = pa.concat_tables([b.table for b in found])
    truth = np.concatenate([b.oracle.column("true_click").to_numpy() for b in found])
    names = ("teacher_click", "bid", "request_id", "ad_age_days")
    return Rows(table, truth, *(table.column(name).to_numpy() for name in names))


def figures(rows: Rows, p: np.ndarray, among: np.ndarray | None = None) -> dict[str, float]:
    """`kl` and `calibration` (sum of p / sum of the truth), on the rows `among`, and `recall` where that is all."""
    chosen = np.ones(len(p), bool) if among is None else among
    truth, one = rows.truth[chosen].astype(np.float64), np.ones(int(chosen.sum()))
    kl = probability.log_loss(p[chosen], truth, one) - probability.entropy(truth, one)
    found = {"kl": kl, "calibration": float(p[chosen].sum(dtype=np.float64) / truth.sum())}
    if among is None:
        funnel = funnel_metrics(rows.bid * p, rows.bid * rows.heavy, rows.request, (BEST,), (PASSED,))
        found["recall"] = funnel["at"][0]["recall"]
    return found


@dataclass(frozen=True)
class Bench:
    """Trains and remembers models of a seed below a directory."""

    workdir: Path
    seed: int

    def model(self, name: str, world: AdWorldConfig, config: Config, hidden: tuple[str, ...] = ()) -> Trained:
        """A model of `config`, trained on a world; the features `hidden` are null in `DROP_RATE` of its rows each."""
        data = self.workdir / "data" / f"share{world.interaction_share}{'-hidden' if hidden else ''}"
        if not data.exists():
            prepare(schema(world), self._chunks(world, hidden), data)
        config = dataclasses.replace(config, seed=self.seed, data=dataclasses.replace(config.data, path=str(data)))
        train(config, self.run(name), name=f"{name}, seed {self.seed}")
        return load_trained(self.run(name))

    def run(self, name: str) -> Path:
        """The directory of a run."""
        return self.workdir / "runs" / f"{name}-seed{self.seed}"

    def _chunks(self, world: AdWorldConfig, hidden: tuple[str, ...]) -> Iterator[Chunk]:
        rng = np.random.default_rng(world.seed)
        for chunk in recipe.read(world, ("candidates",)):
            if chunk.table.column("scenario")[0].as_py() != SCENARIO:
                continue
            table = chunk.table
            for name in hidden if chunk.split.startswith("train") else ():
                table = without(table, name, rng.random(len(table)) < DROP_RATE)
            yield dataclasses.replace(chunk, table=table)


def settings(**model: Any) -> Config:
    """The configuration of AdWorld for soft labels on candidates, with fields of `ModelConfig` replaced."""
    kind = model.pop("kind", "mmoe_dcn")
    config = adworld_config(SCENARIO, labels="soft", kind=kind)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **model),
        data=dataclasses.replace(config.data, eval_split="eval_candidates"),
        train=dataclasses.replace(config.train, save_every=SAVE_EVERY, keep_last=KEEP),
    )


def without(table: pa.Table, name: str, rows: np.ndarray | None = None) -> pa.Table:
    """A table with null in a column, in all rows or in those of a mask."""
    column = table.column(name).combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    index = np.arange(len(table))
    missing = np.ones(len(table), bool) if rows is None else rows
    return table.set_column(table.column_names.index(name), name, column.take(pa.array(index, mask=missing)))


def click(trained: Trained, table: pa.Table) -> np.ndarray:
    """Probabilities of a click `[R]`."""
    return predictor(trained)(table)["click"]


def interaction(bench: Bench) -> Iterator[dict[str, Any]]:
    """The share of the logit's variance that is no dot product, against the width of the towers and a heavy ranker."""
    for share in (0.0, 0.08, 0.3):
        world = dataclasses.replace(WORLD, interaction_share=share)
        widths = (12, 32, 64) if share == 0.3 else (32,)
        models = {f"D={d}": settings(output_dim=d) for d in widths} | {"heavy": settings(kind="heavy")}
        for name, config in models.items():
            trained = bench.model(f"share{share}-{name}", world, config)
            # The heavy ranker is held against the two-tower of the default width.
            dim = 32 if name == "heavy" else config.model.output_dim
            parts = regret(world, "test", "candidates", predictor(trained), dim, (SCENARIO,))
            split = {k: parts["overall"]["click"][k] for k in ("inexpressible", "missed")}
            rows = last_day(world)
            found = figures(rows, click(trained, rows.table))
            yield {"share": share, "model": name, "rank": parts["interaction_rank"], **found, **split}


def stale_index(bench: Bench) -> Iterator[dict[str, Any]]:
    """The query tower of the last step on ad vectors of earlier ones, and of a model of another seed."""
    trained = bench.model("share0.08-D=32", WORLD, settings())
    other = Bench(bench.workdir, bench.seed + 1).model("share0.08-D=32", WORLD, settings())
    rows, end = last_day(WORLD), trained.step
    for behind, old in ((0, trained), *_earlier(bench.run("share0.08-D=32"), trained)):
        yield {"model": "one run", "steps_behind": behind, "of": end, **figures(rows, mixed(trained, old, rows.table))}
    yield {"model": "another seed", **figures(rows, mixed(trained, other, rows.table))}
    seconds = _seconds_to_embed(trained)
    yield {"model": "mitigation: embed again", "ads": len(corpus(WORLD)), "seconds": round(seconds, 3)}


def _earlier(workdir: Path, trained: Trained) -> Iterator[tuple[int, Trained]]:
    saved = [old for old in load_saved(workdir) if old.step < trained.step]
    for behind in (20, 40, 80, 160, 240):
        at = [old for old in saved if 0 <= (trained.step - old.step) - behind < SAVE_EVERY]
        if at:
            yield trained.step - at[0].step, at[0]


def mixed(new: Trained, old: Trained, table: pa.Table) -> np.ndarray:
    """Probabilities of a click `[R]` with the query tower and bias of `new` and the ad tower of `old`."""
    arrays = Encoder(new.record.schema).encode(
        dict(zip(table.column_names, table.columns, strict=True)), outcomes=False
    ).arrays  # fmt: skip
    predict, (params, tables) = make_mixed_predict(new.model), pair(new, old)
    parts = np.array_split(np.arange(len(table)), 8)
    logits = [predict(params, tables, {name: array[i] for name, array in arrays.items()}) for i in parts]
    return expit(np.concatenate(logits)[:, new.record.schema.heads.index("click")])


def _seconds_to_embed(trained: Trained) -> float:
    ads = corpus(WORLD)
    encoder = Encoder(trained.record.schema)
    columns = dict(zip(ads.column_names, ads.columns, strict=True))
    run = jax.jit(lambda p, t, ids, floats: trained.model.embed(p, t, "ad", ids, floats))

    def once() -> None:
        found = encoder.encode(columns, ("ad",), outcomes=False).arrays
        run(trained.params, trained.tables, found["ad_ids"], found["ad_floats"]).block_until_ready()

    once()
    start = time.perf_counter()
    once()
    return time.perf_counter() - start


def missing_feature(bench: Bench) -> Iterator[dict[str, Any]]:
    """A feature that is null in every request served, for a model that never saw it null and for one that did."""
    rows = last_day(WORLD)
    models = {
        "always there in training": bench.model("share0.08-D=32", WORLD, settings()),
        "mitigation: null in 15 % of training": bench.model("hidden", WORLD, settings(), hidden=DROPPED),
    }
    for name, trained in models.items():
        yield {"model": name, "missing": "none", **figures(rows, click(trained, rows.table))}
        for feature in DROPPED:
            yield {"model": name, "missing": feature, **figures(rows, click(trained, without(rows.table, feature)))}


def cold_ads(bench: Bench) -> Iterator[dict[str, Any]]:
    """Ads that were born on the last day, and those that training saw, for models that lean on ids more or less."""
    rows = last_day(WORLD)
    new = rows.age == 0
    models = {"default": {}, "mitigation: id_dropout=0.2": {"id_dropout": 0.2}, "id_dropout=0.5": {"id_dropout": 0.5}}
    for name, model in models.items():
        run = "share0.08-D=32" if not model else f"id_dropout{model['id_dropout']}"
        p = click(bench.model(run, WORLD, settings(**model)), rows.table)
        for ads, among in (("new", new), ("known", ~new)):
            yield {"model": name, "ads": ads, "rows": int(among.sum()), **figures(rows, p, among)}


SWEEPS: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "interaction": interaction,
    "stale_index": stale_index,
    "missing_feature": missing_feature,
    "cold_ads": cold_ads,
}


def over_seeds(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line of those of all seeds: means, to four digits, and `spread`, the standard deviations of what differs."""
    line: dict[str, Any] = {"seeds": len(found)}
    spread: dict[str, float] = {}
    for key, first in found[0].items():
        values = [f[key] for f in found]
        if key in MEASURED:
            line[key] = float(f"{statistics.fmean(values):.4g}")
            spread[key] = float(f"{statistics.stdev(values):.2g}") if len(values) > 1 else 0.0
        elif any(v != first for v in values):
            raise ValueError(f"{key}: expected the same for every seed, got {values}")
        else:
            line[key] = first
    return {**line, "spread": spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="write the lines there too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    args = parser.parse_args()
    lines = []
    for name in args.only:
        by_seed = [list(SWEEPS[name](Bench(args.workdir, seed))) for seed in range(args.seeds)]
        for found in zip(*by_seed, strict=True):
            lines.append(json.dumps({"benchmark": "limits", "sweep": name, **over_seeds(found)}))
            print(lines[-1], flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
