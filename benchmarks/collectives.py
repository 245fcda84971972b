"""The collectives of a compiled program, and the bytes that each device sends for them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

_KINDS = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute|collective-broadcast|ragged-all-to-all"
_LINE = re.compile(rf"^\s*(?:ROOT )?%?\S+ = (.+?) ({_KINDS})(-start)?\(.*$", re.M)
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+)\[([\d,]*)\]")


@dataclass(frozen=True)
class Collective:
    """One collective.

    Attributes:
      kind: as XLA calls it, `all-gather`.
      shapes: dtype and dimensions of its results on a device.
      devices: that take part in a group of it.
      at_top: in the program's entry, not in a loop or branch: it runs once.
    """

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    devices: int
    at_top: bool

    @property
    def bytes_sent(self) -> float:
        """Bytes that a device sends if it runs once, by the ring (all-gather, reduce-scatter, all-reduce as the two in
        turn) or directly (all-to-all): what a device has to send at least for that collective."""
        size, n = sum(_bytes(dtype) * prod(dims) for dtype, dims in self.shapes), self.devices
        share = (n - 1) / n
        by_kind = {
            "all-gather": share, "all-to-all": share, "reduce-scatter": n - 1.0, "all-reduce": 2 * share,
            "collective-permute": 1.0,
        }  # fmt: skip
        return size * by_kind[self.kind]


def collectives(hlo: str) -> list[Collective]:
    """Of the text of a compiled program, `compiled.as_text()`. Raises `ValueError` for a line not understood."""
    entry = hlo.index("\nENTRY ")
    end = hlo.index("\n}", entry)
    found = []
    for match in _LINE.finditer(hlo):
        shapes = tuple((dtype, tuple(int(d) for d in dims.split(",") if d)) for dtype, dims in _SHAPE.findall(match[1]))
        if match[3] and match[2] in ("all-gather", "collective-permute"):  # (operands, results)
            shapes = shapes[len(shapes) // 2 :]
        found.append(Collective(match[2], shapes, _group_size(match[0]), entry < match.start() < end))
    return found


def _bytes(dtype: str) -> int:
    return 1 if dtype == "pred" else max(1, int(re.sub(r"\D", "", dtype)) // 8)


def _group_size(line: str) -> int:
    """Devices of a group, written out `{{0,1},{2,3}}` or as an iota `[2,2]<=[4]`."""
    if written := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", line):
        return len(written[1].split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(iota[1])
    raise ValueError(f"no replica groups in {line.strip()[:200]!r}")
