"""Ranks ads that are split over 8 simulated devices, and prints JSON of the programs; what came out is saved.

A program of its own, because the number of devices is fixed when JAX starts:
`python -m tests.support.sharded_ads OUT.npz BUNDLE`. A key of `OUT.npz` begins with the name of a mesh.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from serving.admin.messages import read_changes
from serving.index.ad_index import index_table, now
from serving.index.quantized import stored
from serving.scorer import Scorer
from serving.scorer_updates import prepare
from serving.scoring import device_corpus
from serving.scoring.device_corpus import BLOCK
from serving.scoring.results import ScoredAd
from serving.scoring.sharding import (
    WHOLE,
    ads_mesh,
    corpus_specs,
    in_a_row,
    packer,
    places_on,
    score_and_top_k,
    scratch_spec,
    split,
    spread,
)
from tests.support import targeting, tiny
from tests.support.changing_ads import World
from tt_jax.bundle.reader import Bundle
from tt_jax.utility import Utility

TASKS, KS = ("click", "long_view"), (1, 100, 2000)
N, DIM, B, K, LISTS = 1500, 16, 8, 40, 1200
CASES = [(1, "float32", 1), (1, "float32", B), (2, "float32", 1), (2, "float32", B), (2, "bfloat16", B), (2, "int8", B)]
NEW = (4, 1500, 2)  # ads of each set of changes: the second one needs more places on any mesh
QUERIES = tiny.queries(np.random.default_rng(0), 3)


def meshes() -> dict[str, Mesh]:
    """By name, in a row or not."""
    return {"1": ads_mesh(), "3": ads_mesh(3), "8": Mesh(np.array(jax.devices()).reshape(2, 4), ("host", "device"))}


def scans(mesh: Mesh, tasks: int, dtype: str, queries: int) -> dict[str, np.ndarray]:
    """The best of all ads for each of `KS`. Many are equal, so they tie, wherever they stand."""
    rng = np.random.default_rng(13)
    ads = rng.standard_normal((N, tasks, DIM)).astype(np.float32)
    ads[rng.random(N) < 0.5] = ads[0]
    vectors = rng.standard_normal((tasks, queries, DIM)).astype(np.float32)
    bids = rng.integers(1, 3, N).astype(np.float32)
    valid = rng.random(N) < 0.7
    mesh, utility = in_a_row(mesh), Utility.parse(f"bid * ({' + '.join(TASKS[:tasks])})", TASKS[:tasks])
    places = places_on(mesh, N)
    parts = [spread(x, mesh, places) for x in (np.asarray(stored(jnp.asarray(ads), np.dtype(dtype))), bids, valid)]
    corpus = packer(mesh, tuple(range(tasks)), places, [*parts, None])(*parts, None)
    biases = jnp.full(tasks, 0.25, jnp.float32)

    def ranked(*args: Any) -> Any:
        queries, corpus, scratch, which = args
        return score_and_top_k(queries, corpus, biases, utility, KS, scratch, None, which)[0]

    specs = (WHOLE, corpus_specs(corpus), scratch_spec(corpus, queries), WHOLE)
    call = jax.jit(split(ranked, mesh, specs, WHOLE))
    found = {}
    for which, k in enumerate(KS):
        top = call(vectors, corpus, np.zeros(corpus.scratch_shape(queries), np.float32), np.int32(which))
        eligible = min(k, int(valid.sum()))
        for name in ("positions_Bk", "utility_Bk", "probabilities_TBk"):
            found[f"{name} of {k}"] = np.asarray(getattr(top, name))[..., :eligible]
    return found


def live(mesh: Mesh, bundle: Bundle) -> tuple[dict[str, np.ndarray], Scorer]:
    """Answers of a scorer as it was loaded, and after each set of changes."""
    world = World(bundle, np.random.default_rng(1))
    index = index_table(bundle, world.table(list(world.ads)), batch=64)
    scorer = Scorer(bundle, index, max_k=K, max_candidates=LISTS, warm=False, mesh=mesh)
    found = {f"0 {key}": value for key, value in answers(scorer).items()}
    for step, new in enumerate(NEW, 1):
        changes = read_changes(json.dumps(world.change(new)).encode(), scorer)
        scorer = prepare(scorer, changes, now(), warm=False).apply(scorer)
        found |= {f"{step} {key}": value for key, value in answers(scorer).items()}
    return found, scorer


def targeted(mesh: Mesh, bundle: Bundle) -> dict[str, np.ndarray]:
    """Answers to requests that say which ads may serve, before and after attributes change."""
    rng = np.random.default_rng(7)
    table, _ = targeting.ads(rng, 400)
    ids = table.column("ad_id").to_pylist()
    requests = [targeting.request(rng, ids) for _ in range(9)]
    said = {key: [request[key] for request in requests] for key in ("context", "where", "exclude")}
    queries = tiny.queries(rng, len(requests))
    scorer = Scorer(bundle, index_table(bundle, table, batch=64), max_k=K, warm=False, mesh=mesh)
    found: dict[str, np.ndarray] = {}
    for step in range(2):
        for name, lists in (("all", None), ("listed", [ids[::3]] * len(queries))):
            ads = scorer.top_k(queries, K, lists, **said)
            found |= {f"{step} {name} {key}": value for key, value in arrays(ads).items()}
        sets = {a.name: [[ad, targeting.attributes(rng)[a.name]] for ad in ids[::5]] for a in targeting.ATTRIBUTES}
        changes = read_changes(json.dumps({"set": sets}).encode(), scorer)
        scorer = prepare(scorer, changes, now(), warm=False).apply(scorer)
    return found


def answers(scorer: Scorer) -> dict[str, np.ndarray]:
    """Of all ads, of lists of them, and the scores of ads that may not be returned either."""
    some = scorer.ads.ids.at(np.flatnonzero(scorer.ads.ids.used)[::2])[:LISTS]
    found = {
        "all": scorer.top_k(QUERIES, K),
        "listed": scorer.top_k(QUERIES, K, [some, some[::-1], some[:3]]),
        "scores": scorer.score(QUERIES, [some] * 3),
    }
    return {f"{name} {key}": value for name, lists in found.items() for key, value in arrays(lists).items()}


def arrays(lists: list[list[ScoredAd]]) -> dict[str, np.ndarray]:
    ads = [ad for ads in lists for ad in ads]
    probabilities = np.array([list(ad.probabilities.values()) for ad in ads], np.float32)
    scores = np.array([ad.score for ad in ads], np.float32)
    return {"ids": np.array([ad.id for ad in ads]), "scores": scores, "probabilities": probabilities}


def facts_of(scorer: Scorer, bundle: Bundle) -> dict[str, Any]:
    """Texts of its compiled programs, its places, those of a device, and whether a like one shares its programs."""
    programs = scorer.programs
    ads = tiny.ads_table(np.random.default_rng(2), programs.places)
    index = index_table(bundle, ads)
    again = Scorer(bundle, index, max_k=K, max_candidates=LISTS, warm=False, like=scorer).programs
    corpus = programs._state.corpus
    leaves = (corpus.rows_NTD, corpus.bids_N, corpus.valid_N)
    return {
        "hlo": {f"{shape.kind} {shape.queries}": call.as_text() for shape, call in programs._compiled.items()},
        "places": programs.places,
        "of_a_device": [leaf.sharding.shard_shape(leaf.shape)[0] for leaf in leaves],
        "shared": again._compiled is programs._compiled,
    }


def main() -> None:
    device_corpus.PART = 2 * BLOCK  # several parts on one device, others on each of many
    bundle = Bundle.load(Path(sys.argv[2]))
    with_attributes = targeting.bundle(Path(sys.argv[1]).with_name("targeting"))
    saved, facts = {}, {}
    for name, mesh in meshes().items():
        for tasks, dtype, queries in CASES if name != "3" else ():
            found = scans(mesh, tasks, dtype, queries)
            saved |= {f"{name}|{tasks} {dtype} {queries} {key}": value for key, value in found.items()}
        found, scorer = live(mesh, bundle)
        saved |= {f"{name}|live {key}": value for key, value in found.items()}
        facts[name] = facts_of(scorer, bundle)
        saved |= {f"{name}|targeted {key}": value for key, value in targeted(mesh, with_attributes).items()}
    np.savez(sys.argv[1], **saved)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
