"""`tt-jax abtest`: two models rank the same requests in AdWorld; what users, advertisers and the platform get of it."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tt_jax.cli.table import number, text_table

EXAMPLE = """  tt-jax abtest --world=runs/quickstart --requests=20000 --out=abtest \\
      --control=runs/quickstart/standard/bundle --treatment=runs/better/bundle
  tt-jax abtest --world=W --control=pooled/bundle --treatment=standard=a/bundle,shopping=b/bundle

A bundle answers for the scenarios that it was trained on, or for the one that it is given as: SCENARIO=BUNDLE. Those
for which both arms have one are replayed. By default both models answer every request, and the intervals are by
bootstrap over users. --design=split sends each user to one model, as an experiment online has to; --repeat=200 does so
with 200 seeds and counts the intervals that leave out 0: with one model as both arms, the false positives, which should
be 5 %. What is simulated, and what is not, stands in tt_jax/evaluation/adworld/replay.py."""
ARMS = ("control", "treatment")
Arm = dict[str, Any]  # scenario -> Bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--world", type=Path, required=True, help="world.json, or the directory that has it")
    for arm in ARMS:
        parser.add_argument(f"--{arm}", required=True, help="BUNDLE, or SCENARIO=BUNDLE, separated by commas")
    parser.add_argument("--requests", type=int, default=20_000, help="of each scenario (default 20000)")
    parser.add_argument("--candidates", type=int, default=200, help="that retrieval finds per request (default 200)")
    parser.add_argument("--top-n", type=int, default=32, help="passed on to the heavy ranker (default 32)")
    parser.add_argument("--top-k", type=int, default=10, help="recall of the heavy ranker's best so many (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the requests and all that chance decides (default 0)")
    parser.add_argument("--design", choices=("paired", "split"), default="paired", help="default paired")
    parser.add_argument("--repeat", type=int, default=0, help="split experiments to count the significant ones of")
    parser.add_argument("--out", type=Path, help="directory for abtest.json and abtest.html")


def run(args: argparse.Namespace) -> int:
    """Prints a table per group of requests; writes JSON and HTML."""
    from input_pipeline.adworld.world import SCENARIOS
    from input_pipeline.recipes.adworld import ads, config_of
    from tt_jax.evaluation.adworld.experiment import count_significant, report
    from tt_jax.evaluation.adworld.replay import Outcomes, Replay, replay, wake
    from tt_jax.io.publish import write_json

    if args.repeat < 0 or (args.repeat and args.design != "split"):
        raise ValueError(f"--repeat={args.repeat}: expected a number >= 0, and --design=split")
    world = config_of(args.world)
    how = Replay(args.requests, args.candidates, args.top_n, args.top_k, args.seed)
    arms = [load_arm(getattr(args, name), name, world) for name in ARMS]
    scenarios = [s for s in SCENARIOS if all(s in arm for arm in arms)]
    if not scenarios:
        raise ValueError(f"no scenario has a bundle in both arms: {' and '.join(', '.join(arm) for arm in arms)}")
    corpus, morning = ads(world), wake(world)
    rankers = {s: _rankers([arm[s] for arm in arms], corpus, s) for s in scenarios}

    def outcomes(seed: int) -> Outcomes:
        again = dataclasses.replace(how, seed=seed)
        return Outcomes.concatenate([replay(morning, SCENARIOS.index(s), rankers[s], again) for s in scenarios])

    start = time.perf_counter()
    if args.repeat:
        rates = count_significant(outcomes, args.repeat, args.seed)
        found: dict[str, Any] = {"experiments": args.repeat, "figures": rates}
        shown = _rates(rates, args.repeat)
    else:
        found = {"groups": report(outcomes(args.seed), args.design, args.seed)}
        shown = "\n\n".join(table(name, group["effects"]) for name, group in found["groups"].items())
    seconds, requests = time.perf_counter() - start, max(1, args.repeat) * args.requests * len(scenarios)
    print(f"{requests:,} requests in {seconds:.1f} s, {requests / seconds:,.0f} a second", file=sys.stderr)
    print(shown)
    if args.out:
        by_arm = {name: _describe(arm) for name, arm in zip(ARMS, arms, strict=True)}
        settings = {"design": args.design, "day": morning.day, "scenarios": scenarios, **dataclasses.asdict(how)}
        written = {**settings, **by_arm, "world": dataclasses.asdict(world), **found}
        write_json(args.out / "abtest.json", written)
        if not args.repeat:
            from tt_jax.report.experiment import experiment_page

            (args.out / "abtest.html").write_text(experiment_page(written), encoding="utf-8")
    return 0


def load_arm(text: str, name: str, world: Any) -> Arm:
    """The bundle of each scenario, of `--control` or `--treatment`. Raises `ValueError` for one that does not fit."""
    from input_pipeline.adworld.simulate import schema
    from input_pipeline.adworld.world import SCENARIOS
    from tt_jax.bundle.reader import Bundle
    from tt_jax.models.scenario import covered_scenarios

    arm: Arm = {}
    for part in text.split(","):
        scenario, _, path = part.partition("=")
        given = bool(path) and scenario in SCENARIOS
        bundle = Bundle.load(path if given else part)
        if bundle.schema.features != schema(world).features:
            raise ValueError(f"--{name}: {bundle.path} is of another world: its features are not those of this one")
        for s in covered_scenarios(bundle.schema, bundle.config.data.scenarios, scenario if given else ""):
            if s in arm:
                raise ValueError(f"--{name}: two bundles for the scenario {s!r}: {arm[s].path} and {bundle.path}")
            arm[s] = bundle
    return arm


def _rankers(bundles: Sequence[Any], corpus: Any, scenario: str) -> list[Any]:
    """A ranker an arm: one and the same for one and the same model, which then ranks once."""
    models = {(bundle.fingerprint, bundle.manifest.utility): bundle for bundle in bundles}
    made = {model: ranker(bundle, corpus, scenario) for model, bundle in models.items()}
    return [made[bundle.fingerprint, bundle.manifest.utility] for bundle in bundles]


def ranker(bundle: Any, corpus: Any, scenario: str) -> Any:
    """A bundle with an index of the scenario's ads, as a `Ranker`: encoder, towers and utility are those of serving."""
    import numpy as np
    import pyarrow as pa

    from serving.index.ad_index import index_table
    from serving.scorer import Scorer
    from tt_jax.evaluation.adworld.replay import CHUNK
    from tt_jax.features.encoder import Encoder

    rows = np.flatnonzero(corpus.column("scenario").to_numpy(zero_copy_only=False) == scenario)
    position = np.zeros(len(corpus), np.int32)
    position[rows] = np.arange(len(rows))
    scorer = Scorer(bundle, index_table(bundle, corpus.take(pa.array(rows))), warm=False)
    encoder = Encoder(bundle.schema)

    def rank(_: object, queries: pa.Table, ad: np.ndarray) -> np.ndarray:
        columns = dict(zip(queries.column_names, queries.columns, strict=True))
        found = encoder.encode(columns, ("query",), outcomes=False).arrays
        spare = ((0, CHUNK - len(ad)), (0, 0))  # so that one program serves all
        arrays = (found["query_ids"], found["query_floats"], position[ad])
        return scorer.utilities(*(np.pad(array, spare) for array in arrays))[: len(ad)]

    return rank


def table(title: str, effects: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a figure under a heading; `*` where the interval leaves out 0."""
    lines = []
    for figure, e in effects.items():
        interval = "-" if e["low"] is None else f"{e['low']:+.2%} .. {e['high']:+.2%}"
        mark = "" if e["low"] is None or e["low"] <= 0 <= e["high"] else " *"
        values = [number(e[arm], ".4f") for arm in ARMS]
        lines.append([f"  {figure}", *values, number(e["relative"], "+.2%"), interval + mark])
    return "\n".join(text_table([title, *ARMS, "difference", "95 % interval"], lines, "lrrrl", (24, 10, 10, 10)))


def _rates(figures: Mapping[str, Mapping[str, Any]], experiments: int) -> str:
    about = f"of {experiments} experiments, the share whose 95 % interval leaves out 0, with its own 95 % interval"
    lines = []
    for name, f in figures.items():
        own = "" if f["rate"] is None else f"{f['low']:.1%} .. {f['high']:.1%}"
        lines.append([f"  {name}", f"{f['significant']} of {f['experiments']}", number(f["rate"], ".1%"), own])
    return "\n".join([about, *text_table([], lines, "lrrl")])


def _describe(arm: Arm) -> dict[str, dict[str, str]]:
    return {s: {"bundle": str(bundle.path), "fingerprint": bundle.fingerprint} for s, bundle in arm.items()}
