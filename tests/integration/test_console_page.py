"""The page of the console in headless Chromium, clicked through, beside a second service. Skipped without a browser."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serving.console.console import ConsoleSettings
from serving.http.protocol import Headers, Reply, Request
from serving.routing.router import Routes
from serving.scorer import Scorer
from serving.service.app import Service, create_app
from serving.service.config import ServiceConfig
from serving.service.load_shedding import LoadShedder
from tests.support import tiny
from tests.support.chromium import CHROMIUM, Page
from tests.support.console_pairs import EVIL, evil_schema, in_memory
from tests.support.service_calls import running, shedder_of

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")]
READY = "document.querySelectorAll('.good').length === 2 && document.querySelector('[data-name=age]') !== null"
ROWS = """[...document.querySelectorAll("#results section")].map((s) => [...s.querySelectorAll("table")].map((t) =>
  [...t.querySelectorAll("tbody tr")].map((r) => [...r.children].map((c) => c.firstChild.textContent))))"""


@dataclass
class Heard:
    """A load shedder, the tokens that came with its requests, and the loop that it runs in."""

    shedder: LoadShedder
    tokens: set[str] = field(default_factory=set)
    loop: asyncio.AbstractEventLoop | None = None

    @property
    def headers(self) -> Headers:
        return self.shedder.headers

    def enter(self, request: Request) -> Reply | None:
        self.loop = asyncio.get_running_loop()
        if request.method != b"OPTIONS":
            self.tokens.add(dict(request.headers).get(b"authorization", b"").decode())
        return self.shedder.enter(request)

    def answer(self, request: Request, send: Callable[[Reply], None]) -> None:
        self.shedder.answer(request, send)


@dataclass
class Both:
    """Two services side by side, and the page of the first."""

    scorers: tuple[Scorer, Scorer]
    heard: tuple[Heard, Heard]
    service: Service  # the first one
    url: str
    page: Page

    def open(self, width: int = 1280, scheme: str = "light") -> Page:
        self.page.look(width, scheme)
        self.page.open("about:blank")
        self.page.complaints.clear()
        self.page.open(f"{self.url}/console")
        self.page.wait(READY)
        return self.page

    def swap(self, scorer: Scorer) -> None:
        """What the first service serves from now on, while it goes on."""
        assert self.heard[0].loop is not None
        change = self.service.batcher.between(lambda _: (scorer, None))
        asyncio.run_coroutine_threadsafe(change, self.heard[0].loop).result(60)


@pytest.fixture(scope="module")
def both(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    first = in_memory(tiny_bundle, evil_schema(), seed=3)
    second = in_memory(tiny_bundle, evil_schema(), seed=4, compiled=first)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        here, there = (f"http://127.0.0.1:{s.getsockname()[1]}" for s in (one, other))
        app = create_app(first, ServiceConfig(console=ConsoleSettings(beside=there)))
        beside = create_app(second, ServiceConfig(console=ConsoleSettings()))
        heard = Heard(shedder_of(app)), Heard(shedder_of(beside, origin=here))
        with running(app, one, heard[0]), running(beside, other, heard[1]):
            page = Page(tmp_path_factory.mktemp("chromium"))
            try:
                yield Both((first, second), heard, app.state.service, here, page)
            finally:
                page.close()


def fill(page: Page, **values: Any) -> None:
    for name, value in values.items():
        page.click(f"[data-name='{name}']")
        page.type(str(value))


def rank(page: Page) -> list[list[list[list[str]]]]:
    """Cells by service, table (ads, gates) and row."""
    page.evaluate("document.getElementById('results').replaceChildren()")
    page.click("[type=submit]")
    page.wait("document.querySelectorAll('#results section').length === 2")
    return page.evaluate(ROWS)


def test_a_query_is_tried_and_both_answers_are_compared(both: Both) -> None:
    page = both.open()
    page.click("#example")
    query = {name: value for name, value in both.scorers[0].examples[0].items() if value not in (None, [])}
    for name, value in query.items():
        text = page.evaluate(f"features.find((f) => f.name === {json.dumps(name)}).input.value")
        commas = name == "history"  # its ids have some, so it is shown as JSON
        assert text == (json.dumps(value, separators=(",", ":")) if commas else _typed(value))
    fill(page, k=7)
    found = rank(page)
    answers = [scorer.top_k([query], 7)[0] for scorer in both.scorers]
    places = [{ad.id: i for i, ad in enumerate(answer)} for answer in answers]
    for (table, gates), answer, there in zip(found, answers, reversed(places), strict=True):
        assert len(table) == 7
        for i, (row, ad) in enumerate(zip(table, answer, strict=True)):
            move = there[ad.id] - i if ad.id in there else None
            mark = "only here" if move is None else "=" if not move else f"{'▲' if move > 0 else '▼'} {abs(move)}"
            assert row[:3] == [str(i + 1), ad.id, mark]
            values = (ad.score, *ad.probabilities.values())
            assert [float(v) for v in row[3:]] == pytest.approx(list(values), rel=5e-4)  # four digits at least
        for column in zip(*(row[3:] for row in table), strict=True):
            assert len({len(v.partition(".")[2]) for v in column}) == 1, "the same decimals in all of a column"
        assert [row[0] for row in gates] == list(both.scorers[0].schema.heads)
        assert all(sum(map(float, row[1:])) == pytest.approx(1, abs=1e-3) for row in gates)
    assert len({row[2] for table, _ in found for row in table}) > 1
    assert {int(row[2].split()[1]) for row in found[0][0] if row[2][0] in "▲▼"}
    assert answers[0] != answers[1]


def _typed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def test_no_name_becomes_html(both: Both) -> None:
    page = both.open()
    page.click("#example")
    rank(page)
    text = page.evaluate("document.body.textContent")
    assert EVIL in page.evaluate("document.querySelector('dd').textContent")  # the name of the model
    assert f"{EVIL} task" in text
    assert "<b>" in text  # ids of ads
    assert page.evaluate("[...document.querySelectorAll('label')].some((l) => l.textContent.startsWith('<img'))")
    assert page.evaluate(f"[...document.querySelectorAll('option')].some((o) => o.value === {json.dumps(EVIL)})")
    assert page.evaluate("document.querySelectorAll('img, b, script').length") == 1  # its own script
    assert page.evaluate("document.title") == "tt-jax console"
    assert page.complaints == []


def test_an_error_is_shown_at_its_field(both: Both) -> None:
    page = both.open()
    fill(page, age="old")
    page.press("Enter")
    page.wait("document.querySelector('[aria-invalid]') !== null")
    assert page.evaluate("document.activeElement.dataset.name") == "age"
    told = "document.getElementById(document.activeElement.getAttribute('aria-describedby').split(' ')[1]).textContent"
    assert page.evaluate(told) == "expected a number, got 'old'"
    fill(page, age="30", interests="art, food", query_embedding="1, 2")
    page.press("Enter")
    page.wait(f"{told}.includes('3 numbers')")
    assert page.evaluate("document.activeElement.dataset.name") == "query_embedding"
    fill(page, query_embedding="0.5, 1e-3, -2", k=0)
    page.press("Enter")
    page.wait(f"{told}.includes('1..20')")
    assert page.evaluate("document.activeElement.dataset.name") == "k"
    chosen = [ad.id for ad in both.scorers[0].top_k([{}], 9)[0]][::2]
    fill(page, k=3, candidates=json.dumps(chosen))
    found = rank(page)
    assert page.evaluate("document.querySelector('[aria-invalid]')") is None
    query = {"age": 30, "interests": ["art", "food"], "query_embedding": [0.5, 1e-3, -2]}
    expected = both.scorers[0].top_k([query], 3, [chosen])[0]
    assert [row[1] for row in found[0][0]] == [ad.id for ad in expected]
    fill(page, candidates="nowhere")
    page.press("Enter")
    page.wait(f"{told}.includes('nowhere')")


def test_it_shows_how_the_service_does(both: Both) -> None:
    page = both.open()
    for _ in range(3):
        rank(page)
    facts = page.wait(
        """(() => { const f = Object.fromEntries([...document.querySelectorAll("#services section:first-child dl div")]
          .map((d) => [d.children[0].textContent.split(",")[0], d.children[1].textContent]));
        return Number(f.Answers) >= 3 ? f : null; })()"""
    )
    first = both.scorers[0]
    assert facts["Bundle"].startswith(first.fingerprint[:12])
    assert facts["Index"].startswith(first.index_id[:12])
    assert facts["Ads"] == f"{first.eligible} eligible of {first.index_size}"
    assert facts["p50"].split()[1] == "ms"
    assert float(facts["p50"].split()[0]) > 0
    assert facts["p99"] == "– of 100 answers or more"
    assert (facts["Queue"], facts["Not answered"]) == ("0 queries wait", "0")
    # 10 answers: 4 within 1 s, 4 more within 2 s, 2 later than all bounds.
    quantiles = page.evaluate("[0.2, 0.4, 0.6, 0.9].map((q) => quantile([1, 2], [4, 8, 10], q)).map(String)")
    assert quantiles == ["0.5", "1", "1.5", "Infinity"]
    assert page.evaluate("quantile([1, 2], [0, 0, 0], 0.5)") is None
    # One answer has no median and no p99; two have the one, a hundred the other.
    counts = "[1, 2, 99, 100].map((n) => [0.5, 0.99].map((q) => quantile([1, 2], [n, n, n], q) !== null))"
    assert page.evaluate(counts) == [[False, False], [True, False], [True, False], [True, True]]
    small = page.evaluate("column([0.25, 1e-12, 0, null]).map((cell) => cell.firstChild.textContent)")
    assert small == ["2.500e-1", "1.000e-12", "0.000e+0", "–"]
    assert page.evaluate("""readJson('{"ads":[{"id":9007199254740993,"score":1}]}').ads[0].id""") == "9007199254740993"


def test_it_learns_the_model_that_takes_anothers_place(both: Both, tiny_bundle: Path) -> None:
    page, other = both.open(), in_memory(tiny_bundle, seed=5)  # with a feature `user`, and other names
    fill(page, age=30)
    assert page.evaluate("document.querySelector('[data-name=user]')") is None
    try:
        both.swap(other)
        page.wait("document.querySelector('[data-name=user]') !== null")
        page.wait(f"services[0].state.bundle === {json.dumps(other.fingerprint)}")
        assert page.evaluate("document.querySelector('dd').textContent") == tiny.SCHEMA.name
        fields = [f.name for f in tiny.SCHEMA.tower_features("query")]
        assert page.evaluate("features.map((f) => f.name)")[: len(fields)] == fields  # then k and candidates
        assert page.complaints == []
    finally:
        both.swap(both.scorers[0])


def test_a_token_goes_to_its_own_service_only(both: Both) -> None:
    page = both.open()
    page.click("#services summary")
    page.click("#token0")
    page.type("a-token-of-the-tests")
    both.heard[0].tokens.clear()
    both.heard[1].tokens.clear()
    rank(page)
    assert "Bearer a-token-of-the-tests" in both.heard[0].tokens
    assert both.heard[1].tokens == {""}
    assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert both.open().evaluate("document.getElementById('token0').value") == ""


def test_a_service_that_does_not_answer_is_told(both: Both) -> None:
    page = both.open()
    page.evaluate("services[1].address = 'http://127.0.0.1:1', undefined")  # the page's policy forbids it too
    page.wait("document.querySelector('#services section:last-child [role=status]').textContent.includes('no answer')")
    found = rank(page)
    assert len(found[0]) == 2
    assert found[1] == []
    assert "no answer" in page.evaluate("document.querySelector('#results section:last-child').textContent")


def test_it_fits_a_phone_and_is_usable_by_keyboard(both: Both) -> None:
    for width in (390, 1280):
        page = both.open(width, "dark")
        page.click("#example")
        rank(page)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.evaluate("document.documentElement.clientWidth") == width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.look(1280, "light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    assert page.evaluate("[...document.querySelectorAll('input')].every((i) => i.labels.length === 1)")
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every((s) => s.tabIndex === 0)")
    page.evaluate("document.querySelector('[data-name=candidates]').focus()")
    page.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Rank"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.complaints == []


def test_a_model_of_several_is_chosen(tiny_bundle: Path, tmp_path: Path) -> None:
    first = in_memory(tiny_bundle, seed=3)
    scorers = {"first": first, "second": in_memory(tiny_bundle, seed=4, compiled=first)}
    routes = Routes({"first": {"first": 1.0}}, {"first": ("second", 1.0)})
    app = create_app(scorers, ServiceConfig(console=ConsoleSettings()), routes)
    with running(app) as (host, port):
        page = Page(tmp_path)
        try:
            page.open(f"http://{host}:{port}/console")
            page.wait("document.querySelector('[data-name=age]') !== null && services[0].choice.options.length === 3")
            assert page.evaluate("[...services[0].choice.options].map((o) => o.value)") == ["", "first", "second"]
            for name, chosen in (("first", ""), ("second", "second")):
                page.evaluate(f"services[0].choice.value = '{chosen}'")
                page.evaluate("services[0].choice.dispatchEvent(new Event('change'))")
                page.wait(f"services[0].state?.bundle === '{scorers[name].fingerprint}'")
                fill(page, age=30)
                page.evaluate("document.getElementById('results').replaceChildren()")
                page.click("[type=submit]")
                page.wait("document.querySelectorAll('#results section').length === 1")
                shown = [row[1] for row in page.evaluate(ROWS)[0][0]]
                assert shown == [str(ad.id) for ad in scorers[name].top_k([{"age": 30.0}], 10)[0]]
                page.click("#clear")
            page.wait("document.body.textContent.includes('Shadow: rank correlation')")
            assert not page.complaints
        finally:
            page.close()
