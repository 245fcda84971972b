"""What `tt-jax init` makes of logs in the shapes of public ones; `prepare` and `train` take it as it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.infer_schema.write import infer_recipe
from tests.support.public_logs import LOGS, ROWS
from tt_jax.cli.main import main
from tt_jax.cli.python_file import load_python

SMALL_MODEL = (
    "--config.precision=f32", "--config.model.kind=mlp", "--config.model.mlp=8", "--config.model.output_dim=4",
)  # fmt: skip
TRAINED = ("movielens", "shop", "criteo_uplift")


def call(*arguments: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert end.value.code == 0


@pytest.mark.parametrize("name", LOGS)
def test_a_log_in_the_shape_of_a_public_one(name: str, tmp_path: Path) -> None:
    write, expected = LOGS[name]
    source, out, prepared = tmp_path / "data", tmp_path / "mine.py", tmp_path / "prepared"
    source.mkdir()
    write(source)
    found = infer_recipe(str(source), out)
    schema, kinds = found.schema, {f.name: f.kind for f in found.schema.features}
    assert {t.label for t in schema.tasks} == set(expected.tasks)
    assert (schema.user_id, schema.ad_id, schema.time) == (expected.user, expected.ad, expected.time)
    assert {n: kinds.get(n) for n in expected.kinds} == expected.kinds
    assert not set(expected.out) & set(kinds)
    for text in expected.text:
        assert text in found.text

    out.write_text(found.text)
    assert schema == load_python(out, "mine", "test", ValueError).SCHEMA  # what is written is what was found
    call("prepare", out, f"--source={source}", f"--out={prepared}")
    splits = PreparedSet.open(prepared).manifest.splits
    rows = {split: sum(c.rows for c in scenarios.values()) for split, scenarios in splits.items()}
    assert sum(rows.values()) == ROWS
    assert min(rows.values()) >= ROWS // 20
    if name in TRAINED:
        call(
            "train", f"--config={out}", f"--workdir={tmp_path / 'run'}", f"--config.data.path={prepared}", *SMALL_MODEL
        )
        last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["step"] == rows["train"] // 16
