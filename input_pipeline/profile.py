"""The queries of a prepared set, counted as `serving.parity.profile` counts served ones."""

from __future__ import annotations

from collections.abc import Sequence

from input_pipeline.blocks.block import PreparedSet
from serving.parity.profile import Profile


def profile_queries(
    prepared: PreparedSet, splits: Sequence[str], scenarios: Sequence[str], known: Profile | None = None
) -> Profile:
    """Every row of some scenarios of some splits; what is missing is counted in the manifest.

    Raises `PreparedError` where there is nothing to read.
    """
    profile = Profile(prepared.schema, known)
    blocks = prepared.blocks(splits, scenarios, ("query_ids", "query_floats"))
    for i in range(len(blocks)):
        block = blocks[i]
        profile.add(block["query_ids"], block["query_floats"])
    for split in splits:
        for scenario in scenarios or prepared.schema.scenarios:
            counts = prepared.manifest.splits[split][scenario]
            for name in profile.missing:
                coverage = counts.coverage[name]
                profile.missing[name] += 0 if coverage is None else round(counts.rows * (1 - coverage))
    return profile
