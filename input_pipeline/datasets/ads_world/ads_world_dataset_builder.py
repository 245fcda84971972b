"""`tfds build`: AdWorld, the synthetic ads world, simulated."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import tensorflow_datasets as tfds

from input_pipeline.adworld.simulate import AdWorldConfig
from input_pipeline.datasets.columns import examples, features
from input_pipeline.recipes import adworld

_OUTCOMES = ("position", "click", "long_click", "conversion")  # null where the ad was not shown


@dataclasses.dataclass
class WorldConfig(tfds.core.BuilderConfig):
    """A world to simulate."""

    world: AdWorldConfig = dataclasses.field(default_factory=AdWorldConfig)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Impressions and auction candidates of a seeded world, by day: the last is `test`, the last but one `eval`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012
    BUILDER_CONFIGS = [  # noqa: RUF012
        WorldConfig(
            name="tiny",
            description="960 impressions",
            world=AdWorldConfig(users=200, ads=200, advertisers=20, requests_per_day=30, days=4, new_ads_per_day=6),
        ),
        WorldConfig(name="default", description="400 thousand impressions", world=AdWorldConfig()),
        WorldConfig(
            name="large",
            description="8 million impressions",
            world=AdWorldConfig(users=200_000, requests_per_day=100_000, days=10),
        ),
    ]

    def _world(self) -> AdWorldConfig:
        config: Any = self.builder_config
        return config.world

    def _info(self) -> tfds.core.DatasetInfo:
        world = self._world()
        few = AdWorldConfig(**{**vars(world), "requests_per_day": 1})
        columns = next(itertools.islice(adworld.read(few), 1)).table.schema
        return self.dataset_info_from_configs(
            description="AdWorld, a synthetic ads world whose true click probabilities are known.",
            features=features(columns, _OUTCOMES, adworld.schema(world)),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in adworld.SPLITS}

    def _generate_examples(self, split: str) -> Any:
        return examples(adworld.read(self._world(), (adworld.log_of(split)[1],)), split, _OUTCOMES)
