"""What `benchmarks.top_k --where` is compared with: faiss (flat, a bitmap selector), and PyTorch (a boolean mask).

    PEER_PYTHON benchmarks/peers/eligible_faiss_torch.py --n 1000000

Run it by a Python that has faiss-cpu or torch. Ads, sets, numbers, flights and excluded ads are as many as there, and
as selective. Both build the mask of each query anew: faiss' selector in NumPy, a search a query; PyTorch on all queries
at once. Prints one JSON line per peer and batch size: milliseconds, median of the timed runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

NOW, EXCLUDED, K_OF_SETS = 1_760_000_000, 1000, 32


def main() -> None:
    """Times whichever peer is there."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--n", type=int, default=1_000_000)
    p.add_argument("--dim", type=int, default=64)
    p.add_argument("--k", type=int, default=1000)
    p.add_argument("--batches", type=int, nargs="+", default=(1, 8, 32))
    p.add_argument("--repeats", type=int, default=10)
    a = p.parse_args()
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((a.n, a.dim), np.float32)
    sets = [np.left_shift(np.uint32(1), rng.integers(0, 32, (a.n, 3), np.uint32)) for _ in range(4)]
    words = [np.bitwise_or.reduce(bits, axis=1) for bits in sets]
    price, age = rng.random((2, a.n), np.float32)
    start = (NOW + rng.integers(-1000, 100, a.n)).astype(np.int64)
    ads = (*words, price, age, start)
    for batch in a.batches:
        queries = rng.standard_normal((batch, a.dim), np.float32)
        asked = np.left_shift(np.uint32(1), rng.integers(0, 32, (batch, 4), np.uint32))
        asked[:, 2] |= np.uint32(0b1111)  # four forbidden values
        asked[:, 3] = rng.integers(0, 2**32, batch, np.uint32)  # half of the values
        excluded = rng.integers(0, a.n, (batch, EXCLUDED))
        for peer, call in (("faiss", _faiss(rows)), ("torch", _torch(rows, ads))):
            if call:
                ms = _median_ms(lambda call=call, o=(queries, asked, excluded): call(ads, *o, a.k), a.repeats)
                print(json.dumps({"peer": f"{peer}, conditions", "n": a.n, "batch": batch, "ms": ms}), flush=True)


def _median_ms(call: Callable[[], Any], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)) * 1e3, 3)


def _faiss(rows: np.ndarray) -> Callable[..., None] | None:
    try:
        import faiss
    except ModuleNotFoundError:
        return None
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)

    def call(ads: Any, queries: np.ndarray, asked: np.ndarray, excluded: np.ndarray, k: int) -> None:
        country, placement, category, label, price, age, start = ads
        for query, (c, p, forbidden, some), out in zip(queries, asked, excluded, strict=True):
            ok = ((country & c) != 0) & ((placement & p) != 0) & ((category & forbidden) == 0) & ((label & some) != 0)
            ok &= (price <= 0.9) & (age >= 0.1) & (start <= NOW) & (start + 1000 > NOW)
            ok[out] = False
            selector = faiss.IDSelectorBitmap(np.packbits(ok, bitorder="little"))
            index.search(query[None], k, params=faiss.SearchParameters(sel=selector))

    return call


def _torch(rows: np.ndarray, ads: tuple[np.ndarray, ...]) -> Callable[..., None] | None:
    try:
        import torch
    except ModuleNotFoundError:
        return None
    vectors, columns = torch.from_numpy(rows), [torch.from_numpy(x.astype(np.int64)) for x in ads[:4]]
    price, age, start = (torch.from_numpy(x) for x in ads[4:])

    def call(_: Any, queries: np.ndarray, asked: np.ndarray, excluded: np.ndarray, k: int) -> None:
        with torch.inference_mode():
            scores = torch.from_numpy(queries) @ vectors.T
            wanted, out = torch.from_numpy(asked.astype(np.int64)), torch.from_numpy(excluded)
            for row in range(len(queries)):
                c, p, forbidden, some = (wanted[row, i] for i in range(4))
                ok = ((columns[0] & c) != 0) & ((columns[1] & p) != 0) & ((columns[2] & forbidden) == 0)
                ok &= (columns[3] & some) != 0
                ok &= (price <= 0.9) & (age >= 0.1) & (start <= NOW) & (start + 1000 > NOW)
                ok[out[row]] = False
                scores[row].masked_fill_(~ok, -torch.inf)
            torch.topk(torch.sigmoid(scores), k)

    return call


if __name__ == "__main__":
    main()
