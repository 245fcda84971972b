"""Ads that change at random, and how they should be after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tests.support import tiny
from tt_jax.bundle.reader import Bundle

ADS = 100


class World:
    """The ads as they should be, by id, and what a set of random changes does to them."""

    def __init__(self, bundle: Bundle, rng: np.random.Generator) -> None:
        self.bundle, self.rng, self.key, self.made = bundle, rng, bundle.schema.ad_id, 0
        self.ads = {row[self.key]: row for row in self._new(ADS)}

    def _new(self, n: int) -> list[dict[str, Any]]:
        ids = list(range(self.made, self.made + n))
        self.made += n
        rows = tiny.rows({**tiny.ad_columns(self.rng, n, ids), "name": [f"ad {i} \u00e9" for i in ids]})
        for row in rows:
            row |= {"bid": float(self.rng.exponential()), "eligible": bool(self.rng.random() < 0.8)}
            if self.key == "ad_id":
                del row["name"]
        return rows

    def table(self, ids: list[Any]) -> pa.Table:
        """The ads in this order."""
        types = {"topics": pa.list_(pa.string()), "ad_embedding": pa.list_(pa.float64())}
        rows = [self.ads[ad] for ad in ids]
        return pa.table({name: pa.array([row[name] for row in rows], types.get(name)) for name in rows[0]})

    def change(self, new: int) -> dict[str, Any]:
        """The body that asks for what was done here."""
        known = list(self.ads)
        ids = [known[i] for i in self.rng.permutation(len(known))]
        replaced, enable, disable, rebid, remove = ids[:3], ids[3:6], ids[6:9], ids[4:11], ids[11:15]
        upsert = [dict(self.ads[ad], price=float(self.rng.exponential(10)), bid=0.5, eligible=True) for ad in replaced]
        upsert += self._new(new)
        for row in upsert:
            self.ads[row[self.key]] = dict(row)
        for ad in (*enable, *disable):
            self.ads[ad]["eligible"] = ad in enable
        for ad in rebid:
            self.ads[ad]["bid"] = float(self.rng.exponential())
        for ad in remove:
            del self.ads[ad]
        pairs = [[ad, self.ads[ad]["bid"]] for ad in rebid]
        return {"upsert": upsert, "enable": enable, "disable": disable, "rebid": pairs, "remove": remove}
