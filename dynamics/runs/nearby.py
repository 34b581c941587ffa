"""Find the base of a run that its settings name by a relative path."""

from __future__ import annotations

from pathlib import Path

#: folders above a run in which a base is looked for
ABOVE = 4


def nearby(name: str, folder: Path) -> str:
    """Return where a base lies that a setting names relative to the folder in which training was started, which no file says.

    Parameters
    ----------
    name : path, or Hub id, of the base.
    folder : of the run. A relative path is looked for here, in the run's folder, and in those above it.

    Returns
    -------
    The first of these that exists, else ``name``.
    """
    if Path(name).is_absolute():
        return name
    parents = (Path(), folder, *folder.resolve().parents[:ABOVE])
    return next((str(parent / name) for parent in parents if exists(str(parent / name))), name)


def exists(name: str) -> bool:
    """Tell whether there is a file or folder of a name; a text that is no path names none."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False
