"""The docs as a site: every link and anchor leads somewhere, and no page needs another host, or a server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.chromium import CHROMIUM, Page

ROOT = Path(__file__).parents[2]
LOADED = re.compile(r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\ssrc=["']?([^"'\s>]+)""")
SHEETS = re.compile(r"""<link\b(?=[^>]*rel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*?href=["']?([^"'\s>]+)""")
IN_SHEETS = re.compile(r"""(?:url\(|@import )["']?([^"')\s]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # a notice of the theme about MkDocs 2, on stderr
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_every_page_is_there_and_loads_nothing_from_another_host(site: Path) -> None:
    sources = {page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").rglob("*.md")}
    pages = {page.relative_to(site).with_suffix("") for page in site.rglob("*.html")}
    assert sources == pages - {Path("404")}
    assert not list(site.rglob("*.py"))
    outside = []
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = file.read_text()
        links = IN_SHEETS.findall(text) if file.suffix == ".css" else [*LOADED.findall(text), *SHEETS.findall(text)]
        assert links or file.suffix == ".css"
        outside += [f"{file.relative_to(site)}: {link}" for link in links if re.match(r"(https?:)?//", link)]
    assert not outside


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_page_on_a_disk_searches_and_fits_a_phone(site: Path, tmp_path: Path) -> None:
    page = Page(tmp_path)
    try:
        page.look(390)
        for path in ("index.html", "explanation/results.html", "reference/config.html"):
            page.open((site / path).as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        page.look(1300)
        page.open((site / "index.html").as_uri())
        page.click(".md-search__input")
        page.type("quarantine")
        page.evaluate("document.activeElement.dispatchEvent(new KeyboardEvent('keyup'))")  # which a text alone has not
        page.wait("document.querySelector('.md-search-result__item a') !== null")
        assert not page.complaints
    finally:
        page.close()
