"""`tfds build`: KuaiRand-Pure, joined by our recipe, from files that you have downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import tensorflow_datasets as tfds

from input_pipeline.datasets.columns import examples, features
from input_pipeline.recipes import kuairand

_GET = """KuaiRand-Pure is to be downloaded from its owners, https://kuairand.com (doi 10.1145/3511808.3557624), and its
CSV files (log_standard_4_22_to_5_08_pure.csv, user_features_pure.csv, video_features_basic_pure.csv) put into the
manual directory: `tfds build --manual_dir=FOLDER`."""


class Builder(tfds.core.GeneratorBasedBuilder):
    """The log of a short-video feed, joined with what is known of user and video before it begins."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = _GET

    def _info(self) -> tfds.core.DatasetInfo:
        schema = kuairand.schema()
        columns, optional = _columns()
        return self.dataset_info_from_configs(
            description="KuaiRand-Pure: click, long view and like of a short-video feed.",
            homepage="https://kuairand.com",
            features=features(columns, optional, schema),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        source = Path(dl_manager.manual_dir)
        splits = {chunk.split for chunk in kuairand.read(source)}
        return {split: self._generate_examples(source, split) for split in kuairand.SPLITS if split in splits}

    def _generate_examples(self, source: Path, split: str) -> Any:
        return examples(kuairand.read(source), split, _columns()[1])


def _columns() -> tuple[pa.Schema, list[str]]:
    """What the recipe joins, by its schema. Any feature may be null, so the whole numbers among them are optional."""
    schema = kuairand.schema()
    fields: dict[str, pa.DataType] = {"tab": pa.int64(), **dict.fromkeys(kuairand.LABELS.values(), pa.int64())}
    fields |= {"user_id": pa.int64(), "video_id": pa.int64(), "time_ms": pa.int64()}
    optional = []
    for feature in schema.features:
        one = pa.int64() if feature.dtype == "int" else pa.string()
        if feature.name in fields:
            continue
        if feature.kind == "numeric":
            fields[feature.name] = pa.float64()
        elif feature.kind == "categorical":
            fields[feature.name] = one
            if feature.dtype == "int":
                optional.append(feature.name)
        else:
            fields[feature.name] = pa.list_(one)
    return pa.schema(list(fields.items())), optional
