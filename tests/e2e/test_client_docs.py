"""The Python of docs/how-to/call_the_service.md is run as it stands there, on the tiny bundle and index."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.scorer import Scorer
from serving.service.app import create_app
from tests.support import tiny
from tests.support.paths import ROOT
from tests.support.service_calls import running
from tt_jax.features.encoder import Encoder

PAGE = ROOT / "docs" / "how-to" / "call_the_service.md"


@pytest.fixture(scope="module")
def scorer(tiny_bundle: Path, tiny_index: Path) -> Scorer:
    return Scorer.load(tiny_bundle, tiny_index, max_k=100, warm=False)


def test_the_code_of_the_page(
    scorer: Scorer, tiny_bundle: Path, tiny_index: Path, capsys: pytest.CaptureFixture
) -> None:
    http, embedded, portable = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    with running(create_app(scorer)) as (host, port):
        found = _run(http.replace("127.0.0.1:8080", f"{host}:{port}").replace("deadline_s=0.5", "deadline_s=60"))
    assert found["best"].id == scorer.top_k([{"country": "de", "age": 30}], 1)[0][0].id
    assert [len(answer.ads) for answer in found["several"]] == [3, 3]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith(f"{scorer.fingerprint} {scorer.index_id}")
    assert printed[1] == re.search(r"print\(e\)  # (.*)", http)[1]  # type: ignore[index]

    paths = {"bundles/kuairand": str(tiny_bundle), "indexes/kuairand": str(tiny_index)}
    for path, ours in paths.items():
        embedded, portable = embedded.replace(path, ours), portable.replace(path, ours)
    embedded = embedded.replace(f'"{tiny_index}")', f'"{tiny_index}", max_k=20, warm=False)')  # compile what is used
    assert "warm=False" in embedded
    expected = scorer.top_k([{"country": c} for c in ("de", "fr", "jp")], 5)
    assert _run(embedded)["answers"] == [[ad.id for ad in ads] for ads in expected]

    encoded = Encoder(tiny.SCHEMA).encode_queries([{"country": "de"}]).arrays
    found = _run(portable, query_ids=encoded["query_ids"], query_floats=encoded["query_floats"])
    ranked = [ad.id for ad in scorer.top_k([{"country": "de"}], 100)[0]]
    np.testing.assert_array_equal(found["best"][:10], ranked[:10])


def _run(code: str, **names: Any) -> dict[str, Any]:
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), names)
    return names
