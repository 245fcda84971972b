"""What surrounds the code: the workflow runs what `.ci/run` runs, versions agree, and every page leads somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
YAML = [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", ".github/PULL_REQUEST_TEMPLATE.md")


@pytest.mark.parametrize("path", YAML, ids=lambda p: p.name)
def test_a_yaml_file_is_a_group_of_keys(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_the_workflow_runs_all_on_the_first_python_and_units_on_the_others() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    steps = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert steps["all"] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert any("tests/unit" in run for run in steps["unit"])
    first = jobs["all"]["steps"][1]["with"]["python-version"]
    assert PROJECT["requires-python"] == f">={first}"
    assert jobs["unit"]["strategy"]["matrix"]["python"] == ["3.12", "3.13"]


def test_the_first_entry_of_the_changelog_is_of_this_version() -> None:
    entries = re.findall(r"^## \[([^\]]+)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert entries[0][0] == PROJECT["version"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d|unreleased", date) for _, date in entries)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_to_files(page: str) -> None:
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
    for path in re.findall(r"`(tests/[\w/]+|tt_jax/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


def test_the_table_of_versions_is_that_of_the_code() -> None:
    """`docs/reference/compatibility.md`: what this version writes and reads of each kind."""
    from input_pipeline.blocks import manifest
    from serving.index import ad_index, compaction, delta, journal
    from serving.parity import request_log
    from serving.scoring import compile_cache
    from tt_jax.bundle import reader
    from tt_jax.calibration import calibrate
    from tt_jax.runs import checkpoints, record

    page = (ROOT / "docs" / "reference" / "compatibility.md").read_text()
    rows = re.findall(r"^\| ([\w ]+) \| [^|]+ \| (?:\d|none) \| (\d) \| ([\d, ]+) \|$", page, re.MULTILINE)
    modules = [manifest, record, checkpoints, calibrate, reader, ad_index, delta, journal, compaction]
    known = [module.FORMAT.reads for module in (*modules, request_log, compile_cache)]
    assert [tuple(map(int, reads.split(", "))) for _, _, reads in rows] == known
    assert [int(writes) for _, writes, _ in rows] == [reads[-1] for reads in known]
