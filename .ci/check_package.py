"""Check what a release consists of: check_package.py SDIST WHEEL_FROM_SDIST WHEEL_FROM_CHECKOUT."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parent.parent


def hashes(wheel: str) -> dict[str, str]:
    """Return the hash of each file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def tracked(*patterns: str) -> set[str]:
    """Return the files that git tracks."""
    return set(subprocess.run(["git", "ls-files", *patterns], capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines())


def main(sdist: str, wheel: str, direct: str) -> None:
    """Check the files and the metadata."""
    files = hashes(wheel)
    assert files == hashes(direct), f"the sdist lacks files, or gives others: {sorted(files.items() ^ hashes(direct).items())}"
    package = {name for name in files if ".dist-info/" not in name}
    assert package == tracked("dynamics"), f"not what git tracks in dynamics/: {sorted(package ^ tracked('dynamics'))}"

    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    others = {name for name in inside if ".egg-info/" not in name} - package
    expected = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
    assert others == expected, f"the sdist has other files: {sorted(others ^ expected)}"

    (name,) = (name for name in files if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(name)
        commands = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    metadata = Metadata.from_email(text, validate=True)  # raises for a field that an index would refuse
    assert metadata.description is not None
    assert metadata.description.strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    assert (metadata.description_content_type or "").startswith("text/markdown")
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.license_files == ["LICENSE"]
    assert "dynamics = dynamics.__main__:main" in commands
    print(f"{Path(sdist).name}, {Path(wheel).name}: {len(package)} files of the package, as git tracks them")


if __name__ == "__main__":
    main(*sys.argv[1:])
