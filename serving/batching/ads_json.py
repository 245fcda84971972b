"""The ads of an answer as JSON, straight from arrays: objects of a hundred ads would cost three times as much."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from serving.index.ad_columns import AdId

_ENCODER = msgspec.json.Encoder()


def ads_json(heads: Sequence[str], ids: list[AdId], utility_n: np.ndarray, probabilities_Tn: np.ndarray) -> bytes:
    """What msgspec makes of a list of `ScoredAd`, byte for byte.

    Args:
      heads: names of the T tasks, at least one.
      ids: of n ads.
      utility_n, probabilities_Tn: float32.
    """
    n = len(ids)
    if not n:
        return b"[]"
    first, *rest = [_ENCODER.encode(name) for name in heads]
    keys = [b'}},{"id":', b',"score":', b',"probabilities":{%b:' % first, *(b",%b:" % name for name in rest)]
    numbers = _ENCODER.encode(utility_n.tolist() + probabilities_Tn.ravel().tolist())[1:-1].split(b",")
    columns = [list(map(_ENCODER.encode, ids)), *(numbers[i : i + n] for i in range(0, len(numbers), n))]
    step = 2 * len(keys)
    parts = [b""] * (step * n)
    for i, (key, column) in enumerate(zip(keys, columns, strict=True)):
        parts[2 * i :: step] = [key] * n
        parts[2 * i + 1 :: step] = column
    parts[0] = b'[{"id":'
    parts.append(b"}}]")
    return b"".join(parts)
