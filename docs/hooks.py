"""Hooks of the documentation's build, for files that stand outside of ``docs/``: the changelog, and the images of ``figures/``.

Pages link to these by their paths in the repository, so that the links also work where the files are read without the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
#: a link from a page to one of these files
_OUTSIDE = re.compile(r"(?<=\]\()(?:\.\./)+(figures/[^)]*|CHANGELOG\.md)")


def on_files(files: Files, config: Any) -> Files:
    """Add the changelog as a page, and the images of ``figures/``, without those of folders that git ignores."""
    files.append(File.generated(config, "changelog.md", content=(ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    for path in sorted((ROOT / "figures").rglob("*.png")):
        if path.relative_to(ROOT / "figures").parts[0] not in ("default", "quick", "paper"):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links to these files lead to their copies in the site."""
    to_root = "../" * (len(Path(page.file.src_uri).parts) - 1)
    return _OUTSIDE.sub(lambda link: to_root + link[1].replace("CHANGELOG", "changelog"), markdown)
