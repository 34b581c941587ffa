"""The version is the same in the package, its metadata, the changelog and the citation."""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

import dynamics

ROOT = Path(__file__).parent.parent
#: version, and date or ``unreleased``, of every section of the changelog, the newest first
SECTIONS = re.findall(r"^## (.*) \((.*)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def field(name: str) -> str | None:
    """Return a top-level field of ``CITATION.cff``."""
    found = re.search(rf"^{name}: *[\"']?(.*?)[\"']?$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else None


def test_every_section_of_the_changelog_is_a_release() -> None:
    headings = re.findall(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(headings) == len(SECTIONS)
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version, _ in SECTIONS)
    assert all(re.fullmatch(r"\d{4}-\d{2}-\d{2}", date) for _, date in SECTIONS[1:])
    versions = [tuple(map(int, version.split("."))) for version, _ in SECTIONS]
    assert versions == sorted(set(versions), reverse=True)


def test_the_version_is_that_of_the_newest_section() -> None:
    version, date = SECTIONS[0]
    assert dynamics.__version__ == version
    assert date == "unreleased" or re.fullmatch(r"\d{4}-\d{2}-\d{2}", date)
    assert 'version = { attr = "dynamics.__version__" }' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_citation_is_of_the_newest_release() -> None:
    released = [section for section in SECTIONS if section[1] != "unreleased"]
    expected = released[0] if released else (dynamics.__version__, None)
    assert (field("version"), field("date-released")) == expected


@pytest.mark.skipif("PYTHONPATH" in os.environ, reason="PYTHONPATH says which package is tested")
def test_the_package_that_is_tested_is_the_one_that_is_installed() -> None:
    installed = distribution("training-dynamics")
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable", False):
        folder = Path(url2pathname(urlsplit(origin["url"]).path)) / "dynamics"
    else:
        folder = Path(str(installed.locate_file("dynamics")))
    assert Path(dynamics.__file__).parent.resolve() == folder.resolve()
