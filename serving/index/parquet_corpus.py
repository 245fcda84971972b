"""A corpus of ads in a Parquet file that need not fit into memory: what all ads are known by, and the rest in ranges.

pyarrow is imported only where a file is read, so that a service does not need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from serving.eligibility.ad_attributes import AdAttributes
from serving.index.ad_columns import (
    BID,
    ELIGIBLE,
    read_ad_ids,
    read_bids,
    require_ad_columns,
    require_different,
)
from tt_jax.features.columns import EncodeError, read_flags
from tt_jax.schema import Schema

_RANGE_BATCHES = 16  # at least, so that small row groups do not make many small parts
_BUFFER_BYTES = 2**20  # of a column; without, the bytes of a whole row group are held, which can be the whole file


@dataclass(frozen=True, eq=False)
class ParquetCorpus:
    """The ads of a file, their features left out.

    Attributes:
      path: the file.
      ids: int64 `[n]`, or n strings; distinct.
      bids: float32 `[n]`, finite, >= 0.
      valid: bool `[n]`.
      attributes: of the n ads.
      groups: numbers of rows of its row groups.
    """

    path: Path
    ids: np.ndarray | list[str]
    bids: np.ndarray
    valid: np.ndarray
    attributes: AdAttributes
    groups: tuple[int, ...]

    @staticmethod
    def read(path: Path, schema: Schema) -> ParquetCorpus:
        """Raises `EncodeError` naming column, row and value, or ValueError for what is no Parquet file."""
        with _parquet(path) as file:
            metadata = file.metadata
            groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
            names = file.schema_arrow.names
            if metadata.num_rows == 0:
                raise EncodeError(schema.ad_id, None, "the corpus is empty; expected at least one ad")
            require_different(names)
            require_ad_columns(schema, names)
            # One after the other, so that what reading takes beside its result is there for one only.
            column = lambda name: file.read([name]).column(name)  # noqa: E731
            ids = read_ad_ids(schema.ad_id, column(schema.ad_id), schema.ad_id_dtype)
            bids, valid = read_bids(column(BID)), read_flags(ELIGIBLE, column(ELIGIBLE))
            columns = {a.name: column(a.name) for a in schema.attributes if a.name in names}
            attributes = AdAttributes.read(schema.attributes, columns, len(ids))
            return ParquetCorpus(path, ids, bids, valid, attributes, groups)

    def ranges(self, batch: int) -> list[tuple[int, int]]:
        """First row of each range and first row after it: of about a row group, in whole batches but for the last.

        Batches are the same ones however the file is cut, and so are their vectors.
        """
        n = sum(self.groups)
        cuts = [0]
        for end in accumulate(self.groups):
            cut = -(-end // batch) * batch
            if cut < n and cut - cuts[-1] >= _RANGE_BATCHES * batch:
                cuts.append(cut)
        return list(pairwise([*cuts, n]))


def batches(path: Path, columns: Sequence[str], start: int, stop: int, batch: int) -> Iterator[tuple[int, Any]]:
    """The rows of a range as Arrow tables of `batch` rows, the last of what is left, each after its first row.

    A few batches are in memory. Raises ValueError, naming the file.
    """
    import pyarrow as pa

    with _parquet(path) as file:
        groups, first = _groups_of(file.metadata, start, stop)
        held, skip = None, start - first
        for piece in file.iter_batches(batch, row_groups=groups, columns=list(columns)):
            skipped = min(skip, piece.num_rows)
            skip -= skipped
            table = pa.Table.from_batches([piece]).slice(skipped)
            held = table if held is None else pa.concat_tables([held, table])
            while held.num_rows >= (rows := min(batch, stop - start)) > 0:
                yield start, held.slice(0, rows)
                held, start = held.slice(rows), start + rows


def _groups_of(metadata: Any, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups that have rows of a range, and the first row of the first of them."""
    ends = list(accumulate((metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)), initial=0))
    groups = [i for i, (a, b) in enumerate(pairwise(ends)) if a < stop and b > start]
    return groups, ends[groups[0]]


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """The file, opened. What Arrow finds wrong with it is a ValueError with its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
            yield file
    except (pa.ArrowInvalid, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:  # the system's: no such file
            raise
        raise ValueError(f"{path}: not a readable Parquet file: {' '.join(str(e).split())}") from None
