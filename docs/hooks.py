"""Hooks of the documentation's build: pages that show files from outside ``docs/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: Any) -> Files:
    """Add the changelog as a page, and the images of ``figures/`` that pages show."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "changelog.md", content=changelog))
    for path in sorted((ROOT / "figures").rglob("*.png")):
        if path.relative_to(ROOT / "figures").parts[0] not in ("default", "quick", "paper"):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files
