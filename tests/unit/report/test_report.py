"""The page of a report: whole, self-contained, every number led to its run; the curves that it draws."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from tests.support.html_page import Page
from tt_jax.report import plots
from tt_jax.report.comparison import render
from tt_jax.report.page import aligned


@pytest.fixture(scope="module")
def report(compared: Path) -> dict:
    return json.loads((compared / "report.json").read_text())


def test_the_page_needs_nothing_else(compared: Path) -> None:
    text = (compared / "report.html").read_text()
    page = Page(text)
    assert page.sources == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"url\((?!#)|@import", text)
    assert page.tags.count("svg") > 10
    assert all('role="img" aria-label="' in svg for svg in re.findall("<svg[^>]*>", text))


def test_every_number_leads_to_its_runs_and_their_fingerprints(compared: Path, report: dict) -> None:
    text = (compared / "report.html").read_text()
    page = Page(text)
    assert {link for link in page.links if not link.startswith("#")} == set()
    assert {link[1:] for link in page.links} <= page.ids
    for i, row in enumerate(report["rows"]):
        article = text[text.index(f'<article id="row-{i}">') :].split("</article>")[0]
        for name in (name for names in row["runs"] for name in names):
            assert f'href="#run-{name}"' in article
            section = text[text.index(f'<article id="run-{name}">') :].split("</article>")[0]
            for key in ("identity", "data", "weights", "fingerprint"):
                assert report["runs"][name][key] in section
    cells = re.findall(r"<td>(.*?)</td>", text.split('<section id="rows">')[0], re.DOTALL)
    numbers = [cell for cell in cells if re.search(r"\d", re.sub("<[^>]*>", "", cell))]
    assert len(numbers) > 50
    assert all('href="#row-' in cell for cell in numbers)


def test_the_page_shows_the_numbers_of_the_report(compared: Path, report: dict) -> None:
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", "", (compared / "report.html").read_text()))
    found = report["rows"][1]["metrics"]["test"]["shopping"]["click"]["logloss"]
    assert f"{found['mean']:.4f} ± {found['spread']:.4f}" in text
    low, high = (f"{100 * v:+.2f} %".replace("-", "−") for v in found["difference"]["relative_interval"])
    assert f"[{low}, {high}]" in text
    auc = report["rows"][1]["metrics"]["test"]["shopping"]["click"]["auc"]["difference"]
    figures = (f"{v:+.5f}".replace("-", "−") for v in (auc["absolute"], *auc["absolute_interval"]))
    assert "{} [{}, {}]".format(*figures) in text
    assert "difference" not in report["rows"][1]["metrics"]["test"]["shopping"]["click"]["ece"]


SECTIONS = {"learning", "calibration", "funnel", "regret", "gates"}


def test_every_section_is_there_and_every_picture_has_its_numbers(compared: Path, report: dict) -> None:
    text = (compared / "report.html").read_text()
    assert Page(text).ids >= SECTIONS

    def section(name: str) -> str:
        return text[text.index(f'<section id="{name}">') :].split("</section>")[0]

    pooled = report["rows"][0]
    recall = pooled["funnel"]["test_candidates"]["shopping"][1]["recall"]
    assert f"{recall['mean']:.3f}" in section("funnel")
    assert section("funnel").count("<svg") == 4  # two scenarios, the best 1 and the best 4
    expected = pooled["regret"]["test_candidates"]["scopes"]["overall"]["click"]
    for regret, what in ((expected, "rows, expected"), (expected["outcomes"], "rows with an outcome")):
        assert f"{regret['rows']:,} {what}" in section("regret")
        assert all(
            f"{f['mean']:.5f}" in section("regret") for f in regret.values() if isinstance(f, dict) and "mean" in f
        )
    before = pooled["before"]["test_candidates"]["overall"]["teacher_click"]
    after = pooled["metrics"]["test_candidates"]["overall"]["teacher_click"]
    assert all(f"{found['kl']['mean']:.4f}" in section("calibration") for found in (before, after))
    gates = report["runs"][pooled["runs"][0][0]]["gates"]["test"]["ad"]
    load = gates["scenarios"]["standard"]["tasks"]["click"]["load"]
    assert all(f">{share:.2f}<" in section("gates") for share in load)
    assert all(f">{name}</text>" in section("gates") for name in gates["experts"])
    assert section("gates").count("<figure>") == 8  # two rows, two towers, two splits
    for name in (name for row in report["rows"] for name in row["runs"][0]):
        assert f'href="#run-{name}"' in section("gates")
        assert report["runs"][name]["fingerprint"] in section("runs")


def test_names_are_text_and_what_a_report_does_not_have_is_not_shown(report: dict) -> None:
    changed = copy.deepcopy(report) | {"calibrate": "none", "world": None, "funnel": {}}
    del changed["splits"]["test_candidates"]  # half the pictures will do
    changed["rows"][0]["name"] = "<script>alert(1)</script>"
    for row in changed["rows"]:
        row["learning"] = {scenario: {} for scenario in row["learning"]}
        row["to_quality"] = {task: {} for task in row["to_quality"]}
        row["before"] = {
            s: {scope: {t: {} for t in tasks} for scope, tasks in of.items()} for s, of in row["before"].items()
        }
        row |= {"funnel": {}, "regret": {}}
    for run in changed["runs"].values():
        run |= {
            "calibration": None,
            "not_calibrated": {"click": "no <labels>"},
            "gates": {split: {} for split in run["gates"]},
        }
    text = render(changed)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "click is not calibrated: no &lt;labels&gt;" in text
    page = Page(text)
    assert not SECTIONS & page.ids
    assert {link[1:] for link in page.links} <= page.ids


def test_pictures_have_text_a_name_and_the_colours_of_the_page() -> None:
    drawn = [plots.Line(i, [0, 1], [0, i]) for i in range(10)]
    svg = plots.lines(drawn, 'losses of "a" & <b>', "examples", "log loss")
    assert svg == plots.lines(drawn, 'losses of "a" & <b>', "examples", "log loss")
    assert 'aria-label="losses of &quot;a&quot; &amp; &lt;b&gt;"' in svg
    assert ">log loss</text>" in svg
    assert "var(--series-7)" in svg
    assert set(re.findall("#[0-9a-f]{6}", svg)) <= {"#ffffff", "#000000"}
    whisker = plots.whiskers([plots.Whisker(0, "row <1>", 0.1, 0.05, 0.2)], "one", "difference")
    assert "row &lt;1&gt;" in whisker
    heat = plots.heat_map([[0.5, 0.25, 0.9]], ["click"], ["1", "2", "3"], "gates")
    assert ">0.50</text>" in heat
    assert "var(--paper)" in heat  # the number on a strong cell


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.5, 0.25, None, 0.0], ["1.5000", "0.2500", "–", "0.0000"]),
        ([12345.5, 20.0], ["12,345.50", "20.00"]),
        ([3.0, 12000.0], ["3", "12,000"]),
        ([2.5e-9, 1.0], ["2.500e-09", "1.000e+00"]),
        ([None, 0.0], ["–", "0"]),
        ([-0.5, float("inf")], ["-0.5000", "inf"]),
    ],
)
def test_numbers_of_a_column_have_the_same_decimals(values: list[float | None], expected: list[str]) -> None:
    assert aligned(values) == expected
