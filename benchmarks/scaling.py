"""Scale on paper: memory, bytes sent and time of a training step on many GPUs. Arithmetic, not a measurement.

    python -m benchmarks.scaling [--gpus 8 16 32 64] [--gpu h100 h200] [--rows 1e9] [--columns 8] ...

Prints one JSON line per kind and number of GPUs, then a table; docs/explanation/scaling.md quotes it and explains the
terms.

Layout: a host has up to 8 GPUs and `hosts` hosts work on one batch, split by examples. A table is split by columns over
groups of `columns` GPUs of a host, and by rows over the groups; an accumulator by rows only, so every GPU of a group
has a copy of its group's. An id travels to the group that owns its row; its values come back, each once. Rows are
spread evenly, so that nothing is padded. Dense parameters are replicated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from benchmarks.train_step import flops_per_example
from tt_jax.config import ModelConfig

GPUS_PER_HOST = 8
MEMORY_GIB = {"h100": 80.0, "h200": 139.0}  # vendor's data sheets; what an H200 of "141 GB" let us have
HBM = {"h100": 3.35e12, "h200": 4.8e12}  # bytes/s, nominal, vendor's data sheets
MATMUL_FLOPS = 790e12  # FLOP/s, measured: one large bf16 product on an H200; the H100 has the same multipliers
MATMUL_SHARE = 0.5  # of it in our thinner products: the aim of benchmarks.train_step on a GPU, an assumption
HBM_SHARE = 4.3 / 4.8  # of the nominal bandwidth: a copy on an H200, measured at 4.3 TB/s
RANDOM_SHARE = 0.5  # of that again for rows read and written at random: an assumption
SECTOR = 32  # bytes, the least that a GPU moves of its memory: CUDA C++ Best Practices Guide, "Coalesced Access"
NVLINK = 450e9  # bytes/s per GPU and direction, NVLink 4, nominal
NETWORK = 400e9 / 8  # bytes/s per GPU and direction: one 400 Gb/s InfiniBand port a GPU, an assumption
LINK_SHARE = 0.8  # of a nominal link in a large collective: an assumption
HOST_READS = 7e6  # examples/s that 2 cores read and shuffle, measured: docs/log/2026-11-30-performance.md, "Input"
ACTIVATION_PASSES = 5  # over a kept float: write, read; read again backward; its gradient's write, read. An assumption
SORT_BYTES = 8 * 2 * 8  # per id: radix sort of a 64-bit key, 8 digits of 8 bits, each one read and one write
BYTES = {"f32": 4, "bf16": 2}
GIB = 2**30
EXAMPLES_PER_DAY = 1e9


@dataclass(frozen=True)
class Plan:
    """What is trained on what: the options of the command.

    `rows` of all tables together; `columns`: GPUs of a host that share a row; `wire_dtype`: of values and gradients as
    sent; `host_reads`: examples/s; `cat`, `num`: features per tower. ValueError where the GPUs do not fill hosts or the
    columns do not divide.
    """

    gpus: int
    gpu: str
    rows: float = 1e9
    dim: int = 16
    batch_per_gpu: int = 65536
    columns: int = GPUS_PER_HOST
    table_dtype: str = "f32"
    wire_dtype: str = "f32"
    host_reads: float = HOST_READS
    cat: int = 16
    num: int = 16
    tasks: int = 2

    def __post_init__(self) -> None:
        if self.gpus < 1 or (self.gpus > GPUS_PER_HOST and self.gpus % GPUS_PER_HOST):
            raise ValueError(f"gpus {self.gpus}: expected 1..{GPUS_PER_HOST} or a multiple of {GPUS_PER_HOST}")
        if self.columns < 1 or self.per_host % self.columns or self.dim % self.columns:
            raise ValueError(
                f"columns {self.columns}: expected a divisor of {self.per_host} GPUs and of dim {self.dim}"
            )

    @property
    def per_host(self) -> int:
        """GPUs of a host."""
        return min(self.gpus, GPUS_PER_HOST)

    @property
    def hosts(self) -> int:
        """Hosts, with `per_host` GPUs each."""
        return self.gpus // self.per_host

    @property
    def ids(self) -> int:
        """Ids of one GPU's examples in a step."""
        return self.batch_per_gpu * 2 * self.cat

    @property
    def ids_served(self) -> int:
        """Ids whose rows a GPU reads and updates in a step: each of its group has a part of every row asked for."""
        return self.ids * self.columns


def dense_flops(p: Plan) -> int:
    """Matmul FLOPs per example, forward and backward, of `benchmarks.train_step` at the default model."""
    m = ModelConfig()
    shape = argparse.Namespace(
        cat=p.cat, num=p.num, dim=p.dim, tasks=p.tasks, experts=m.experts, full=m.full_rank_layers,
        low=m.low_rank_layers, rank=m.rank, mlp=m.mlp, out=m.output_dim,
    )  # fmt: skip
    return flops_per_example(shape)


def dense_parameters(p: Plan) -> int:
    """Weights of both towers, without biases: each costs 2 FLOPs an example in each of three products."""
    return dense_flops(p) // 6


def kept_floats(p: Plan) -> int:
    """Float32 activations per example kept for the backward pass: x and W x + b of a cross layer, else outputs."""
    m, d = ModelConfig(), p.cat * p.dim + p.num
    cross = m.full_rank_layers * 2 * d + m.low_rank_layers * (2 * d + m.rank)
    expert = cross + sum(m.mlp) + m.output_dim
    return 2 * (d + m.experts * expert + p.tasks * (m.gate_hidden + m.experts + 2 * m.output_dim))


def input_bytes(p: Plan) -> int:
    """Bytes per example of the arrays a step reads: int32 ids, float32 floats, labels and weights."""
    return 4 * (2 * p.cat + 2 * p.num + 2 * p.tasks)


@dataclass(frozen=True)
class Memory:
    """GiB of one GPU."""

    table: float
    accumulator: float
    dense: float
    activations: float
    buffers: float


def memory(p: Plan) -> Memory:
    """GiB of one GPU in a step. Nothing for fragmentation or the libraries' own buffers."""
    share = 4 * p.dim // p.columns  # bytes of a row on one GPU, in float32
    sizes = Memory(
        table=p.rows * p.dim * BYTES[p.table_dtype] / p.gpus,
        accumulator=p.rows * 4 * p.columns / p.gpus,
        dense=dense_parameters(p) * 4 * 4,  # parameter, gradient, two moments of Adam
        activations=p.batch_per_gpu * kept_floats(p) * 4,
        # Served: ids, keys before and after the sort, rows, gradients, sums. Own: values, gradients. Two batches.
        buffers=p.ids_served * (4 + 2 * 8 + 3 * share) + p.ids * p.dim * 2 * 4 + 2 * p.batch_per_gpu * input_bytes(p),
    )
    return Memory(**{name: size / GIB for name, size in asdict(sizes).items()})


def rows_that_fit(p: Plan) -> float:
    """Rows at which the GPUs' memory is full."""
    m = memory(p)
    per_row = (p.dim * BYTES[p.table_dtype] + 4 * p.columns) / p.gpus
    return (MEMORY_GIB[p.gpu] - m.dense - m.activations - m.buffers) * GIB / per_row


@dataclass(frozen=True)
class Wire:
    """MB (10^6 bytes) that one GPU sends in a step over one kind of link."""

    ids: float
    values: float
    norms: float
    dense: float


def total(sizes: Memory | Wire) -> float:
    """Their sum, in their unit."""
    return sum(asdict(sizes).values())


def nvlink(p: Plan) -> Wire:
    """MB within a host: ids to all GPUs of their group, values forward and backward, the squared norms that row-wise
    Adagrad sums over a group, and the dense gradient's reduce-scatter and all-gather."""
    away = (p.per_host - 1) / p.per_host
    return Wire(
        ids=away * p.columns * p.ids * 4 / 1e6,
        values=2 * away * p.ids * p.dim * BYTES[p.wire_dtype] / 1e6,
        norms=2 * (p.columns - 1) / p.columns * p.ids_served * 4 / 1e6,
        dense=2 * away * dense_parameters(p) * 4 / 1e6,
    )


def network(p: Plan) -> Wire:
    """MB between hosts, as `nvlink`: from GPU i to GPU i of another host, which passes on what is not its own."""
    away = (p.hosts - 1) / p.hosts
    return Wire(
        ids=away * p.ids * 4 / 1e6,
        values=2 * away * p.ids * p.dim * BYTES[p.wire_dtype] / 1e6,
        norms=0.0,  # a row lies within a host
        dense=2 * away * dense_parameters(p) / p.per_host * 4 / 1e6,
    )


def sectors(bytes_: int) -> int:
    """Bytes that the memory moves for one random access of so many."""
    return -(-bytes_ // SECTOR) * SECTOR


def row_traffic(p: Plan) -> tuple[int, int]:
    """Bytes per id served, (at random, in order), of the gather, sort, sum and scatter of `training/sparse.py`."""
    values = p.dim // p.columns
    table, gradient = values * BYTES[p.table_dtype], values * 4
    # Row read; gradient read in sorted order; row and accumulator read and written.
    at_random = sectors(table) + sectors(gradient) + 2 * sectors(table) + 2 * sectors(4)
    # Row read is written out; sorted gradient written, read and its sum written.
    return at_random, SORT_BYTES + table + 3 * gradient


@dataclass(frozen=True)
class Times:
    """Milliseconds of a step, each alone."""

    matmul: float
    elementwise: float
    rows: float
    nvlink: float
    network: float
    input: float

    @property
    def gpu(self) -> float:
        """ms of the GPU's own work, which does not overlap with itself."""
        return self.matmul + self.elementwise + self.rows

    @property
    def overlapped(self) -> float:
        """ms if the GPU's own work, the links and the input all overlap fully."""
        return max(self.gpu, self.nvlink, self.network, self.input)

    @property
    def serial(self) -> float:
        """ms if only the input, which is always read ahead, overlaps with anything."""
        return max(self.gpu + self.nvlink + self.network, self.input)

    @property
    def slowest(self) -> str:
        """What sets the overlapped step: input, a link, or the largest part of the GPU's own work."""
        name = max(("gpu", "nvlink", "network", "input"), key=lambda n: getattr(self, n))
        return name if name != "gpu" else max(("matmul", "elementwise", "rows"), key=lambda n: getattr(self, n))


def times(p: Plan) -> Times:
    """Milliseconds of each term of a step. Nothing for the launch of kernels and collectives."""
    hbm = HBM[p.gpu] * HBM_SHARE
    at_random, in_order = row_traffic(p)
    adam = dense_parameters(p) * 4 * 7  # bytes: parameter and moments read and written, gradient read
    seconds = Times(
        matmul=p.batch_per_gpu * dense_flops(p) / (MATMUL_FLOPS * MATMUL_SHARE),
        elementwise=(p.batch_per_gpu * kept_floats(p) * 4 * ACTIVATION_PASSES + adam) / hbm,
        rows=p.ids_served * (at_random / RANDOM_SHARE + in_order) / hbm,
        nvlink=total(nvlink(p)) * 1e6 / (NVLINK * LINK_SHARE),
        network=total(network(p)) * 1e6 / (NETWORK * LINK_SHARE),
        input=p.per_host * p.batch_per_gpu / p.host_reads,
    )
    return Times(**{name: value * 1e3 for name, value in asdict(seconds).items()})


def figures(p: Plan) -> dict[str, str | float]:
    """Name, with its unit -> figure, in the order of the table."""
    m, t, batch = memory(p), times(p), p.gpus * p.batch_per_gpu
    groups: tuple[tuple[str, dict[str, str | float]], ...] = (
        ("GiB", {**asdict(m), "all": total(m), "there are": MEMORY_GIB[p.gpu]}),
        ("10^9 rows", {"that fit": rows_that_fit(p) / 1e9}),
        ("NVLink MB", {**asdict(nvlink(p)), "all": total(nvlink(p))}),
        ("network MB", {**asdict(network(p)), "all": total(network(p))}),
        ("ms", {**asdict(t), "slowest": t.slowest, "step, overlapped": t.overlapped, "step, serial": t.serial}),
        ("M examples/s", {"serial": batch / t.serial / 1e3}),
        ("10^9 examples", {"s, serial": EXAMPLES_PER_DAY / batch * t.serial / 1e3, "steps": EXAMPLES_PER_DAY / batch}),
    )
    return {f"{group}: {name}": figure for group, names in groups for name, figure in names.items()}


def table(plans: Sequence[Plan]) -> str:
    """The figures as Markdown, a column per plan; three significant digits. GiB and MB are those of one GPU."""
    columns = [figures(p) for p in plans]
    rows = [["GiB, MB: of one GPU", *(f"{p.gpus} {p.gpu.upper()}" for p in plans)], ["---"] * (len(plans) + 1)]
    rows += [[name, *(_shown(c[name]) for c in columns)] for name in columns[0]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the JSON lines and the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--gpus", type=int, nargs="+", default=[8, 16, 32, 64])
    p.add_argument("--gpu", choices=tuple(HBM), nargs="+", default=list(HBM))
    for f in fields(Plan)[2:]:
        dtypes = tuple(BYTES) if f.type == "str" else None
        p.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default, choices=dtypes)
    options = vars(p.parse_args(argv))
    counts, kinds, columns = options.pop("gpus"), options.pop("gpu"), options.pop("columns")
    plans = [Plan(gpus=n, gpu=gpu, columns=min(columns, n), **options) for gpu in kinds for n in counts]
    for plan in plans:
        print(json.dumps({"benchmark": "scaling", **asdict(plan), **figures(plan)}))
    print(f"\n{table(plans)}")


if __name__ == "__main__":
    main()
