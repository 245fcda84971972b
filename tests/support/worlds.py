"""A small AdWorld."""

from __future__ import annotations

from input_pipeline.adworld.simulate import AdWorldConfig

CONFIG = AdWorldConfig(users=200, ads=200, advertisers=20, requests_per_day=150, days=4, new_ads_per_day=6)
