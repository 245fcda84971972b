"""The model of benchmarks/scaling.py: limiting cases in closed form, and the page that quotes it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import astuple, replace

import numpy as np
import pytest

from benchmarks import train_step
from benchmarks.scaling import (
    GIB,
    HBM,
    Plan,
    dense_flops,
    dense_parameters,
    input_bytes,
    main,
    memory,
    network,
    nvlink,
    row_traffic,
    rows_that_fit,
    times,
    total,
)
from tests.support.paths import ROOT
from tt_jax.config import ModelConfig
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import MAX_TABLE_ROWS

PAGE = ROOT / "docs" / "explanation" / "scaling.md"
ONE = Plan(1, "h200", columns=1)
HOST = Plan(8, "h200")
EIGHT_HOSTS = Plan(64, "h200")


@pytest.fixture
def benchmark_args(monkeypatch):
    """The arguments that `benchmarks.train_step` takes by default, with a small batch and table."""
    monkeypatch.setattr(sys, "argv", ["train_step", "--batch", "8", "--rows", "320"])
    return train_step.parse_args()


def test_the_shape_is_that_of_the_training_benchmark(benchmark_args):
    assert dense_flops(ONE) == train_step.flops_per_example(benchmark_args)
    batch = train_step.synthetic_batch(benchmark_args, np.random.default_rng(0))
    assert input_bytes(ONE) * 8 == sum(array.nbytes for array in batch.values())
    assert ONE.ids == 65536 * (batch["query_ids"].shape[1] + batch["ad_ids"].shape[1])


def test_dense_parameters_are_those_of_the_model_without_biases(benchmark_args):
    params, _ = TwoTower(train_step.synthetic_schema(benchmark_args), ModelConfig(), "f32").shapes()
    assert dense_parameters(ONE) == sum(p.size for name, p in params.items() if name.endswith("kernel"))


def test_one_gpu_sends_nothing_and_one_host_nothing_over_the_network():
    assert total(nvlink(ONE)) == total(network(ONE)) == total(network(HOST)) == 0
    assert times(ONE).nvlink == times(ONE).network == 0
    assert times(ONE).serial == times(ONE).overlapped


def test_table_memory_is_proportional_to_rows():
    once, twice, none = (memory(replace(HOST, rows=rows)) for rows in (1e9, 2e9, 0))
    assert once.table * 8 * GIB == pytest.approx(1e9 * 16 * 4)
    assert once.accumulator * GIB == pytest.approx(4e9)  # every GPU of the host has a copy
    assert (twice.table, twice.accumulator) == (2 * once.table, 2 * once.accumulator)
    assert none.table == none.accumulator == 0
    assert (none.dense, none.activations, none.buffers) == (once.dense, once.activations, once.buffers)
    assert memory(replace(HOST, table_dtype="bf16")).table == once.table / 2


def test_rows_change_neither_bytes_sent_nor_time():
    more = replace(EIGHT_HOSTS, rows=1e11)
    assert (nvlink(more), network(more), times(more)) == (
        nvlink(EIGHT_HOSTS), network(EIGHT_HOSTS), times(EIGHT_HOSTS),
    )  # fmt: skip


@pytest.mark.parametrize("plan", [ONE, HOST, EIGHT_HOSTS, replace(HOST, columns=2, table_dtype="bf16")])
def test_the_rows_that_fit_fill_the_memory(plan):
    full = memory(replace(plan, rows=rows_that_fit(plan)))
    assert total(full) == pytest.approx(139)


def test_within_a_host_every_byte_is_counted_once():
    ids, values, norms, dense = astuple(nvlink(HOST))
    batch, gpus = 65536, 8
    # Of each GPU's ids, a copy to the 7 others; of the 16 values asked for, 14 come from others, and go back.
    assert ids * 1e6 == batch * 32 * 4 * 7
    assert values * 1e6 == 2 * batch * 32 * 14 * 4
    # A ring all-reduce of n numbers sends 2 n (gpus - 1) / gpus from each.
    assert norms * 1e6 == pytest.approx(2 * gpus * batch * 32 * 4 * 7 / 8)
    assert dense * 1e6 == pytest.approx(2 * dense_parameters(HOST) * 4 * 7 / 8)


def test_what_a_gpu_sends_over_the_network_approaches_a_limit():
    sent = [total(network(Plan(8 * hosts, "h100"))) for hosts in (1, 2, 4, 8, 1024)]
    limit = (65536 * 32 * 4 * (1 + 2 * 16) + 2 * dense_parameters(HOST) * 4 / 8) / 1e6
    assert sent == pytest.approx([limit * (h - 1) / h for h in (1, 2, 4, 8, 1024)])
    assert network(replace(EIGHT_HOSTS, wire_dtype="bf16")).values == network(EIGHT_HOSTS).values / 2


def test_narrow_columns_waste_sectors_and_wide_ones_do_not():
    at_random, _ = row_traffic(replace(HOST, columns=1))  # a row is two whole sectors; the accumulator is part of one
    assert at_random == 4 * 64 + 2 * 32
    narrow, _ = row_traffic(HOST)  # 8 bytes each
    assert narrow == 6 * 32
    assert times(HOST).rows > 4 * times(replace(HOST, columns=1)).rows


def test_times_follow_the_ceilings():
    h100, h200 = times(Plan(8, "h100")), times(HOST)
    assert h100.matmul == h200.matmul == pytest.approx(65536 * dense_flops(HOST) / (790e12 / 2) * 1e3)
    for name in ("elementwise", "rows"):
        assert getattr(h100, name) / getattr(h200, name) == pytest.approx(HBM["h200"] / HBM["h100"])
    assert h200.input == pytest.approx(8 * 65536 / 7e6 * 1e3)
    assert h200.slowest == "input"
    assert times(replace(HOST, host_reads=1e12)).slowest == "elementwise"
    assert times(replace(EIGHT_HOSTS, host_reads=1e12, dim=8, cat=256)).slowest == "matmul"


def test_bounds_of_a_step():
    t = times(replace(EIGHT_HOSTS, host_reads=1e12))
    own = t.matmul + t.elementwise + t.rows
    assert t.overlapped == pytest.approx(max(own, t.network))
    assert t.serial == pytest.approx(own + t.nvlink + t.network)
    slow = times(replace(EIGHT_HOSTS, host_reads=1.0))
    assert slow.overlapped == slow.serial == slow.input


@pytest.mark.parametrize(
    ("gpus", "columns", "named"), [(0, 1, "gpus 0"), (12, 1, "gpus 12"), (8, 3, "columns 3"), (4, 8, "columns 8")]
)
def test_a_plan_that_does_not_divide_is_refused(gpus, columns, named):
    with pytest.raises(ValueError, match=named):
        Plan(gpus, "h100", columns=columns)


def test_ids_that_are_not_routed_just_fit_past_the_largest_table():
    assert MAX_TABLE_ROWS + 64 * EIGHT_HOSTS.ids == 2**31


def _output(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    main(command.split()[3:])
    return capsys.readouterr().out.splitlines()


def test_json_lines_have_what_the_table_has(capsys):
    lines = _output("python -m benchmarks.scaling --gpus 1 16 --gpu h100", capsys)
    found = [json.loads(line) for line in lines if line.startswith("{")]
    assert [(f["gpus"], f["columns"], f["gpu"]) for f in found] == [(1, 1, "h100"), (16, 8, "h100")]
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]
    assert len(rows) > 25
    for name, *shown in rows:
        for text, figure in zip(shown, (f[name] for f in found), strict=True):
            assert (
                text == figure
                if isinstance(figure, str)
                else float(text.replace(",", "")) == pytest.approx(figure, 0.005)
            )


def test_the_page_quotes_the_output(capsys):
    """Every table under a command: its header and each of its rows are printed by that command, in that order."""
    quoted = re.findall(r"^    (python -m benchmarks\.scaling.*)\n\n((?:\|.*\n)+)", PAGE.read_text(), re.M)
    assert len(quoted) == PAGE.read_text().count("    python -m benchmarks.scaling") >= 5
    for command, table in quoted:
        printed = [line for line in _output(command, capsys) if line.startswith("|")]
        rows = table.splitlines()
        assert rows[:2] == printed[:2]
        assert rows == [line for line in printed if line in rows], command
    assert quoted[0][0] == "python -m benchmarks.scaling"
    assert quoted[0][1].splitlines() == [line for line in _output(quoted[0][0], capsys) if line.startswith("|")]
