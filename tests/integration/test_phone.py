"""Every page on a phone, 390 pixels wide, and on a desk, in headless Chromium. Skipped without a browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.scorer import Scorer
from serving.service.app import create_app
from tests.support.chromium import CHROMIUM, Page
from tests.support.cli import Call
from tests.support.parity_runs import Line, changed
from tests.support.service_calls import running
from tt_jax.report.experiment import experiment_page
from tt_jax.report.parity import parity_page
from tt_jax.report.progressive import progressive_page

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")]
LONG = "a_name_of_a_column_that_somebody_generated_from_the_path_of_a_nested_record_and_never_looked_at_again"
WIDTHS = (390, 1280)
FRAMES = """[...document.querySelectorAll(".scroll")].map((frame) => ({
  scrolls: frame.scrollWidth > frame.clientWidth, wide: frame.clientWidth, focus: frame.tabIndex,
  hint: getComputedStyle(frame, "::before").display, shadow: getComputedStyle(frame).backgroundImage }))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    found = Page(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


def look(page: Page, url: str, width: int) -> None:
    page.look(width)
    page.open("about:blank")
    page.complaints.clear()
    page.open(url)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")


def fits(page: Page, file: Path) -> None:
    """Nothing but frames scrolls sideways; those that do say so; numbers stand right."""
    for width in WIDTHS:
        look(page, file.as_uri(), width)
        assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
        assert page.evaluate("[...document.querySelectorAll('table')].every((t) => t.closest('.scroll'))")
        frames = page.evaluate(FRAMES)
        assert frames
        for frame in frames:
            assert (frame["hint"] == "block") == frame["scrolls"]
            assert frame["shadow"].count("linear-gradient") == 4
            assert frame["wide"] <= width
        numbers = "[...document.querySelectorAll('td + td')].filter((c) => /^[-+−]?[\\d.,]+%?$/.test(c.innerText))"
        assert page.evaluate(f"{numbers}.every((c) => getComputedStyle(c).textAlign === 'right')")
        assert page.complaints == []


def written(folder: Path, text: str) -> Path:
    (folder / "page.html").write_text(text, encoding="utf-8")
    return folder / "page.html"


def test_a_comparison(page: Page, compared: Path) -> None:
    fits(page, compared / "report.html")
    look(page, (compared / "report.html").as_uri(), 390)
    assert any(frame["scrolls"] for frame in page.evaluate(FRAMES))


def test_what_is_in_a_log(page: Page, call: Call, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"{1.7e9 + 3600 * i:.0f},{rng.integers(9)},{'x' * 90}{rng.integers(3)},{rng.normal():.5f},{rng.integers(2)}"
        for i in range(300)
    ]
    (tmp_path / "log.csv").write_text(f"ts,user_id,{LONG},age,click\n" + "\n".join(rows) + "\n")
    code, *_ = call("inspect", f"--data={tmp_path / 'log.csv'}", "--labels=click", "--time=ts", f"--out={tmp_path}")
    assert code == 0
    assert LONG in (tmp_path / "inspect.html").read_text()
    fits(page, tmp_path / "inspect.html")


def effect(relative: float | None, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"control": 0.1, "treatment": 0.11, "relative": relative, "low": low, "high": high}


def experiment(effects: dict[str, Any]) -> dict[str, Any]:
    sums = {name: [1000.0, 1010.0] for name in ("requests", "impressions", "clicks", "conversions")}
    arms = {"shopping": {"bundle": f"runs/{LONG}/bundle", "fingerprint": "ab" * 32}}
    settings = {"requests": 2000, "design": "split", "candidates": 200, "passed": 32, "wanted": 10, "seed": 0}
    return {**settings, "control": arms, "treatment": arms, "groups": {"shopping": {"sums": sums, "effects": effects}}}


def test_an_experiment_begins_with_its_verdict(page: Page, tmp_path: Path) -> None:
    effects = {
        "ctr": effect(0.1, 0.05, 0.15), "recall": effect(-0.3, -0.4, -0.2), "cpc": effect(0.02, -0.01, 0.05),
        "conversions_per_request": effect(None, None, None),
    }  # fmt: skip
    fits(page, written(tmp_path, experiment_page(experiment(effects))))
    first, second = page.evaluate(
        "[...document.querySelectorAll('.verdict > p, .verdict li')].map((e) => e.textContent)"
    )
    assert first.startswith("The treatment differs from the control in 2 of 3 figures")
    assert second == "shopping: recall -30.00% [-40.00%, -20.00%], ctr +10.00% [+5.00%, +15.00%]"
    assert page.evaluate("document.querySelector('h1').nextElementSibling.className") == "verdict"
    nothing = experiment_page(experiment({"ctr": effect(0.1, -0.05, 0.15)}))
    assert "differs from the control in 0 of 1 figures" in nothing
    assert "no difference that is sure" in nothing


def test_progressive_validation(page: Page, tmp_path: Path) -> None:
    metrics = {"click": {"rows": 123_456, "logloss": 0.25, "auc": 0.7, "calibration": None}}
    hours = [{"hour": f"2026-01-01T{h:02}Z", "overall": {"click": {"logloss": 0.2 + h / 100}}} for h in range(5)]
    found = [{"path": f"prepared/{LONG}", "hours": hours, "overall": metrics}] * 2
    fits(page, written(tmp_path, progressive_page(found)))


def test_serving_against_training(
    page: Page, parity: Callable[..., dict[str, Any]], logged: list[Line], tmp_path: Path
) -> None:
    for lines in (logged, changed(logged, age=900.0)):
        fits(page, written(tmp_path, parity_page(parity(lines))))


def test_the_docs_of_the_service(page: Page, tiny_bundle: Path, tiny_index: Path) -> None:
    """Swagger UI, all of it opened; nothing is loaded from elsewhere, and a request can be tried."""
    scorer = Scorer.load(tiny_bundle, tiny_index, max_k=20, warm=False)
    with running(create_app(scorer)) as (host, port):
        url = f"http://{host}:{port}"
        for width in WIDTHS:
            look(page, f"{url}/schema", width)
            page.wait("document.querySelectorAll('.opblock').length >= 4")
            page.evaluate("document.querySelectorAll('.opblock-summary-control').forEach((b) => b.click())")
            page.wait("document.querySelectorAll('.opblock-body').length >= 4")
            page.wait("document.querySelector('.opblock-post .try-out__btn') !== null")
            models = "document.querySelectorAll('.model-box-control, .json-schema-2020-12-accordion')"
            page.evaluate(f"{models}.forEach((b) => b.click())")
            assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
        loaded = page.evaluate("performance.getEntriesByType('resource').map((e) => e.name)")
        assert len(loaded) >= 3
        assert all(name.startswith(url) for name in loaded)
        page.click(".opblock-post .try-out__btn")
        page.wait("document.querySelector('.opblock-post .execute') !== null")
        page.click(".opblock-post .execute")
        answer = page.wait("document.querySelector('.opblock-post .live-responses-table .microlight')?.textContent")
        ads = scorer.top_k([{}], 10)[0]
        assert [ad["id"] for ad in json.loads(answer)["ads"]] == [ad.id for ad in ads]
        assert page.complaints == []
