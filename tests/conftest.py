"""Strict numerics for every test: no implicit dtype promotion. Warnings are errors (pyproject.toml)."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from tests.support.paths import ROOT, processor
from tests.support.shared import built_once

if TYPE_CHECKING:
    from input_pipeline.runner import OnRay
    from serving.scorer import Scorer
    from tests.support.cli import Call

# Set before jax is imported, and inherited by the processes that tests start. Workers and runs share one cache of
# compiled programs, for this version of JAX and this kind of processor: many tests compile the same training step.
_KIND = hashlib.sha256(f"{version('jax')} {version('jaxlib')} {processor()}".encode()).hexdigest()[:16]
_COMPILED = ROOT / ".pytest_cache" / f"compiled-{_KIND}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

pytest_plugins = ("tests.support.parity_runs",)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line, called in this process."""
    from tests.support.cli import Call

    return Call(capsys)


@pytest.fixture(scope="session")
def prepared_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of the tiny schema: splits train and eval, two scenarios, several blocks."""
    from input_pipeline.prepare.sequential import prepare
    from input_pipeline.readers import Chunk
    from tests.support import tiny

    rng = np.random.default_rng(0)

    def chunks() -> Iterator[Chunk]:
        for split, rows in (("train", tiny.TRAIN_ROWS), ("eval", tiny.EVAL_ROWS)):
            yield Chunk(split, f"{split}.parquet", 0, pa.table(tiny.columns(rng, rows)))

    def build(out: Path) -> None:
        prepare(tiny.SCHEMA, chunks(), out, block_rows=256, ads=tiny.ads_table(rng, 40))

    return built_once(tmp_path_factory, "prepared", build)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tiny model with random weights."""
    from tests.support import tiny
    from tt_jax.bundle.writer import write_bundle

    def build(out: Path) -> None:
        params, tables = tiny.weights()
        write_bundle(
            out,
            schema=tiny.SCHEMA,
            config=tiny.CONFIG,
            params=params,
            tables=tables,
            metrics={},
            golden_rows=tiny.golden_rows(np.random.default_rng(1), 8),
            platforms=("cpu",),
        )

    return built_once(tmp_path_factory, "bundle", build)


@pytest.fixture(scope="session")
def tiny_index(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 200 ads, four in five eligible, made by the tiny bundle."""
    from serving.index.ad_index import index_table
    from tests.support import tiny
    from tt_jax.bundle.reader import Bundle

    def build(out: Path) -> None:
        index_table(Bundle.load(tiny_bundle), tiny.ads_table(np.random.default_rng(2), 200)).save(out)

    return built_once(tmp_path_factory, "index", build)


@pytest.fixture(scope="session")
def compared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared set of `tests.support.tiny_comparison`."""
    from tests.support.tiny_comparison import prepare_splits

    return built_once(tmp_path_factory, "compared_data", prepare_splits)


@pytest.fixture(scope="session")
def compared(compared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished comparison of pooled and split."""
    from tests.support.tiny_comparison import compare_arguments
    from tt_jax.cli.main import main

    def build(out: Path) -> None:
        with pytest.raises(SystemExit) as exit_:
            main(compare_arguments(compared_data, out))
        assert exit_.value.code == 0

    return built_once(tmp_path_factory, "comparison", build)


@pytest.fixture(scope="session")
def told_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of `tiny.TOLD`, whose queries tell the scenario: splits train and eval."""
    from input_pipeline.prepare.sequential import prepare
    from input_pipeline.readers import Chunk
    from tests.support import tiny

    rng = np.random.default_rng(5)

    def chunks() -> Iterator[Chunk]:
        for split in ("train", "eval"):
            yield Chunk(split, f"{split}.parquet", 0, pa.table(tiny.told_columns(rng, tiny.TRAIN_ROWS)))

    def build(out: Path) -> None:
        prepare(tiny.TOLD, chunks(), out, block_rows=512, ads=tiny.ads_table(rng, 40))

    return built_once(tmp_path_factory, "told", build)


@pytest.fixture(scope="session")
def told_run(told_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a short run on it, with checkpoints of four steps."""
    import dataclasses

    from tests.support import tiny
    from tt_jax.config import TrainConfig
    from tt_jax.training.loop import train

    def build(workdir: Path) -> None:
        data = dataclasses.replace(tiny.CONFIG.data, path=str(told_path))
        saves = TrainConfig(epochs=2, save_every=60, keep_last=4)
        train(dataclasses.replace(tiny.CONFIG, data=data, train=saves), workdir)

    return built_once(tmp_path_factory, "told_run", build)


@pytest.fixture(scope="session")
def warm_scorer(tiny_bundle: Path, tiny_index: Path) -> Scorer:
    """Of the tiny pair with k up to 20, and room for new ads. For others to be `like` it: compiling takes seconds."""
    from serving.scorer_updates import load

    return load(tiny_bundle, tiny_index, max_k=20, live=True)


@pytest.fixture(scope="session")
def scenario_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `standard`, `shopping` and `better`, each of a bundle and an index of the same ads. The first was trained
    on that scenario, the others on shopping; their queries tell the scenario."""
    import dataclasses

    from serving.index.ad_index import index_table
    from tests.support import tiny
    from tt_jax.bundle.reader import Bundle
    from tt_jax.bundle.writer import write_bundle

    def build(out: Path) -> None:
        for seed, name in enumerate(("standard", "shopping", "better")):
            scenarios = ("standard" if name == "standard" else "shopping",)
            params, tables = tiny.weights(seed, tiny.TOLD)
            write_bundle(
                out / name / "bundle",
                schema=tiny.TOLD,
                config=dataclasses.replace(
                    tiny.CONFIG, data=dataclasses.replace(tiny.CONFIG.data, scenarios=scenarios)
                ),
                params=params,
                tables=tables,
                metrics={},
                golden_rows=tiny.golden_rows(np.random.default_rng(1), 2),
                platforms=("cpu",),
            )
            ads = tiny.ads_table(np.random.default_rng(2), 200)
            index_table(Bundle.load(out / name / "bundle"), ads).save(out / name / "index")

    return built_once(tmp_path_factory, "scenario_pairs", build)


@pytest.fixture(scope="session")
def on_ray() -> Iterator[OnRay]:
    """A real Ray cluster on this machine, of two worker processes. It takes seconds to start: share it."""
    from input_pipeline.runner import OnRay

    cluster = OnRay(workers=2)
    with warnings.catch_warnings():
        # JAX says so where tests before this one have used it; Ray's child becomes another program at once.
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        cluster.__enter__()
    yield cluster
    cluster.__exit__()


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Puts back what `serving.log_events.configure` and the compile cache set for a whole process."""
    root, ours, hook = logging.getLogger(), logging.getLogger("serving"), threading.excepthook
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    logging.captureWarnings(False)
    logging.getLogger("py.warnings").filters.clear()
    root.handlers[:], threading.excepthook = handlers, hook
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
